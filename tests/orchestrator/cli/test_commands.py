"""The command line as a user meets it: mistakes told in a line, help with examples, nothing slow before its time."""

from __future__ import annotations

import importlib
import os
import subprocess
import sys
import tomllib
from pathlib import Path
from typing import Any

import pytest
import typer
from typer.testing import CliRunner

from orchestrator.cli import progress, refusals
from orchestrator.cli.main import app
from orchestrator.cli.version import version
from orchestrator.recovery.stop import Stopped

ROOT = Path(__file__).resolve().parents[3]
COMMANDS = (
    "scenes",
    "check",
    "tiny",
    "sft",
    "train",
    "eval",
    "predict",
    "score",
    "report",
    "compare",
    "export",
    "halve",
)
SLOW = ("ray", "torch", "transformers", "vllm", "peft", "matplotlib", "numpy")


def run(*arguments: str, **more: str) -> subprocess.CompletedProcess[str]:
    """The program in a process of its own; its last line of output is the slow modules that were loaded."""
    code = (
        "import sys\nfrom orchestrator.cli.main import app\n"
        "try:\n    app(sys.argv[1:])\n"
        f"finally:\n    print([name for name in {SLOW} if name in sys.modules])\n"
    )
    environment = {**os.environ, "PYTHONPATH": str(ROOT), **more}
    command = [sys.executable, "-c", code, *arguments]
    return subprocess.run(command, capture_output=True, text=True, timeout=300, check=False, cwd=ROOT, env=environment)


@pytest.mark.parametrize(
    ("arguments", "code", "words"),
    [
        (["--help"], 0, "Train multimodal LLMs to understand pointing"),
        (["--version"], 0, "pointvg 0."),
        (["check", "--config", "configs/grpo.yaml", "trainer.max_stepz=3"], 2, "did you mean 'max_steps'?"),
        (["train", "--config", "configs/grpo.yaml", "algorithm.kl.coefficient=-1"], 2, "algorithm.kl.coefficient"),
        (["sft", "--config", "nowhere.yaml"], 2, "nowhere.yaml: cannot be read"),
        (["eval", "--config", "configs/quickstart.yaml", "--model", "[", "data.max_pixels=0"], 2, "data.max_pixels"),
        (["export", "--config", "configs/tiny.yaml", "--out", "x"], 2, "export reads those of train and sft"),
        (["scenes", "x", "--train", "-1"], 2, "'--train': Input should be greater than or equal to 0"),
        (["scenes", "x", "--train", "0", "--validation", "0", "--test", "0"], 2, "nothing to draw"),
        (["train", "--config", "configs/tiny.yaml"], 2, "this file is for `pointvg tiny`, not for `pointvg train`"),
        (["sft", "--config", "configs/quickstart.yaml"], 2, "is for `pointvg train`, not for `pointvg sft`"),
        (["check", "--config", "configs/reward.yaml"], 2, "is for `pointvg serve reward`; check reads those of"),
        (["check", "--config", "configs/sft.yaml", "data.prompt_style=foo"], 2, "path of a Jinja file, which ends in"),
        (["report", "configs"], 2, "configs: holds no config.yaml; name the folder of a run"),
        (["compare", "runs"], 2, "compare takes two runs or more, given 1"),
        (["train", "--help"], 0, "pointvg train --config configs/quickstart.yaml"),
    ],
)
def test_a_refusal_loads_nothing_slow(arguments: list[str], code: int, words: str) -> None:
    done = run(*arguments)
    assert done.returncode == code, done.stderr
    assert words in done.stdout + done.stderr
    assert "Traceback" not in done.stderr
    assert done.stdout.splitlines()[-1] == "[]"


@pytest.mark.parametrize("command", COMMANDS)
def test_each_command_has_an_example(command: str) -> None:
    shown = CliRunner().invoke(app, [command, "--help"])
    assert shown.exit_code == 0
    assert f"Example:\n    pointvg {command} " in shown.output


def test_commands_of_commands_have_one_too() -> None:
    waiting: list[Any] = [typer.main.get_command(app)]
    seen = 0
    while waiting:
        command = waiting.pop()
        inside = getattr(command, "commands", None)
        waiting += inside.values() if inside else ()
        if inside is None:
            seen += 1
            assert "Example:" in (command.epilog or ""), command.name
    assert seen > 20


def test_the_list_of_commands_is_whole_sentences() -> None:
    shown = CliRunner().invoke(app, ["--help"]).output
    lines = shown[shown.index("Commands:") : shown.index("Example:")].splitlines()[1:]
    assert {line.split()[0] for line in lines if line.strip()} == {*COMMANDS, "config", "data", "serve"}
    assert all(line.rstrip().endswith(".") and not line.rstrip().endswith("...") for line in lines if line.strip())


def test_the_version_is_that_of_the_project() -> None:
    assert version() == tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["version"]
    assert CliRunner().invoke(app, ["--version"]).output == f"pointvg {version()}\n"


@pytest.mark.parametrize("name", [*refusals.REFUSALS, refusals.STOPPED])
def test_errors_that_are_known_by_name_are_there(name: str) -> None:
    module, _, kind = name.rpartition(".")
    assert issubclass(getattr(importlib.import_module(module), kind), Exception)


def test_what_a_user_can_mend_is_one_line(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    for arguments, words in (
        (["scenes", str(tmp_path), "--train", "0"], "is not empty (file)"),
        (["scenes", str(tmp_path / "file" / "x"), "--train", "0"], "file: file exists"),
        (["config", "migrating", str(tmp_path)], "is a folder; name a file"),
        (["halve", str(tmp_path), str(tmp_path / "half")], "no model.safetensors"),
        (["export", "--config", "configs/quickstart.yaml", "--out", str(tmp_path)], "is not empty (file)"),
        (
            ["export", "--config", "configs/quickstart.yaml", "--out", "x", f"run.folder={tmp_path}"],
            "no complete check",
        ),
    ):
        done = CliRunner().invoke(app, arguments)
        assert done.exit_code == 2, (arguments, done.output)
        assert words in done.output
        assert len(done.output.splitlines()) == 1


def test_a_full_disk_is_one_line(tmp_path: Path) -> None:
    """A limit on the size of files is the same to a program, but for the number of its error."""
    code = (
        "import resource, signal, sys\nfrom orchestrator.cli.main import app\n"
        "signal.signal(signal.SIGXFSZ, signal.SIG_IGN)\nresource.setrlimit(resource.RLIMIT_FSIZE, (2000, 2000))\n"
        f"app(['scenes', {str(tmp_path / 'scenes')!r}, '--train', '1', '--validation', '0', '--test', '0'])\n"
    )
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "PYTHONDONTWRITEBYTECODE": "1"}
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, timeout=120, check=False, env=environment
    )
    assert done.returncode == 2
    assert "file too large" in done.stderr
    assert len(done.stderr.splitlines()) == 1
    assert [path.name for path in tmp_path.iterdir()] == []


def boom() -> None:
    raise KeyError("nobody foresaw this")


def with_a_bug() -> typer.Typer:
    broken = typer.Typer(cls=refusals.RefusingGroup, pretty_exceptions_enable=False)

    @broken.callback()
    def main(debug: bool = typer.Option(False, "--debug")) -> None: ...

    broken.command("boom")(boom)
    return broken


def test_an_error_of_ours_is_a_line_and_its_traceback_is_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    done = CliRunner().invoke(with_a_bug(), ["boom"])
    assert done.exit_code == 1
    assert "error: KeyError: 'nobody foresaw this'" in done.output
    (log,) = tmp_path.iterdir()
    assert str(log) in done.output
    assert "in boom" in log.read_text()


def test_debug_keeps_the_traceback_wherever_it_stands() -> None:
    for arguments in (["--debug", "boom"], ["boom", "--debug"]):
        done = CliRunner().invoke(with_a_bug(), arguments)
        assert isinstance(done.exception, KeyError)


def test_a_stopped_run_ends_with_the_number_of_its_signal() -> None:
    told = refusals.refusal(Stopped(15))
    assert told is not None
    assert (told.code, told.text) == (143, "stopped by SIGTERM")


def test_long_work_says_how_far_it_is(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(progress, "EVERY_S", 0.0)
    done = CliRunner().invoke(app, ["scenes", str(tmp_path / "s"), "--train", "2", "--validation", "1", "--test", "0"])
    assert done.exit_code == 0
    said = [line for line in done.output.splitlines() if " of " in line]
    assert said == [f"scenes       {number} of 3" for number in (1, 2, 3)]
    again = CliRunner().invoke(app, ["scenes", str(tmp_path / "s"), "--train", "2", "--validation", "1", "--test", "0"])
    assert " of " not in again.output  # they are there already
