"""One rank of a sharded role: rank 0 offers an address, every rank joins the process group."""

from __future__ import annotations

import datetime
import os
import socket

import ray
import torch
import torch.distributed as dist

from policy.state.determinism import be_deterministic
from schemas.config import TrainConfig


class RankActor:
    """Rank `rank` of `world`; every method is called on all ranks at once, with the same arguments."""

    def __init__(self, rank: int, world: int, config: TrainConfig, total_steps: int) -> None:
        self._rank, self._world = rank, world
        self._config = config
        self._total_steps = total_steps
        torch.set_num_threads(config.resources.threads)
        if config.run.deterministic:
            be_deterministic()

    def address(self) -> tuple[str, int]:
        """A host and a free port for the process group; asked of rank 0."""
        with socket.socket() as probe:
            probe.bind(("", 0))
            return ray.util.get_node_ip_address(), probe.getsockname()[1]

    def join(self, host: str, port: int, *, gpus: float) -> None:
        """Joins the process group; resources.collective_timeout_s bounds every collective. `gpus` are this rank's."""
        # torch.distributed's own rendezvous variables, for libraries that read them.
        os.environ.update(RANK=str(self._rank), WORLD_SIZE=str(self._world), LOCAL_RANK="0")
        dist.init_process_group(
            "cpu:gloo,cuda:nccl" if gpus > 0 and torch.cuda.is_available() else "gloo",
            init_method=f"tcp://{host}:{port}",
            rank=self._rank,
            world_size=self._world,
            timeout=datetime.timedelta(seconds=self._config.resources.collective_timeout_s),
        )

    def close(self) -> None:
        """Leaves the process group."""
        dist.destroy_process_group()
