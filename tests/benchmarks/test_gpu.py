"""The questions for a GPU, rehearsed on a CPU: every section runs, without Ray and vLLM, and a cut run still tells."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pyarrow as pa
import pytest

from benchmarks.gpu.prepare import lacking, needed, read_installed
from schemas import batch

ROOT = Path(__file__).resolve().parents[2]
# As on a machine that lacks them: importing one raises.
HIDDEN = "import sys; sys.modules.update(ray=None, vllm=None); from benchmarks.gpu.learner import main; main()"


@pytest.fixture(scope="module")
def prepared(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("gpu") / "prepared"
    command = [sys.executable, "-m", "benchmarks.gpu.prepare", "--rehearse", "--out", str(out)]
    subprocess.run(command, cwd=ROOT, check=True)
    return out


def test_the_batch_has_the_schemas_and_every_image(prepared: Path) -> None:
    training = pa.ipc.open_file(prepared / "batch" / "training.arrow").read_all()
    images = pa.ipc.open_file(prepared / "batch" / "images.arrow").read_all()
    batch.check(training, batch.TRAINING, "test")
    batch.check(images, batch.IMAGES, "test")
    shown = training.column("image_digests").to_pylist()
    assert {len(digests) for digests in shown} == {2}  # each looked again
    assert {digest for digests in shown for digest in digests} == set(images.column("digest").to_pylist())


def test_no_weights_travel(prepared: Path) -> None:
    assert (prepared / "model" / "config.json").is_file()
    assert not list(prepared.rglob("*.safetensors"))


def test_every_section_runs_without_ray_and_vllm(prepared: Path, tmp_path: Path) -> None:
    out = tmp_path / "found.json"
    command = [sys.executable, "-c", HIDDEN, "--rehearse", "--from", str(prepared), "--out", str(out)]
    subprocess.run(command, cwd=ROOT, check=True)
    sections = json.loads(out.read_text())["sections"]
    assert len(sections) == 9
    assert all("error" not in found and "not_run" not in found for found in sections.values())
    assert sections["update_700"]["passes"] > sections["update_2600"]["passes"]
    assert sections["gather"]["local_shards_mib"] == pytest.approx(
        2 * sections["gather"]["gathered_mib"]
    )  # 4 bytes for 2
    assert sections["lora"]["sent_mib"] < sections["gather"]["local_shards_mib"] / 4


def test_what_the_limit_leaves_out_is_named_and_the_run_fails(prepared: Path, tmp_path: Path) -> None:
    out = tmp_path / "found.json"
    command = [sys.executable, "-m", "benchmarks.gpu.learner", "--rehearse", "--from", str(prepared), "--out", str(out)]
    assert subprocess.run([*command, "--limit", "-1"], cwd=ROOT, check=False).returncode == 1
    sections = json.loads(out.read_text())["sections"]
    assert len(sections) == 9
    assert all("not_run" in found for found in sections.values())


def test_wheels_are_those_that_are_not_there_in_an_allowed_version() -> None:
    there = dict.fromkeys(needed())
    assert lacking(there) == []
    del there["pydantic"]
    there["transformers"] = "5.17.0"
    assert [wheel.split("==")[0] for wheel in lacking(there)] == ["pydantic", "transformers"]
    assert "torch" not in needed()
    assert "pydantic-core" in needed()
    assert read_installed("PyYAML==6.0\nnumpy\n") == {"pyyaml": "6.0", "numpy": None}
