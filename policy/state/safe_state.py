"""Sharded state on disk (torch.distributed.checkpoint), read without running what a file says.

torch reads its index, and what is not a tensor, with pickle, which can run any code. Here only the types that an index
is made of are looked up, and other values are read as torch.load(weights_only=True) does.
"""

from __future__ import annotations

import io
import pickle
import re
import warnings
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, ClassVar

import torch
import torch.distributed as dist
from torch.distributed.checkpoint import state_dict_loader, state_dict_saver
from torch.distributed.checkpoint._traverse import set_element
from torch.distributed.checkpoint.default_planner import DefaultLoadPlanner
from torch.distributed.checkpoint.filesystem import (
    FileSystemReader,
    FileSystemWriter,
    _StorageInfo,  # pyright: ignore[reportPrivateUsage] (named in every index that is written)
)
from torch.distributed.checkpoint.metadata import (
    _MEM_FORMAT_ENCODING,  # pyright: ignore[reportPrivateUsage] (named in every index that is written)
    BytesStorageMetadata,
    ChunkStorageMetadata,
    Metadata,
    MetadataIndex,
    StorageMeta,
    TensorProperties,
    TensorStorageMetadata,
)
from torch.distributed.checkpoint.planner import ReadItem

_INDEX = ".metadata"
_DATA = re.compile(r"__\d+_\d+\.distcp")
# What torch 2.13 makes an index of; PosixPath as in those that name their own folder.
_TYPES = frozenset(
    {
        ("torch.distributed.checkpoint.metadata", each.__name__)
        for each in (
            Metadata,
            MetadataIndex,
            StorageMeta,
            BytesStorageMetadata,
            TensorStorageMetadata,
            TensorProperties,
            ChunkStorageMetadata,
            _MEM_FORMAT_ENCODING,
        )
    }
    | {
        ("torch.distributed.checkpoint.filesystem", _StorageInfo.__name__),
        ("torch.serialization", "_get_layout"),
        ("torch", "Size"),
        ("pathlib", "PosixPath"),
    }
    | {("torch", name) for name, value in vars(torch).items() if isinstance(value, torch.dtype)}
)


def write_state(state: dict[str, Any], folder: Path, group: dist.ProcessGroup | None) -> None:
    """Writes a state dictionary; every rank of `group` calls it (None: this process alone)."""
    with _quiet():
        state_dict_saver.save(
            state, storage_writer=FileSystemWriter(str(folder)), process_group=group, no_dist=group is None
        )


def read_state(state: dict[str, Any], folder: Path) -> None:
    """Fills a state dictionary in place, whatever number of ranks wrote it. Every rank calls it.

    Raises pickle.UnpicklingError where the index holds more than an index does, and torch's CheckpointException of one
    where the data holds more than tensors and plain values.
    """
    reader = _Reader(folder, _read_index(folder / _INDEX))
    with _quiet():
        state_dict_loader.load(state, storage_reader=reader, planner=_Planner(), no_dist=not dist.is_initialized())


def own_files(folder: Path, rank: int) -> list[Path]:
    """The files that a rank wrote into `folder`; the index is rank 0's."""
    return sorted(folder.glob(f"__{rank}_*")) + ([folder / _INDEX] if rank == 0 else [])


def _read_index(file: Path) -> Metadata:
    """An index, made of its own types only, that names files of its own folder only. Raises UnpicklingError."""
    try:
        index: object = _Unpickler(io.BytesIO(file.read_bytes())).load()
    except (pickle.UnpicklingError, OSError):
        raise
    except Exception as error:  # whatever broken bytes make of a reader
        raise pickle.UnpicklingError(f"{file.name} is not an index of a checkpoint: {error!r}") from error
    if not isinstance(index, Metadata) or not isinstance(index.storage_data, dict):
        raise pickle.UnpicklingError(f"{file.name} is not an index of a checkpoint")
    for stored in index.storage_data.values():
        plain = isinstance(stored, _StorageInfo) and not stored.transform_descriptors
        if not plain or not _DATA.fullmatch(str(stored.relative_path)):
            raise pickle.UnpicklingError(f"an index of a checkpoint names data of another place: {stored}")
    return index


# The one in Python: that in C offers no look at what a file does to what it has found.
_Plain: Any = pickle._Unpickler  # pyright: ignore[reportPrivateUsage]


class _Unpickler(_Plain):
    """Looks up the types of an index, and changes none."""

    dispatch: ClassVar[dict[int, Any]] = dict(_Plain.dispatch)

    def find_class(self, module: str, name: str) -> Any:
        """A type of an index by its own name; anything else, and anything inside of one, is refused."""
        if (module, name) not in _TYPES:
            raise pickle.UnpicklingError(f"an index of a checkpoint names {module}.{name}, which it cannot hold")
        return super().find_class(module, name)

    def load_build(self) -> None:
        """Sets fields of a value; of a type, it would change the type for the whole process."""
        if isinstance(self.stack[-2], type) or callable(self.stack[-2]):
            raise pickle.UnpicklingError("an index of a checkpoint changes a type, which it cannot")
        super().load_build()

    dispatch[pickle.BUILD[0]] = load_build


class _Reader(FileSystemReader):
    def __init__(self, folder: Path, index: Metadata) -> None:
        super().__init__(folder)
        self._index = index

    def read_metadata(self, *args: Any, **kwargs: Any) -> Metadata:
        """The index, which was read before: torch would read it with pickle."""
        self._index.storage_meta = self._index.storage_meta or StorageMeta()
        self._index.storage_meta.load_id = self.load_id
        return self._index


class _Planner(DefaultLoadPlanner):
    def load_bytes(self, read_item: ReadItem, value: io.BytesIO) -> None:
        """As the base class does, which would run what the value says."""
        place = self.mappings[read_item.dest_index.fqn]
        set_element(self.original_state_dict, place, torch.load(value, weights_only=True))


@contextmanager
def _quiet() -> Generator[None]:
    """A process without a group saves and loads alone, as it should; torch warns of it each time."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="torch.distributed is disabled")
        yield
