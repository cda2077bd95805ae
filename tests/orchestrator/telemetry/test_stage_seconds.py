"""The clock: every second of a lap belongs to a stage or to "other"."""

import time

import pytest

from orchestrator.telemetry.stage_seconds import CLOCK, timed


def test_a_generator_counts_only_the_time_until_each_item() -> None:
    @timed("making")
    def make():
        for _ in range(3):
            time.sleep(0.02)
            yield 1

    CLOCK.lap()
    for _ in make():
        time.sleep(0.03)
    lap = CLOCK.lap()
    assert 0.06 <= lap["making"] < 0.09
    assert lap["other"] >= 0.09
    assert lap["step"] == pytest.approx(lap["making"] + lap["other"])


def test_a_stage_that_fails_is_counted_and_its_error_goes_on() -> None:
    @timed("failing")
    def fail() -> None:
        time.sleep(0.01)
        raise ValueError("no")

    CLOCK.lap()
    with pytest.raises(ValueError, match="no"):
        fail()
    assert CLOCK.lap()["failing"] >= 0.01
    assert "failing" not in CLOCK.lap()
