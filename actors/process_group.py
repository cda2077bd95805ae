"""The process group of a sharded role: rank 0 offers an address, every rank joins."""

from __future__ import annotations

import datetime
import os
import socket

import ray
import torch
import torch.distributed as dist


def free_address() -> tuple[str, int]:
    """This node's address and a free port on it."""
    with socket.socket() as probe:
        probe.bind(("", 0))
        return ray.util.get_node_ip_address(), probe.getsockname()[1]


def join(rank: int, world: int, host: str, port: int, *, gpus: float, timeout_s: float) -> None:
    """Joins the group as `rank` of `world`; `timeout_s` bounds every collective. `gpus` are this rank's own."""
    # torch.distributed's own rendezvous variables, for libraries that read them.
    os.environ.update(RANK=str(rank), WORLD_SIZE=str(world), LOCAL_RANK="0")
    dist.init_process_group(
        "cpu:gloo,cuda:nccl" if gpus > 0 and torch.cuda.is_available() else "gloo",
        init_method=f"tcp://{host}:{port}",
        rank=rank,
        world_size=world,
        timeout=datetime.timedelta(seconds=timeout_s),
    )
