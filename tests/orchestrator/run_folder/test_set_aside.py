"""What a run goes on from holds every step once; what later steps left is set aside, and TensorBoard shows the same."""

import json
import struct
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from tensorboardX.proto.event_pb2 import Event

from orchestrator.run_folder.set_aside import set_aside
from orchestrator.telemetry.metrics import MetricsLog


def lines(file: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in file.read_text().splitlines()]


def kinds(records: list[dict[str, Any]]) -> list[tuple[str, int]]:
    return [(record["kind"], record["step"]) for record in records]


def record(kind: str, step: int) -> str:
    return json.dumps({"kind": kind, "step": step, "time": 1.0, "x": 0.5}) + "\n"


def run(root: Path) -> Path:
    """Four steps, validated before the first and after each second one."""
    order = [("validation", 0), ("train", 0), ("train", 1), ("validation", 2), ("train", 2), ("train", 3)]
    (root / "metrics.jsonl").write_text("".join(record(*each) for each in (*order, ("validation", 4))))
    for folder, suffix in (("samples", "parquet"), ("pictures", "png")):
        (root / folder).mkdir()
        for step in (0, 2, 4):
            (root / folder / f"step-{step:06d}.{suffix}").write_text(str(step))
    return root


def test_what_is_done_again_is_set_aside_and_nothing_is_lost(tmp_path: Path) -> None:
    before = (run(tmp_path) / "metrics.jsonl").read_text()
    kept = set_aside(tmp_path, 2)
    assert kinds(kept) == [("validation", 0), ("train", 0), ("train", 1), ("validation", 2)]
    assert lines(tmp_path / "metrics.jsonl") == kept
    aside = tmp_path / "aside.1"
    assert kinds(lines(aside / "metrics.jsonl")) == [("train", 2), ("train", 3), ("validation", 4)]
    assert (tmp_path / "metrics.jsonl").read_text() + (aside / "metrics.jsonl").read_text() == before
    found = sorted(path.relative_to(tmp_path).as_posix() for path in tmp_path.rglob("step-*"))
    assert found == [
        "aside.1/pictures/step-000004.png",
        "aside.1/samples/step-000004.parquet",
        "pictures/step-000000.png",
        "pictures/step-000002.png",
        "samples/step-000000.parquet",
        "samples/step-000002.parquet",
    ]
    assert set_aside(tmp_path, 2) == kept
    assert not (tmp_path / "aside.2").exists(), "there was nothing left to set aside"


def test_a_run_without_a_checkpoint_begins_anew(tmp_path: Path) -> None:
    """The policy that it starts from is the same, and was validated."""
    assert kinds(set_aside(run(tmp_path), 0)) == [("validation", 0)]


def test_half_a_line_of_a_killed_run_goes_too(tmp_path: Path) -> None:
    (tmp_path / "metrics.jsonl").write_text(record("train", 0) + record("train", 1)[:20])
    set_aside(tmp_path, 1)
    assert (tmp_path / "metrics.jsonl").read_text() == record("train", 0)
    assert (tmp_path / "aside.1" / "metrics.jsonl").read_text() == record("train", 1)[:20] + "\n"


def test_a_second_interruption_has_a_folder_of_its_own(tmp_path: Path) -> None:
    set_aside(run(tmp_path), 3)
    set_aside(tmp_path, 1)
    assert kinds(lines(tmp_path / "aside.2" / "metrics.jsonl")) == [("train", 1), ("validation", 2), ("train", 2)]


def test_the_log_of_a_resumed_run_holds_every_record_once(tmp_path: Path) -> None:
    log = MetricsLog(tmp_path, 0)
    for step in range(3):
        log.write("train", step, {"x": float(step)})
        log.write("validation", step + 1, {"x": step + 0.5})
    log.close()
    time.sleep(1.1)  # tensorboardX names its files after the second
    resumed = MetricsLog(tmp_path, 2)
    assert resumed.has("validation", 2)
    assert not resumed.has("train", 2)
    assert not resumed.has("validation", 3)
    resumed.write("train", 2, {"x": 7.0})
    assert resumed.has("train", 2)
    resumed.close()
    expected = [("train", 0), ("validation", 1), ("train", 1), ("validation", 2), ("train", 2)]
    assert kinds(lines(tmp_path / "metrics.jsonl")) == expected
    files = (tmp_path / "tensorboard").iterdir()
    first, second = sorted((list(events(file)) for file in files), key=lambda found: found[0].wall_time)
    assert [(e.step, e.summary.value[0].tag, e.summary.value[0].simple_value) for e in first if e.summary.value] == [
        (0, "train/x", 0.0),
        (1, "validation/x", 0.5),
        (1, "train/x", 1.0),
        (2, "validation/x", 1.5),
        (2, "train/x", 2.0),
        (3, "validation/x", 2.5),
    ]
    # TensorBoard drops what it read of the step of a SessionLog.START and of later ones.
    started = next(i for i, event in enumerate(second) if event.HasField("session_log"))
    assert second[started].step == 2
    shown = [(e.step, e.summary.value[0].tag, e.summary.value[0].simple_value) for e in second[started + 1 :]]
    assert shown == [(2, "validation/x", 1.5), (2, "train/x", 7.0)]


def events(file: Path) -> Iterator[Event]:
    """TFRecord: length, its checksum, the event, its checksum."""
    content, at = file.read_bytes(), 0
    while at < len(content):
        (length,) = struct.unpack_from("<Q", content, at)
        yield Event.FromString(content[at + 12 : at + 12 + length])
        at += 16 + length
