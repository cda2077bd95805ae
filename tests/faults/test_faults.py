"""Every part of a training run is killed, stopped or made to raise while it works.

One run is left alone. For each kind of fault there is one more, in which part after part is hurt, step after step; only
those whose tests were chosen are (`pytest tests/faults -k learner-SIGKILL` hurts the learner alone). Each must end with
the numbers of the run that was left alone, bit for bit.
"""

from __future__ import annotations

import shutil
import signal
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from tests.faults.training import STEPS, Row, Training, assert_equal, config, row_of, signalled

pytestmark = [pytest.mark.cluster, pytest.mark.slow, pytest.mark.timeout(2000)]

ROLES = ("rollout", "reference", "reward", "learner", "critic")
FAULTS = {"SIGKILL": "died", "SIGSTOP": "silent", "raise": "raised"}  # and how each is found
CASES = [(part, fault) for fault in FAULTS for part in (*ROLES, "controller", "driver")]
CASES.remove(("controller", "raise"))  # it is Serve's own
PAUSE_S = 15.0  # of a driver; longer than the others may be silent


class Runs:
    """A run for each kind of fault, made when it is first asked for."""

    def __init__(self, chosen: dict[str, list[str]], scenes: Path, folder: Path) -> None:
        self._chosen = chosen
        self._scenes = scenes
        self._folder = folder
        self._made: dict[str, Training | BaseException] = {}
        self.driver_s: dict[str, float] = {}

    @property
    def failed(self) -> bool:
        """Whether a run did not come to its end."""
        return any(isinstance(made, BaseException) for made in self._made.values())

    def of(self, fault: str) -> Training:
        """The run of a fault. Raises what went wrong in it, each time it is asked for."""
        if fault not in self._made:
            try:
                self._made[fault] = self._make(fault)
            except BaseException as error:
                self._made[fault] = error
        made = self._made[fault]
        if isinstance(made, BaseException):
            raise made
        return made

    def _make(self, fault: str) -> Training:
        parts = self._chosen[fault]
        inside = [part for part in parts if part in ROLES or (part == "driver" and fault == "raise")]
        values = config(self._folder / fault, self._scenes)
        with Training(values, dict.fromkeys(inside, fault)) as run:
            if "controller" in parts:
                run.after_step(1)
                signalled(run.actor("ServeController"), fault)
            if "driver" in parts:
                run.after_step(4) if fault != "raise" else run.until(lambda: run.driver.poll(), 700, alive=False)
                self._hurt_driver(run, fault)
            run.finish()
        return run

    def _hurt_driver(self, run: Training, fault: str) -> None:
        done = len(run.records())
        if fault == "SIGSTOP":
            started = time.monotonic()
            run.driver.send_signal(signal.SIGSTOP)
            time.sleep(PAUSE_S)
            run.driver.send_signal(signal.SIGCONT)
        else:
            if fault == "SIGKILL":
                run.kill_driver()
            started = time.monotonic()
            run.start()
        run.until(lambda: len(run.records()) > done, 700)
        self.driver_s[fault] = time.monotonic() - started


@pytest.fixture(scope="session")
def runs(request: pytest.FixtureRequest, scenes: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Runs]:
    chosen: dict[str, list[str]] = {}
    for item in request.session.items:
        parameters = item.callspec.params if isinstance(item, pytest.Function) and hasattr(item, "callspec") else {}
        if {"part", "fault"} <= parameters.keys():
            chosen.setdefault(parameters["fault"], []).append(parameters["part"])
    folder = tmp_path_factory.mktemp("runs")
    made = Runs(chosen, scenes, folder)
    yield made
    if not made.failed:
        shutil.rmtree(folder)


def test_the_run_that_is_left_alone_loses_nothing(calm: Training) -> None:
    assert calm.recoveries() == []
    assert [r["step"] for r in calm.records()] == list(range(STEPS))
    assert calm.records()[-1]["recovery/count"] == 0
    assert not list((calm.folder / "replay").rglob("*.arrow"))  # what a checkpoint holds is let go


@pytest.mark.parametrize(("part", "fault"), CASES, ids=["-".join(case) for case in CASES])
def test_it_comes_back_and_changes_no_number(
    calm: Training, runs: Runs, part: str, fault: str, rows: list[Row]
) -> None:
    run = runs.of(fault)
    assert_equal(run, calm)
    if part == "driver":
        seconds = runs.driver_s[fault]
        rows.append(Row(part, fault, "by whoever runs it", None, seconds, seconds))
    elif part == "controller":  # nothing waits for it: what was lost with it is not missed
        rows.append(Row(part, fault, "not noticed"))
    else:
        row = row_of(run, part, fault, part)
        assert row.found == ("died" if (part, fault) == ("reward", "SIGSTOP") else FAULTS[fault])
        assert part in ("rollout", "reference") or row.back_s is not None  # the run goes on, and may end, without them
        rows.append(row)
    if fault == "SIGSTOP" and part in ("rollout", "reference", "learner", "critic"):
        assert list((run.folder / "stacks").glob(f"*-{part}-*.txt")), "what hung processes were doing"


def test_a_run_that_loses_every_engine_waits_for_them(
    calm: Training, scenes: Path, tmp_path: Path, rows: list[Row]
) -> None:
    with Training(config(tmp_path, scenes), dict.fromkeys(("rollout", "rollout-too"), "SIGKILL")) as run:
        run.finish()
    assert_equal(run, calm)
    assert "rollout" in {r["role"] for r in run.recoveries()}, "nothing waited"
    rows.append(replace(row_of(run, "rollout", "SIGKILL", "rollout"), part="every rollout engine"))
    shutil.rmtree(tmp_path)


@pytest.mark.parametrize("pair", [("RolloutActor", "LearnerActor"), ("ReferenceActor", "CriticActor")], ids="-".join)
def test_two_parts_that_are_killed_at_once_change_no_number(
    calm: Training, scenes: Path, tmp_path: Path, pair: tuple[str, str]
) -> None:
    with Training(config(tmp_path, scenes), {}) as run:
        run.after_step(1)
        for process in [run.actor(name) for name in pair]:
            signalled(process, "SIGKILL")
        run.finish()
    assert_equal(run, calm)
    assert {r["role"] for r in run.recoveries()} == {name.removesuffix("Actor").lower() for name in pair}
    shutil.rmtree(tmp_path)
