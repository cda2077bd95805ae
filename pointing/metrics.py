"""Evaluation metrics of pointing: one `Measurement` per reply, and their `Summary` over a dataset.

Unlike the reward, metrics leave out what cannot be measured: a part absent from the ground truth is in no mean. A box
that the reply lacks has IoU 0. A ray or keypoints that it lacks have no error; `ray_rate` and `keypoint_rate` say how
often they were there. All in original pixels.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Hashable, Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import Literal

from pointing import geometry
from pointing.coordinates import Frame
from pointing.grammar import ANSWER_CLOSE, ANSWER_OPEN, Reply, parse
from pointing.parts import Prediction, RawTruth, Truth, predict, read_truth

TargetSize = Literal["small", "medium", "large"]
TARGET_SIZES: tuple[TargetSize, ...] = ("small", "medium", "large")
SMALL, MEDIUM = 0.0048, 0.0175  # upper bounds, as shares of the image's area
THRESHOLDS = (0.25, 0.5, 0.75)
FARTHEST = 10.0  # keypoint errors are cut here, lest one absurd number decide a mean

_IDENTITY = Frame.identity()
Drawn = tuple[Hashable, "Measurement"]  # a reply's task, and its measurement


@dataclass(frozen=True, slots=True)
class Measurement:
    """One reply against its ground truth. None where the ground truth, or for errors the reply, has nothing to measure.

    `marked`: the reply claims to see something (a box, point, caption or tool call that counts). `well_formed`: it has
    the form of a complete transcript, right or wrong. `ray_error` is in degrees, `keypoint_error` the mean distance of
    the two keypoints over the diagonal of the true hand box. `ray_found` and `keypoints_found` are None where the
    ground truth lacks them.

    >>> measure("<|box_start|>[0, 0, 10, 20]<|box_end|>", {"obj_bbox": [0, 0, 10, 10]}).object_iou
    0.5
    """

    negative: bool
    marked: bool
    well_formed: bool
    object_iou: float | None = None
    target_size: TargetSize | None = None
    hand_iou: float | None = None
    ray_found: bool | None = None
    ray_error: float | None = None
    keypoints_found: bool | None = None
    keypoint_error: float | None = None
    caption_correct: bool | None = None


def measure(reply: str, truth: RawTruth, frame: Frame = _IDENTITY) -> Measurement:
    """Measures a reply written in `frame`. `truth` is read as `read_truth` does. Never raises.

    In the identity frame, whose image may have any size, the target's size class is unknown.
    """
    said, known = parse(reply), read_truth(truth)
    marked = bool(said.boxes or said.points or said.captions or said.rays)
    if known is None:
        return Measurement(negative=True, marked=marked, well_formed=_well_formed(reply, said))
    found = predict(said, frame)
    ray_error = _ray_error(found, known)
    keypoint_error = _keypoint_error(found, known)
    return Measurement(
        negative=False,
        marked=marked,
        well_formed=_well_formed(reply, said),
        object_iou=_iou(found.target, known.target),
        target_size=_target_size(known.target, frame),
        hand_iou=_iou(found.hand, known.hand),
        ray_found=None if known.ray is None else ray_error is not None,
        ray_error=ray_error,
        keypoints_found=keypoint_error is not None if _hand_scale(known) else None,
        keypoint_error=keypoint_error,
        caption_correct=_caption_correct(said, known),
    )


def _well_formed(reply: str, said: Reply) -> bool:
    """Either an answer without marks, or a hand and two points, one call that counts, then one captioned box."""
    if not (said.boxes or said.points or said.captions or said.tool_calls):
        opened = reply.find(ANSWER_OPEN)
        return opened >= 0 and reply.find(ANSWER_CLOSE, opened) >= 0
    head = len(said.boxes) - len(said.tail_boxes)
    one_call = len(said.tool_calls) == 1 and len(said.rays) == 1
    return one_call and head == 1 and len(said.points) == 2 and len(said.tail_boxes) == 1 and len(said.captions) == 1


def _iou(found: geometry.Box | None, true: geometry.Box | None) -> float | None:
    if true is None:
        return None
    return 0.0 if found is None else geometry.iou(found, true)


def _target_size(target: geometry.Box | None, frame: Frame) -> TargetSize | None:
    if target is None or frame == _IDENTITY:
        return None
    share = geometry.area(target) / frame.original.area
    if share < SMALL:
        return "small"
    return "medium" if share < MEDIUM else "large"


def _ray_error(found: Prediction, known: Truth) -> float | None:
    if found.ray is None or known.ray is None:
        return None
    angle = geometry.angle(found.ray, known.ray)
    return None if angle is None else math.degrees(angle)


def _keypoint_error(found: Prediction, known: Truth) -> float | None:
    scale = _hand_scale(known)
    if found.keypoints is None or known.keypoints is None or scale is None:
        return None
    (base, tip), (true_base, true_tip) = found.keypoints, known.keypoints
    error = (geometry.distance(base, true_base) + geometry.distance(tip, true_tip)) / 2 / scale
    return None if math.isnan(error) else min(error, FARTHEST)


def _hand_scale(known: Truth) -> float | None:
    """Diagonal of the true hand box, None if keypoint errors have nothing to be measured by."""
    if known.keypoints is None or known.hand is None:
        return None
    size = geometry.diagonal(known.hand)
    return size if geometry.SHORTEST < size < math.inf else None


def _caption_correct(said: Reply, known: Truth) -> bool | None:
    if not known.name:
        return None
    return bool(said.captions) and normalise_caption(said.captions[-1]) == normalise_caption(known.name)


def normalise_caption(caption: str) -> str:
    """Lower case, without punctuation, a leading article, or spare white space.

    >>> normalise_caption("  The Red-Star. ")
    'red star'
    """
    words = re.sub(r"[\W_]+", " ", caption.casefold()).split()
    return " ".join(words[1:] if len(words) > 1 and words[0] in ("a", "an", "the") else words)


@dataclass(frozen=True, slots=True)
class Estimate:
    """A mean over `count` replies to `tasks` tasks. `standard_error` is None for a single task.

    Draws of one task are not independent: a hand that is easy to find is found in all of them. The error is therefore
    that of a mean over tasks, however many draws each has (the ratio estimator of cluster sampling: W. G. Cochran,
    Sampling Techniques, 1977, section 9A). With one reply a task it is the usual one.

    >>> Estimate.of([0.0, 1.0])
    Estimate(mean=0.5, count=2, standard_error=0.5, tasks=2)
    >>> Estimate.of([0.0, 0.0, 1.0, 1.0], ["a", "a", "b", "b"]).standard_error
    0.5
    """

    mean: float
    count: int
    standard_error: float | None
    tasks: int

    @classmethod
    def of(cls, values: Sequence[float], tasks: Sequence[Hashable] | None = None) -> Estimate:
        """The mean of at least one value. `tasks` names the task of each; None: every value has its own."""
        count = len(values)
        mean = math.fsum(values) / count
        by_task: dict[Hashable, list[float]] = {}
        for name, value in zip(range(count) if tasks is None else tasks, values, strict=True):
            by_task.setdefault(name, []).append(value - mean)
        n = len(by_task)
        if n == 1:
            return cls(mean, count, None, 1)
        variance = math.fsum(math.fsum(each) ** 2 for each in by_task.values()) / (n - 1)
        return cls(mean, count, math.sqrt(n * variance) / count, n)


@dataclass(frozen=True, slots=True)
class Summary:
    """Means over a dataset by name; a metric that no reply could be measured on is absent.

    >>> summarise([measure("", None), measure("<|point_start|>[1, 2]<|point_end|>", None)])["false_alarm_rate"].mean
    0.5
    """

    replies: int
    positives: int
    negatives: int
    estimates: Mapping[str, Estimate]

    def __getitem__(self, name: str) -> Estimate:
        return self.estimates[name]

    def flat(self) -> dict[str, float]:
        """For a log: each mean under its name, its standard error under NAME_se and its count under NAME_n."""
        out = {"replies": float(self.replies), "positives": float(self.positives), "negatives": float(self.negatives)}
        for name, estimate in self.estimates.items():
            out[name] = estimate.mean
            out[f"{name}_n"] = float(estimate.count)
            if estimate.standard_error is not None:
                out[f"{name}_se"] = estimate.standard_error
        return out


def _reaches(threshold: float) -> Value:
    return lambda m: None if m.object_iou is None else m.object_iou >= threshold


Value = Callable[[Measurement], float | None]
_ACCURACIES: Mapping[str, Value] = {f"object_acc_{round(100 * t)}": _reaches(t) for t in THRESHOLDS}
# What is averaged, by name: None of a reply that it does not apply to, and of a negative most do not.
VALUES: Mapping[str, Value] = MappingProxyType(
    {
        "object_iou": lambda m: m.object_iou,
        "hand_iou": lambda m: m.hand_iou,
        "ray_error_deg": lambda m: m.ray_error,
        "ray_rate": lambda m: m.ray_found,
        "keypoint_error": lambda m: m.keypoint_error,
        "keypoint_rate": lambda m: m.keypoints_found,
        "caption_accuracy": lambda m: m.caption_correct,
        "format_rate": lambda m: m.well_formed,
        "miss_rate": lambda m: None if m.negative else not m.marked,
        "false_alarm_rate": lambda m: m.marked if m.negative else None,
        **_ACCURACIES,
    }
)


def summarise(measurements: Sequence[Measurement], tasks: Sequence[Hashable] | None = None) -> Summary:
    """Means of IoU, accuracy at each threshold (overall, and by size of the target), errors and rates.

    `tasks` names the task of each measurement, so that standard errors know draws of one task; None: each has its own.
    """
    drawn = list(zip(range(len(measurements)) if tasks is None else tasks, measurements, strict=True))
    estimates = {name: _estimate(drawn, value) for name, value in VALUES.items()}
    for size in TARGET_SIZES:
        of_size = [(task, m) for task, m in drawn if m.target_size == size]
        estimates |= {f"{name}_{size}": _estimate(of_size, VALUES[name]) for name in _ACCURACIES}
    known = {name: estimate for name, estimate in estimates.items() if estimate is not None}
    negatives = sum(m.negative for _, m in drawn)
    return Summary(len(drawn), len(drawn) - negatives, negatives, known)


def _estimate(drawn: Sequence[Drawn], value: Value) -> Estimate | None:
    """Of the measurements on which there is a value; None where there is none."""
    known = [(task, float(found)) for task, m in drawn if (found := value(m)) is not None]
    return Estimate.of([found for _, found in known], [task for task, _ in known]) if known else None
