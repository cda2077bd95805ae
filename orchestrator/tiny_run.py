"""Makes the small model: random weights, then vision grounded on synthetic scenes. No Ray is needed."""

from __future__ import annotations

import torch

from orchestrator.run_folder.folder import RunFolder, open_run
from policy.tiny.grounding import ground
from policy.tiny.model import build_tiny
from schemas.config import TinyConfig


def run_tiny(config: TinyConfig, *, overwrite: bool = False) -> RunFolder:
    """Builds and grounds the model as configured; the result is the run folder's export."""
    folder = open_run(config.run, config)
    torch.set_num_threads(config.threads)
    start = build_tiny(folder.root / "random", config.architecture, seed=config.run.seed)
    ground(
        start,
        folder.export,
        samples=config.samples,
        batch_rows=config.batch_rows,
        lr=config.lr,
        seed=config.run.seed,
    )
    return folder
