"""The soak's arithmetic, and its look at processes."""

from __future__ import annotations

import subprocess
import sys
from multiprocessing.shared_memory import SharedMemory
from pathlib import Path
from types import ModuleType

import numpy as np
import psutil
import pytest

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="module")
def soak() -> ModuleType:
    sys.path.insert(0, str(ROOT / "benchmarks"))
    try:
        import soak as module
    finally:
        sys.path.pop(0)
    return module


def test_a_slope_and_its_error(soak: ModuleType) -> None:
    """By hand: x about its mean has squares of 5 in all, and 6 with y; the residuals 0.3, 0.1, -1.1, 0.7 have 1.8."""
    found = soak.growth([0, 1, 2, 3], [0.0, 1.0, 1.0, 4.0])
    assert found.per_step == pytest.approx(1.2)
    assert found.error == pytest.approx((1.8 / 2 / 5) ** 0.5)
    assert found.total == 4.0


def test_the_error_is_what_chance_makes_of_the_slope(soak: ModuleType) -> None:
    random, x = np.random.default_rng(0), np.arange(0, 400, 10)
    found = [soak.growth(x, 3.0 * x + random.normal(0, 50, len(x))) for _ in range(400)]
    assert np.mean([each.per_step for each in found]) == pytest.approx(3.0, abs=0.01)
    spread = np.std([each.per_step for each in found])
    assert np.mean([each.error for each in found]) == pytest.approx(spread, rel=0.1)


def test_a_process_is_seen_with_what_it_holds(soak: ModuleType) -> None:
    """A process of its own holds the memory: what this one frees beside it would be counted too."""
    holds = "input(); held = b'x' * 2**25; files = [open('/dev/null') for _ in range(5)]; print(flush=True); input()"
    with subprocess.Popen(
        [sys.executable, "-Sc", f"print(flush=True); {holds}"], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as child:
        assert child.stdin
        assert child.stdout
        child.stdout.readline()
        before = {sample.pid: sample for sample in soak.look(0, psutil.Process())}[child.pid]
        print(file=child.stdin, flush=True)
        child.stdout.readline()
        after = {sample.pid: sample for sample in soak.look(1, psutil.Process())}[child.pid]
        print(file=child.stdin, flush=True)
    assert 2**25 <= after.uss - before.uss < 2**26
    assert after.files - before.files == 5


def test_shared_memory_is_seen_until_it_is_unlinked(soak: ModuleType) -> None:
    memory = SharedMemory(create=True, size=4096)
    try:
        assert f"/dev/shm/{memory.name}" in soak.shared([psutil.Process()])
    finally:
        memory.close()
        memory.unlink()
    assert f"/dev/shm/{memory.name}" not in soak.shared([psutil.Process()])


def test_roles_grow_each_by_itself_and_after_the_warm_up(soak: ModuleType) -> None:
    samples = [
        soak.Sample(step, role, pid, uss=rate * step + (500 if step <= 20 else 0), pss=0, files=7)
        for step in range(10, 101, 10)
        for role, pid, rate in (("learner", 1, 2), ("learner", 2, 3), ("rollout", 3, 0))
    ]
    found = soak.grown(samples, "learner", 100)
    assert found["processes"] == 2
    assert found["uss"]["per_step"] == pytest.approx(5.0)
    assert found["uss"]["error"] == pytest.approx(0.0, abs=1e-9)
    assert soak.grown(samples, "rollout", 100)["uss"]["per_step"] == 0
    assert soak.grown(samples[:3], "rollout", 100) is None
