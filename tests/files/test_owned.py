"""Folders and files that are written without losing what is there."""

from __future__ import annotations

import json
import os
import stat
import subprocess
import sys
from pathlib import Path

import pytest

from files.crash_safe import sealed
from files.owned import LIST, ExistsError, contents, holds, refuse_file, refuse_folder, write_file, writing_folder

KILLED = Path(__file__).with_name("killed.py")


def write(folder: Path, *, overwrite: bool = False, **files: str) -> None:
    with writing_folder(folder, "test", overwrite=overwrite, about={"files": files}) as fresh:
        for name, text in files.items():
            place = fresh / name.replace("__", "/")
            place.parent.mkdir(exist_ok=True)
            place.write_text(text)


def fail(folder: Path, error: type[BaseException]) -> None:
    with writing_folder(folder, "test", overwrite=True) as fresh:
        (fresh / "a").write_text("2")
        raise error


def read(folder: Path) -> dict[str, str]:
    found = {p.relative_to(folder).as_posix(): p.read_text() for p in folder.rglob("*") if p.is_file()}
    return {name: text for name, text in found.items() if name != LIST}


def test_a_new_or_empty_folder_is_written_and_nothing_is_left_beside(tmp_path: Path) -> None:
    write(tmp_path / "new" / "deep", a="1", images__b="2")
    (tmp_path / "empty").mkdir()
    write(tmp_path / "empty", a="1")
    assert read(tmp_path / "new" / "deep") == {"a": "1", "images/b": "2"}
    assert read(tmp_path / "empty") == {"a": "1"}
    assert sorted(path.name for path in tmp_path.iterdir()) == ["empty", "new"]
    assert [path.name for path in (tmp_path / "new").iterdir()] == ["deep"]


def test_a_folder_with_anything_in_it_is_refused_and_stays(tmp_path: Path) -> None:
    (tmp_path / "thesis.txt").write_text("precious")
    with pytest.raises(ExistsError, match=r"is not empty \(thesis.txt\); name another, or add --overwrite"):
        write(tmp_path, a="1")
    assert read(tmp_path) == {"thesis.txt": "precious"}
    write(tmp_path / "ours", a="1")
    with pytest.raises(ExistsError, match="holds what test wrote; add --overwrite to replace it"):
        write(tmp_path / "ours", a="2")
    assert read(tmp_path / "ours") == {"a": "1"}


def test_with_overwrite_ours_is_replaced_and_foreign_files_stay(tmp_path: Path) -> None:
    folder = tmp_path / "folder"
    write(folder, a="1", images__b="1", gone__c="1")
    (folder / "images" / "mine.png").write_text("mine")
    (folder / "notes").mkdir()
    (folder / "notes" / "n.txt").write_text("mine too")
    (folder / "link").symlink_to("notes")
    write(folder, overwrite=True, a="2", images__b="2")
    assert read(folder) == {"a": "2", "images/b": "2", "images/mine.png": "mine", "notes/n.txt": "mine too"}
    assert (folder / "link").readlink() == Path("notes")
    assert not (folder / "gone").exists()
    assert [path.name for path in tmp_path.iterdir()] == ["folder"]
    assert contents(folder).foreign == ("images/mine.png", "link", "notes/n.txt")


def test_overwrite_replaces_no_file_that_changed_or_is_not_ours(tmp_path: Path) -> None:
    write(tmp_path / "changed", a="1", b="1")
    (tmp_path / "changed" / "b").write_text("edited")
    with pytest.raises(ExistsError, match=r"changed since test wrote it, and would be replaced: b; move it away"):
        write(tmp_path / "changed", overwrite=True, a="2", b="2")
    (tmp_path / "foreign").mkdir()
    (tmp_path / "foreign" / "a").write_text("mine")
    with pytest.raises(ExistsError, match="not written by this program, and would be replaced: a"):
        write(tmp_path / "foreign", overwrite=True, a="2")
    assert read(tmp_path / "changed") == {"a": "1", "b": "edited"}
    assert read(tmp_path / "foreign") == {"a": "mine"}
    assert sorted(path.name for path in tmp_path.iterdir()) == ["changed", "foreign"]


def test_a_name_that_is_known_to_be_needed_is_refused_before_the_work(tmp_path: Path) -> None:
    (tmp_path / "README.md").write_text("mine")
    refuse_folder(tmp_path, overwrite=True, names=["config.json"])
    with pytest.raises(ExistsError, match=r"README\.md"):
        refuse_folder(tmp_path, overwrite=True, names=["README.md"])


def test_a_list_that_names_files_of_other_places_removes_none(tmp_path: Path) -> None:
    """Such as one in a folder from somebody else."""
    (tmp_path / "precious").write_text("1")
    write(tmp_path / "folder", a="1")
    made = (tmp_path / "folder" / LIST).read_text()
    listed = json.loads(made)
    listed["files"] = {"../precious": listed["files"]["a"], **listed["files"]}
    del listed["blake2b"]
    (tmp_path / "folder" / LIST).write_text(json.dumps(sealed(listed)))
    write(tmp_path / "folder", overwrite=True, a="2")
    assert (tmp_path / "precious").read_text() == "1"
    assert read(tmp_path / "folder") == {"a": "2"}


@pytest.mark.parametrize("text", ["", "[]", "{}", '{"files": {"a": 1}}', "\x00"])
def test_a_list_that_is_not_ours_makes_nothing_ours(tmp_path: Path, text: str) -> None:
    (tmp_path / LIST).write_text(text)
    (tmp_path / "a").write_text("mine")
    assert contents(tmp_path).foreign == ("a", LIST)


def test_what_fails_leaves_everything_as_it_was(tmp_path: Path) -> None:
    folder = tmp_path / "folder"
    write(folder, a="1")
    for error in (OSError, KeyboardInterrupt):
        with pytest.raises(error):
            fail(folder, error)
    assert read(folder) == {"a": "1"}
    assert [path.name for path in tmp_path.iterdir()] == ["folder"]


@pytest.mark.parametrize("renames", [0, 1, 2, 3])
def test_killed_at_any_moment_nothing_is_lost_and_the_next_writing_ends_it(tmp_path: Path, renames: int) -> None:
    folder = tmp_path / "folder"
    write(folder, a="old", deep__b="old", deep__c="old")
    (folder / "deep" / "mine").write_text("mine")
    command = [sys.executable, str(KILLED), str(folder), str(renames)]
    ended = subprocess.run(command, check=False, timeout=120, env={**os.environ, "PYTHONPATH": str(KILLED.parents[2])})
    assert ended.returncode == (9 if renames < 3 else 0)
    if folder.is_dir():  # one or the other, whole
        assert {text for name, text in read(folder).items() if name != "deep/mine"} in ({"old"}, {"new"})
    mine = [path.read_text() for path in tmp_path.rglob("mine")]
    assert mine == ["mine"]
    write(folder, overwrite=True, a="last")
    assert read(folder) == {"a": "last", "deep/mine": "mine"}
    assert [path.name for path in tmp_path.iterdir()] == ["folder"]


def test_a_hidden_folder_of_somebody_else_is_left_alone(tmp_path: Path) -> None:
    other = tmp_path / ".folder.partial-mine"
    other.mkdir()
    (other / "new").mkdir()
    (other / "new" / "precious").write_text("1")
    write(tmp_path / "folder", a="1")
    assert (other / "new" / "precious").read_text() == "1"


def test_files_can_be_read_by_others_as_new_files_can(tmp_path: Path) -> None:
    with writing_folder(tmp_path / "folder", "test", overwrite=False) as fresh:
        (fresh / "deep").mkdir()
        (fresh / "deep" / "private").touch(0o600)
        (fresh / "script").touch(0o755)
    (tmp_path / "new").touch()
    expected = stat.S_IMODE((tmp_path / "new").stat().st_mode)
    modes = {stat.S_IMODE(path.stat().st_mode) for path in (tmp_path / "folder").rglob("*") if path.is_file()}
    assert modes == {expected}


def test_holds_what_was_written_whole_and_with_nothing_beside(tmp_path: Path) -> None:
    folder = tmp_path / "folder"
    write(folder, a="1", b="2")
    about = {"files": {"a": "1", "b": "2"}}
    assert holds(folder, about)
    assert not holds(folder, {})
    (folder / "c").touch()
    assert not holds(folder, about)
    (folder / "c").unlink()
    (folder / "b").unlink()
    assert not holds(folder, about)
    assert not holds(tmp_path / "none", about)


def test_a_file_is_written_whole_and_an_existing_one_is_refused(tmp_path: Path) -> None:
    file = tmp_path / "deep" / "numbers.json"
    write_file(file, "1", overwrite=False)
    write_file(file, "1", overwrite=False)  # nothing to do
    with pytest.raises(ExistsError, match=r"numbers\.json exists; add --overwrite"):
        write_file(file, "2", overwrite=False)
    with pytest.raises(ExistsError, match="exists"):
        refuse_file(file, overwrite=False)
    assert file.read_text() == "1"
    write_file(file, b"2", overwrite=True)
    assert file.read_text() == "2"
    assert [path.name for path in file.parent.iterdir()] == ["numbers.json"]
    with pytest.raises(ExistsError, match="is a folder"):
        refuse_file(tmp_path / "deep", overwrite=True)


def test_where_a_folder_cannot_be(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(ExistsError, match="is a file; name a folder"):
        write(tmp_path / "file", a="1")
    with pytest.raises(ExistsError, match="/proc is a mount point"):
        refuse_folder("/proc", overwrite=True)


def test_a_link_to_a_folder_stays_one(tmp_path: Path) -> None:
    (tmp_path / "disk").mkdir()
    (tmp_path / "link").symlink_to(tmp_path / "disk")
    write(tmp_path / "link", a="1")
    assert (tmp_path / "link").is_symlink()
    assert read(tmp_path / "disk") == {"a": "1"}
    assert os.listdir(tmp_path) != []
