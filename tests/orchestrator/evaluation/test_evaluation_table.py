"""The table of an evaluation: every number that was measured is in it, with its unit and interval."""

from __future__ import annotations

import io

from rich.console import Console

from orchestrator.evaluation.evaluation_table import GROUPS, print_evaluation
from pointing.coordinates import Frame
from pointing.metrics import measure, summarise
from pointing.prompts import transcript
from schemas.task import NEGATIVE, GroundTruth, RaySegment

TRUTH = GroundTruth(
    stage=2,
    hand_bbox=(10, 10, 30, 30),
    pointing_keypoints=((12, 12), (28, 28)),
    pointing_ray=RaySegment(start=(28, 28), end=(90, 90)),
    obj_bbox=(60, 60, 80, 80),
    obj_name="cup",
)


def numbers() -> dict[str, float]:
    right = "".join(transcript(TRUTH, Frame.identity()))
    measured = [measure(right, TRUTH, Frame.identity()), measure("", TRUTH, Frame.identity()), measure("", NEGATIVE)]
    found = summarise(measured).flat() | {"reward": 6.5, "reward_se": 0.25}
    return {f"{mode}/{key}": value for mode in ("sampled", "greedy") for key, value in found.items()}


def printed(given: dict[str, float]) -> str:
    out = io.StringIO()
    print_evaluation(given, Console(file=out, width=120))
    return out.getvalue()


def test_every_metric_has_its_row() -> None:
    """A new metric without a row fails here."""
    keys = {row.key for _, rows in GROUPS for row in rows}
    measured = {name.partition("/")[2] for name in numbers()} - {"replies", "positives", "negatives"}
    assert {key for key in measured if not key.endswith(("_se", "_n"))} <= keys


def test_values_have_units_and_intervals() -> None:
    text = printed(numbers())
    lines = {line.split("  ")[1].strip(): line for line in text.splitlines() if line.startswith("   ")}
    assert "6.50 ± 0.49" in lines["reward"]  # 1.96 x 0.25
    assert lines["reward"].rstrip().endswith("of 10")
    assert "50.0 ± 98.0" in lines["right names"]  # of two: 1.96 x 0.5
    assert lines["right names"].rstrip().endswith("%")
    assert lines["ray error"].rstrip().endswith("degrees")
    assert "3 replies, 2 where a hand points and 1 where none does" in text


def test_what_was_not_measured_takes_no_line() -> None:
    few = {key: value for key, value in numbers().items() if "greedy" not in key and "keypoint" not in key}
    text = printed(few)
    assert "keypoint" not in text
    assert "greedy" not in text
    few = {key: value for key, value in numbers().items() if key != "greedy/hand_iou"}
    assert "-" in next(line for line in printed(few).splitlines() if "hand mIoU" in line)
