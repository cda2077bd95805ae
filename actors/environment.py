"""What an actor's process is given beside its work. Imports nothing: it is needed before anything is loaded."""

from __future__ import annotations


def environment(gpus: float, threads: int) -> dict[str, str]:
    """Variables of an actor's process. Spinning threads on shared cores cost a factor of 2 to 4: they wait.

    >>> environment(gpus=0, threads=2)["OMP_NUM_THREADS"]
    '2'
    """
    variables = {
        "OMP_NUM_THREADS": str(threads),
        "OMP_WAIT_POLICY": "PASSIVE",
        "TOKENIZERS_PARALLELISM": "false",
        "HF_HUB_OFFLINE": "1",
    }
    if gpus == 0:
        # No compiler is needed where nothing is compiled; GPUs keep their compiled kernels.
        variables |= {"TORCHDYNAMO_DISABLE": "1", "VLLM_ENABLE_V1_MULTIPROCESSING": "0"}
    return variables


def forkable(gpus: float, threads: int) -> bool:
    """Whether such a process may be forked from one that has imported everything: neither CUDA nor a pool of threads
    lives on in a fork.

    >>> forkable(0, 1), forkable(0, 4), forkable(1, 1)
    (True, False, False)
    """
    return gpus == 0 and threads == 1
