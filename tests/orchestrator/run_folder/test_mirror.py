"""Checkpoints at a URL: copied whole or not at all, brought back with their digests checked, cut off between files."""

import importlib.util
import json
import os
import shutil
import signal
from pathlib import Path
from typing import Any

import pytest
import torch

from files.crash_safe import sealed
from orchestrator.run_folder.checkpoints import Checkpoints, continue_from
from orchestrator.run_folder.folder import PAIR, RunExistsError, RunFolder, critic_of
from orchestrator.run_folder.mirror import Mirror, bring_back
from policy.state.checkpoint import CheckpointError, load, read_extra, save
from schemas.config import Checkpoint, Run
from schemas.config.file import ConfigError


class Learner:
    """Saves at once; its weight is the step."""

    def __init__(self, critic: bool = False) -> None:
        self.network: Any = torch.nn.Linear(8, 8)
        self.optimiser = torch.optim.SGD(self.network.parameters(), lr=1.0)
        self._critic = critic

    def begin_save(self, folder: str, extra: dict[str, Any]) -> None:
        torch.nn.init.constant_(self.network.weight, extra["step"])
        extra = extra | ({PAIR: str(extra["step"])} if self._critic else {})
        for part in (critic_of(folder), folder) if self._critic else (folder,):
            save(part, self.network, self.optimiser, {}, extra)

    def finish_save(self) -> None:
        pass


@pytest.fixture(params=["file", "memory"])
def url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    return (tmp_path / "there").as_uri() if request.param == "file" else f"memory://{tmp_path.name}"


class Side:
    """A run folder on one machine, the URL, and what was said."""

    def __init__(self, root: Path, url: str, critic: bool = False, **options: Any) -> None:
        self.folder, self.url, self.said = RunFolder(root), url, list[str]()
        self.folder.checkpoints.mkdir(parents=True, exist_ok=True)
        self.options = Checkpoint(mirror=url, **options)
        self.mirror = Mirror(url, "run", self.options.keep)
        self.checkpoints = Checkpoints(
            Learner(critic), self.folder, self.options, settings="", say=self.said.append, last=None, mirror=self.mirror
        )

    def save(self, *steps: int, best: int | None = None) -> "Side":
        for step in steps:
            self.checkpoints.save(step, {"step": step}, best)
        self.checkpoints.finish()
        return self

    def found(self, **run: Any) -> int | None:
        """As a run begins."""
        bring_back(self.folder, Run(**run), self.options, self.said.append)
        step = continue_from(self.folder, Run(**run), self.said.append)
        if step is not None:
            fresh = Learner()
            load(self.folder.checkpoint(step), fresh.network, fresh.optimiser)
            assert bool((fresh.network.weight == step).all())
        return step


@pytest.mark.parametrize("critic", [False, True], ids=["policy", "with-critic"])
def test_a_run_goes_on_where_its_folder_is_lost(tmp_path: Path, url: str, critic: bool) -> None:
    first = Side(tmp_path / "here", url, critic, keep=2).save(1, 2, 3, 4, best=1)
    assert first.mirror.steps() == [1, 3, 4]
    assert first.found() == 4
    assert first.said == [], "nothing was to be brought"
    second = Side(tmp_path / "elsewhere", url, critic)
    assert second.found() == 4
    assert second.said == [f"brought back {second.folder.checkpoint(4)} from {url}"]
    assert critic_of(second.folder.checkpoint(4)).is_dir() == critic
    assert second.folder.steps() == [4]
    assert Side(tmp_path / "third", url, critic).found(resume_step=3) == 3
    second.save(5)
    assert first.found() == 5, "what is newer there is brought to a folder that has older ones"


def test_a_copy_that_was_killed_is_read_by_nobody_and_goes_with_the_next(tmp_path: Path) -> None:
    url = (tmp_path / "there").as_uri()
    here = Side(tmp_path / "here", url, critic=True).save(1)
    here.checkpoints.save(2, {"step": 2})  # written here, not yet on its way
    for files in range(1, 8):  # of the 8 files of both parts, and the mark
        child = os.fork()
        if child == 0:
            killed_after(files, Mirror(url, "run", 2), here.folder.checkpoint(2))
        assert os.waitpid(child, 0)[1] == signal.SIGKILL
        assert here.mirror.steps() == [1]
        assert Side(tmp_path / f"elsewhere-{files}", url).found() == 1
    assert len(list((tmp_path / "there" / "run").glob("step-000002-*"))) > 7
    here.checkpoints.finish()
    assert here.mirror.steps() == [1, 2]
    names = sorted(path.name.split("-")[1] for path in (tmp_path / "there" / "run").iterdir() if path.is_dir())
    assert len(names) == 4, "two parts of each step"
    assert Side(tmp_path / "last", url).found() == 2


def killed_after(files: int, mirror: Mirror, checkpoint: Path) -> None:
    """In a process of its own."""
    put, left = mirror._system.put_file, [files]  # pyright: ignore[reportPrivateUsage]

    def counted(*given: Any) -> None:
        put(*given)
        left[0] -= 1
        if not left[0]:
            os.kill(os.getpid(), signal.SIGKILL)

    mirror._system.put_file = counted  # pyright: ignore[reportPrivateUsage]
    mirror._send(checkpoint, 2, None)  # pyright: ignore[reportPrivateUsage]
    os._exit(1)


def test_what_was_damaged_there_is_named_and_the_one_before_is_used(tmp_path: Path) -> None:
    url = (tmp_path / "there").as_uri()
    Side(tmp_path / "here", url).save(1, 2)
    (file,) = (tmp_path / "there" / "run").glob("step-000002-*/state/__0_0.distcp")
    content = bytearray(file.read_bytes())
    content[len(content) // 2] ^= 1
    file.write_bytes(content)
    second = Side(tmp_path / "elsewhere", url)
    assert second.found() == 1
    assert "state/__0_0.distcp has other content than was written" in second.said[0]
    (tmp_path / "there" / "run" / "step-000001.json").write_text('{"folder"')  # cut
    third = Side(tmp_path / "third", url)
    with pytest.raises(CheckpointError, match=r"none of the checkpoints at .* can be used: \[2\]"):
        third.found()


@pytest.mark.parametrize("name", ["../../../../outside", "/outside", "..", "a/../../outside"])
def test_a_mark_that_names_a_file_outside_of_its_checkpoint_brings_nothing(tmp_path: Path, name: str) -> None:
    """Whoever can write to the URL must not be able to write anywhere else."""
    url = (tmp_path / "there").as_uri()
    Side(tmp_path / "here", url).save(1)
    (tmp_path / "there" / "run" / "outside").write_text("harm")
    file = tmp_path / "there" / "run" / "step-000001.json"
    mark = json.loads(file.read_text())
    mark.pop("blake2b")
    mark["parts"][""].append(name.replace("/outside", f"{tmp_path}/outside") if name[0] == "/" else name)
    file.write_text(json.dumps(sealed(mark)))
    there = Side(tmp_path / "elsewhere" / "run", url)
    with pytest.raises(CheckpointError, match="can be used"):
        there.found()
    assert "which is no file of a checkpoint" in there.said[0]
    assert not list(there.folder.checkpoints.iterdir()), "refused before anything is written"


@pytest.mark.parametrize("on_error", ["stop", "continue"])
def test_one_that_cannot_be_copied_stops_the_run_or_is_said(tmp_path: Path, on_error: str) -> None:
    here = Side(tmp_path / "here", (tmp_path / "there").as_uri(), on_error=on_error).save(1)
    shutil.rmtree(tmp_path / "there")
    (tmp_path / "there").write_text("no folder")
    here.checkpoints.save(2, {"step": 2})
    if on_error == "stop":
        with pytest.raises(CheckpointError, match=r"step 2: not copied to file://.*checkpoint\.on_error=continue goes"):
            here.checkpoints.finish()
    else:
        here.checkpoints.finish()
        assert here.said[0].startswith("NOT COPIED   step 2: not copied to file://")
        with pytest.raises(CheckpointError, match="the last checkpoint was not copied"):
            here.checkpoints.finish_last()
    assert read_extra(here.folder.checkpoint(2))["step"] == 2


def test_what_cannot_be_is_refused_before_anything_starts(tmp_path: Path, url: str) -> None:
    with pytest.raises(ValueError, match="an fsspec URL such as"):
        Checkpoint(mirror="bucket/runs")
    with pytest.raises(ConfigError, match=r"checkpoint\.mirror='nope://a': Protocol not known: nope; install"):
        Mirror("nope://a", "run", 1)
    if importlib.util.find_spec("s3fs") is None:
        with pytest.raises(ConfigError, match=r"Install s3fs to access S3; install what the URL needs"):
            Mirror("s3://bucket/runs", "run", 1)
    Side(tmp_path / "here", url).save(1)
    with pytest.raises(RunExistsError, match=r"holds 'run' and run\.resume=false"):
        Side(tmp_path / "elsewhere", url).found(resume=False)
