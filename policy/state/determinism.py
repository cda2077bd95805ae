"""Arithmetic that repeats bit for bit: the same inputs give the same sums, run after run, on the same machine.

Two things change the last bits otherwise: kernels that add in whatever order threads finish, and MKL, which picks its
inner loop by the alignment in memory of what it is given.
"""

from __future__ import annotations

import os

import torch

# Read by MKL and cuBLAS at their first use: one code path whatever the alignment; one workspace whatever the streams.
_ENVIRONMENT = {"MKL_CBWR": "AUTO,STRICT", "CUBLAS_WORKSPACE_CONFIG": ":4096:8"}


def be_deterministic() -> None:
    """Makes this process's arithmetic repeat exactly, or raise where an operation cannot.

    Call it before the process computes anything. Processes that it starts inherit it.
    """
    os.environ.update(_ENVIRONMENT)
    torch.use_deterministic_algorithms(True)
    torch.backends.cudnn.benchmark = False
