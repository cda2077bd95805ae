"""deploy/kind on this machine: its head's Ray, its entrypoint through `ray job submit`, its metrics, its stop."""

from __future__ import annotations

import json
import re
import subprocess
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import httpx
import pytest

from orchestrator.telemetry.gauges import TRAIN
from tests.deploy.local_head import Head, started
from tests.deploy.manifests import groups, only

pytestmark = [pytest.mark.slow, pytest.mark.cluster]
SHORTER = "trainer.max_steps=2 rollout.tasks_per_step=4 rollout.samples_per_task=4 validation.samples=1"


@dataclass(frozen=True, slots=True)
class Done:
    """The job's end, its run folder, and the last metrics page that had training on it."""

    code: int
    text: str
    run: Path
    page: str


@pytest.fixture(scope="module")
def head(scenes: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Head]:
    folder = tmp_path_factory.mktemp("app")
    (folder / "data").mkdir()
    (folder / "data" / "scenes").symlink_to(scenes)
    with started(groups(only("kind", "RayJob"))["head"], folder, {}) as made:
        yield made


@pytest.fixture(scope="module")
def done(head: Head) -> Done:
    entrypoint = only("kind", "RayJob")["spec"]["entrypoint"]
    pages, ended = [""], threading.Event()

    def watch() -> None:
        while not ended.wait(1.0):
            page = head.metrics()
            if "ray_pointvg_train_step" in page:
                pages.append(page)

    watcher = threading.Thread(target=watch)
    watcher.start()
    try:
        job = head.shell(f"ray job submit --address {head.address} -- {entrypoint} {SHORTER}", timeout_s=500)
    finally:
        ended.set()
        watcher.join()
    return Done(job.returncode, job.stdout + job.stderr, head.folder / "runs" / "quickstart", pages[-1])


def test_the_entrypoint_trains_the_small_model(done: Done) -> None:
    assert done.code == 0, done.text
    assert "succeeded" in done.text
    records = [json.loads(line) for line in (done.run / "metrics.jsonl").read_text().splitlines()]
    assert [r["step"] for r in records if r["kind"] == "train"] == [0, 1]
    assert (done.run / "checkpoints" / "step-000002" / "complete.json").is_file()
    assert (done.run / "export" / "config.json").is_file()


def value(page: str, name: str, **labels: str) -> float:
    """The one sample of a metric with these labels."""
    lines = [line for line in page.splitlines() if line.startswith(f"{name}{{")]
    lines = [line for line in lines if all(f'{key}="{each}"' in line for key, each in labels.items())]
    assert len(lines) == 1, lines
    return float(lines[0].rsplit(" ", 1)[1])


def test_the_metrics_port_shows_training(done: Done) -> None:
    records = [json.loads(line) for line in (done.run / "metrics.jsonl").read_text().splitlines()]
    step = int(value(done.page, "ray_pointvg_train_step", run="quickstart"))
    train = next(r for r in records if r["kind"] == "train" and r["step"] == step - 1)
    for key, (name, _) in TRAIN.items():
        if key in train:
            assert value(done.page, f"ray_pointvg_train_{name}", run="quickstart") == pytest.approx(train[key])
    of_gpus = {"pace/gpu_tokens_per_second", "pace/mfu", "pace/mfu_text", "pace/mfu_vision"}
    assert {key for key in TRAIN if not key.startswith("recovery/")} - of_gpus <= train.keys()
    assert not of_gpus & train.keys()  # there is no GPU here: no figure, and not 0
    for stage in ("rollout", "update", "publish", "step"):
        shown = value(done.page, "ray_pointvg_train_stage_seconds", stage=stage)
        assert shown == pytest.approx(train[f"time/{stage}"])
    rate = train["reply/trained_tokens"] / train["time/step"]
    assert value(done.page, "ray_pointvg_train_tokens_per_second") == pytest.approx(rate)
    rewards = [r["sampled/reward"] for r in records if r["kind"] == "validation"]
    shown = value(done.page, "ray_pointvg_validation_reward", decoding="sampled")
    assert any(shown == pytest.approx(reward) for reward in rewards)
    assert re.search(r'^ray_pointvg_reward_items_total\{.*door="handle"', done.page, re.MULTILINE)


def test_jobs_want_the_token_and_probes_do_not(head: Head) -> None:
    assert httpx.get(f"{head.address}/api/jobs/", timeout=10).status_code == 401
    token = {"Authorization": f"Bearer {head.environment['RAY_AUTH_TOKEN']}"}
    assert httpx.get(f"{head.address}/api/jobs/", headers=token, timeout=10).status_code == 200
    live = groups(only("kind", "RayJob"))["head"].ray["livenessProbe"]["httpGet"]["path"]
    assert httpx.get(f"http://127.0.0.1:{head.agent_port}{live}", timeout=10).status_code == 200


def test_a_stopped_job_gets_longer_than_rays_own_three_seconds(head: Head) -> None:
    (head.folder / "slow.py").write_text(
        "import pathlib, signal, sys, time\n"
        "def stop(*_):\n    time.sleep(6)\n    pathlib.Path('written').touch()\n    sys.exit(0)\n"
        "signal.signal(signal.SIGTERM, stop)\npathlib.Path('running').touch()\ntime.sleep(120)\n"
    )
    submit = f"ray job submit --address {head.address} --submission-id slow --no-wait -- python slow.py"
    submitted: subprocess.CompletedProcess[str] = head.shell(submit, timeout_s=120)
    assert submitted.returncode == 0, submitted.stdout + submitted.stderr
    deadline = time.monotonic() + 60
    while not (head.folder / "running").exists() and time.monotonic() < deadline:
        time.sleep(0.2)
    assert head.shell(f"ray job stop --address {head.address} slow", timeout_s=120).returncode == 0
    assert (head.folder / "written").exists()
