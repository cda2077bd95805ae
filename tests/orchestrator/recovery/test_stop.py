"""Stopping on a signal: at once while waiting, after the step while learning, and never later than the grace period."""

import os
import signal
import threading
import time
from collections.abc import Iterator

import pytest

from orchestrator.recovery.stop import STOP, GraceOver, Stopped, interruptible


def after(seconds: float, *signals: int) -> None:
    def send() -> None:
        for number in signals:
            time.sleep(seconds)
            os.kill(os.getpid(), number)

    threading.Thread(target=send, daemon=True).start()


@interruptible
def wait(seconds: float) -> str:
    time.sleep(seconds)
    return "waited"


@interruptible
def items() -> Iterator[int]:
    for number in range(3):
        time.sleep(0.2)
        yield number


@pytest.mark.parametrize(("number", "code"), [(signal.SIGTERM, 143), (signal.SIGINT, 130)])
def test_a_wait_is_ended_at_once(number: int, code: int) -> None:
    started = time.monotonic()
    with STOP.heeded(30):
        after(0.1, number)
        with pytest.raises(Stopped) as caught:
            wait(20)
    assert time.monotonic() - started < 5
    assert caught.value.exit_code == code
    assert str(caught.value.after("saved")) == f"stopped by {signal.Signals(number).name}: saved"


def test_what_must_not_be_cut_is_finished_and_the_next_wait_ends(capsys: pytest.CaptureFixture[str]) -> None:
    with STOP.heeded(30):
        after(0.1, signal.SIGTERM)
        time.sleep(0.5)  # the driver is learning
        with pytest.raises(Stopped):
            wait(20)
    assert "SIGTERM: saving, then ending, within 30 s" in capsys.readouterr().out


def test_a_generator_is_ended_while_it_is_waited_for_and_not_in_the_body_of_its_loop() -> None:
    with STOP.heeded(30):
        stream = items()
        assert next(stream) == 0
        after(0.0, signal.SIGTERM)
        time.sleep(0.3)
        with pytest.raises(Stopped):
            next(stream)
    assert list(items()) == [0, 1, 2]  # a new run is not stopped


@interruptible
def wait_as_ray_does(seconds: float) -> None:
    """Knows KeyboardInterrupt alone, and raises one of its own."""
    try:
        time.sleep(seconds)
    except KeyboardInterrupt:
        raise KeyboardInterrupt from None
    except BaseException:
        time.sleep(seconds)
        raise SystemError from None


def test_a_wait_of_rays_is_ended_at_once_too() -> None:
    started = time.monotonic()
    with STOP.heeded(30):
        after(0.1, signal.SIGTERM)
        with pytest.raises(Stopped, match="stopped by SIGTERM"):
            wait_as_ray_does(8)
    assert time.monotonic() - started < 5


def test_the_grace_period_ends_whatever_is_going_on() -> None:
    def run() -> None:
        with STOP.heeded(0.3):
            after(0.1, signal.SIGTERM)
            time.sleep(20)

    started = time.monotonic()
    with pytest.raises(GraceOver, match=r"no checkpoint within run\.grace_s=0\.3"):
        run()
    assert time.monotonic() - started < 5


def test_a_signal_that_is_delivered_twice_is_one_request() -> None:
    with STOP.heeded(30):
        after(0.01, signal.SIGTERM, signal.SIGTERM)
        time.sleep(0.3)
        with pytest.raises(Stopped):
            wait(20)


def test_asked_twice_it_ends_without_saving() -> None:
    with STOP.heeded(30):
        after(1.2, signal.SIGINT, signal.SIGINT)
        with pytest.raises(KeyboardInterrupt):
            time.sleep(20)


def test_afterwards_signals_do_what_they_did() -> None:
    before = signal.getsignal(signal.SIGTERM), signal.getsignal(signal.SIGINT)
    with STOP.heeded(1):
        assert signal.getsignal(signal.SIGTERM) != before[0]
    assert (signal.getsignal(signal.SIGTERM), signal.getsignal(signal.SIGINT)) == before
    assert wait(0.0) == "waited"
