"""What was not measured is null in the file and nowhere else."""

import json
import math
from pathlib import Path

from tensorboardX.proto.event_pb2 import Event

from orchestrator.batch.numbers import learner_numbers
from orchestrator.telemetry.metrics import MetricsLog
from policy.learning.reports import StepLimits, StepReport, summarise
from policy.learning.sums import SUMS, LossSums
from tests.orchestrator.run_folder.test_set_aside import events

SUMS_OF_A_STEP = LossSums(**(dict.fromkeys(SUMS, 1.0) | {"tokens": 10.0, "kl_tokens": 10.0, "kl": 50.0}))


def written(folder: Path) -> tuple[list[dict[str, float | None]], set[tuple[int, str]]]:
    """The records of the file, and the points of TensorBoard."""
    records = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    found: list[Event] = [event for file in (folder / "tensorboard").iterdir() for event in events(file)]
    return records, {(event.step, value.tag) for event in found for value in event.summary.value}


def test_a_skipped_update_logs_null_for_what_it_did_not_measure(tmp_path: Path) -> None:
    log = MetricsLog(tmp_path, 0)
    steps = {
        0: StepReport(SUMS_OF_A_STEP, 0.1, 2.0),
        1: StepReport(SUMS_OF_A_STEP, 0.1, 2.0).held_to(StepLimits(kl=1.0)),
        2: StepReport(SUMS_OF_A_STEP, 0.1, math.nan),
    }
    for number, step in steps.items():
        log.write("train", number, learner_numbers(summarise([step], lr=0.5)) | {"reward/mean": 3.0})
    log.close()
    (taken, over, lost), points = written(tmp_path)
    assert (taken["learner/loss"], taken["learner/kl"], taken["learner/entropy"]) == (1.0, 5.0, 0.1)
    assert (over["learner/loss"], over["learner/kl"], over["learner/entropy"]) == (None, 5.0, None)
    assert (lost["learner/loss"], lost["learner/kl"], lost["learner/entropy"]) == (None, None, None)
    assert taken.keys() == over.keys() == lost.keys()
    assert [record["learner/skipped"] for record in (taken, over, lost)] == [0, 1, 1]
    assert {step for step, tag in points if tag == "train/learner/loss"} == {0}
    assert {step for step, tag in points if tag == "train/learner/kl"} == {0, 1}
    assert {step for step, tag in points if tag == "train/reward/mean"} == {0, 1, 2}


def test_a_resumed_log_shows_no_point_for_what_is_null(tmp_path: Path) -> None:
    """TensorBoard hides the validation of the step that a run goes on from, so it is written there again."""
    log = MetricsLog(tmp_path, 0)
    log.write("validation", 1, {"sampled/reward": 2.0, "sampled/ray_error_deg": math.nan})
    log.close()
    for file in (tmp_path / "tensorboard").iterdir():
        file.unlink()
    MetricsLog(tmp_path, 1).close()
    assert written(tmp_path)[1] == {(1, "validation/sampled/reward")}
