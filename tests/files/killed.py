"""Writes a folder and is killed at a rename: `python killed.py FOLDER RENAMES`, where 0 is the first one."""

import os
import sys
from pathlib import Path

from files.owned import writing_folder

left = int(sys.argv[2])


def count(event: str, _: object) -> None:
    global left
    if event == "os.rename":
        if left == 0:
            os._exit(9)
        left -= 1


sys.addaudithook(count)
with writing_folder(Path(sys.argv[1]), "test", overwrite=True) as fresh:
    (fresh / "a").write_text("new")
    (fresh / "deep").mkdir()
    (fresh / "deep" / "b").write_text("new")
