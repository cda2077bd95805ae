"""The real widths: a random model of Qwen2.5-VL-3B's, four of its layers, on two ranks from the meta device.

python -m pytest -s tests/policy/test_real_widths.py     prints what is kept in benchmarks/results/real_widths.json
"""

import gc
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import psutil
import pytest

from tests.policy import real_widths
from tests.policy.real_widths import GIB

ROOT = Path(__file__).parents[2]
NEEDED = 17  # GiB free: the ranks need 13 together
pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]


@pytest.fixture(scope="module")
def ranks(tmp_path_factory):
    """What each rank wrote; model and checkpoint are deleted before the tests look at it."""
    free = psutil.virtual_memory().available / GIB
    if free < NEEDED:
        pytest.skip(f"{free:.1f} GiB of memory are free, {NEEDED} are needed")
    folder = tmp_path_factory.mktemp("widths")
    try:
        real_widths.write_model(folder / "model")
        gc.collect()
        started = [
            subprocess.Popen(
                [sys.executable, "-m", "tests.policy.real_widths", str(rank), str(folder)],
                cwd=ROOT,
                env=os.environ | {"OMP_NUM_THREADS": "1"},
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                text=True,
            )
            for rank in range(2)
        ]
        try:
            logs = [process.communicate(timeout=500)[0] for process in started]
        finally:
            for process in started:
                process.kill()
        for process, log in zip(started, logs, strict=True):
            assert process.returncode == 0, log[-4000:]
        found = [json.loads((folder / f"rank{rank}.json").read_text()) for rank in range(2)]
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    kept = {"layers": real_widths.LAYERS, "vision_blocks": real_widths.VISION_BLOCKS, "ranks": 2}
    kept |= {key: found[0][key] for key in ("weights", "trained")}
    kept["parts"] = {f"rank {rank}": out["parts"] for rank, out in enumerate(found)}
    print(json.dumps(kept, indent=2))
    return found


def test_one_rank_reads_the_weights(ranks):
    assert ranks[0]["read"] > 0
    assert ranks[1]["read"] == 0
    whole = 4 * ranks[0]["weights"] / GIB
    start = ranks[1]["parts"]["start"]
    assert start["peak_gib"] - start["before_gib"] < 0.7 * whole  # its half, and a block under way


def test_a_step_moves_what_is_trained_and_nothing_else(ranks):
    for out in ranks:
        assert out["types"] == ["torch.float32"]  # masters; the computation is in bfloat16
        assert out["frozen"]
        assert out["trained"] > 600e6
        moved = {name for name in out["before"] if out["before"][name] != out["after"][name]}
        assert moved == out["before"].keys() - set(out["frozen"])
        assert out["report"] == ranks[0]["report"]
        assert out["report"]["grad_norm"] > 0


def test_what_was_saved_is_what_is_loaded(ranks):
    for out in ranks:
        assert out["extra"] == {"step": 1}
        assert out["loaded"] == out["after"]
        assert out["loaded_moments"] == out["moments"]
        assert len(out["moments"]) >= 2 * (len(out["before"]) - len(out["frozen"]))
