"""Sharded state on disk (torch.distributed.checkpoint), read without running what a file says.

torch reads its index, and what is not a tensor, with pickle, which can run any code. Here only the types that an index
is made of are looked up, and other values are read as torch.load(weights_only=True) does.
"""

from __future__ import annotations

import io
import pickle
import warnings
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from torch.distributed.checkpoint import FileSystemReader, FileSystemWriter, state_dict_loader, state_dict_saver
from torch.distributed.checkpoint.default_planner import DefaultLoadPlanner
from torch.distributed.checkpoint.metadata import Metadata, StorageMeta
from torch.distributed.checkpoint.planner import ReadItem

_INDEX = ".metadata"
_MODULES = ("torch.distributed.checkpoint.metadata", "torch.distributed.checkpoint.filesystem")
_NAMES = {
    ("torch", "Size"),
    ("torch.serialization", "_get_layout"),
    ("torch._utils", "_get_layout"),
    ("collections", "OrderedDict"),
    ("pathlib", "PosixPath"),
    ("pathlib", "Path"),
}


def write_state(state: dict[str, Any], folder: Path, group: dist.ProcessGroup | None) -> None:
    """Writes a state dictionary; every rank of `group` calls it (None: this process alone)."""
    with _quiet():
        state_dict_saver.save(
            state, storage_writer=FileSystemWriter(folder), process_group=group, no_dist=group is None
        )


def read_state(state: dict[str, Any], folder: Path) -> None:
    """Fills a state dictionary in place, whatever number of ranks wrote it. Every rank calls it.

    Raises pickle.UnpicklingError where a file holds anything but tensors and plain values.
    """
    with _quiet():
        state_dict_loader.load(
            state, storage_reader=_Reader(folder), planner=_Planner(), no_dist=not dist.is_initialized()
        )


def own_files(folder: Path, rank: int) -> list[Path]:
    """The files that a rank wrote into `folder`; the index is rank 0's."""
    return sorted(folder.glob(f"__{rank}_*")) + ([folder / _INDEX] if rank == 0 else [])


class _Unpickler(pickle.Unpickler):
    def find_class(self, module: str, name: str) -> Any:
        """The types of an index; anything else is refused."""
        allowed = module in _MODULES or (module, name) in _NAMES or (module == "torch" and _is_dtype(name))
        if not allowed:
            raise pickle.UnpicklingError(f"an index of a checkpoint names {module}.{name}, which it cannot hold")
        return super().find_class(module, name)


def _is_dtype(name: str) -> bool:
    return isinstance(getattr(torch, name, None), torch.dtype)


class _Reader(FileSystemReader):
    def read_metadata(self, *args: Any, **kwargs: Any) -> Metadata:
        """The index."""
        with (Path(self.path) / _INDEX).open("rb") as stream:
            metadata = _Unpickler(stream).load()
        metadata.storage_meta = metadata.storage_meta or StorageMeta()
        metadata.storage_meta.load_id = self.load_id
        return metadata


class _Planner(DefaultLoadPlanner):
    def load_bytes(self, read_item: ReadItem, value: io.BytesIO) -> None:
        """Reads the value once with weights_only, which refuses code, then as the base class does."""
        torch.load(value, weights_only=True)
        value.seek(0)
        super().load_bytes(read_item, value)


@contextmanager
def _quiet() -> Generator[None]:
    """A process without a group saves and loads alone, as it should; torch warns of it each time."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="torch.distributed is disabled")
        yield
