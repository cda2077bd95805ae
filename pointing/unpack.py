"""Images that lie inside a data file, as files of their own: what travels through a run is a path."""

from __future__ import annotations

import os
from pathlib import Path

from pointing.drawing import digest
from schemas.row_problem import FieldError


def unpacked(content: bytes, folder: str | None, field: str) -> Path:
    """The file in `folder` that holds these bytes, named by their digest; written whole where it is not there yet.

    Raises FieldError where no folder is given or it cannot be written.
    """
    if folder is None:
        remedy = "set data.unpack_dir to a folder for the images, which every node sees"
        raise FieldError(field, f"holds the image itself, {len(content)} bytes", remedy)
    file = Path(folder).resolve() / digest(content)
    try:
        if not (file.is_file() and file.stat().st_size == len(content)):
            file.parent.mkdir(parents=True, exist_ok=True)
            partial = file.with_name(f"{file.name}.{os.getpid()}.partial")
            partial.write_bytes(content)
            partial.replace(file)
    except OSError as error:
        remedy = "set data.unpack_dir to a folder that can be written"
        raise FieldError(field, f"cannot be written to {file} ({error.strerror})", remedy) from error
    return file
