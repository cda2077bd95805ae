"""Training's numbers as Ray metrics: gauges on the metrics port of the driver's node, for Prometheus.

    pointvg_train_*{run}                      of the last step: TRAIN below, and
    pointvg_train_step, _tokens_per_second    steps done; tokens trained on a second, the whole step counted
    pointvg_train_stage_seconds{stage}        seconds of each stage; stage "step" is the whole
    pointvg_validation_*{run, decoding}       of the last validation: reward, object_iou

Ray adds "ray_" in front and a label for the process. metrics.jsonl has every number; these are the ones to watch.
"""

from __future__ import annotations

from collections.abc import Mapping

from ray.util.metrics import Gauge

# Name in metrics.jsonl -> name of the gauge, after "pointvg_train_"; and what it is.
TRAIN: Mapping[str, tuple[str, str]] = {
    "reward/mean": ("reward_mean", "Mean reward of the step's trajectories"),
    "reward/obj_iou": ("object_iou", "Mean IoU of the object box, of the step's trajectories"),
    "reward/groups_without_spread": ("groups_without_spread", "Share of groups whose rewards are all equal"),
    "reply/tokens": ("reply_tokens", "Mean tokens of a reply"),
    "ended/answer": ("answered", "Share of trajectories that ended in an answer"),
    "learner/loss": ("loss", "Loss of the update"),
    "learner/kl": ("kl", "KL to the reference, mean over trained tokens"),
    "learner/entropy": ("entropy", "Entropy of the policy, mean over trained tokens"),
    "learner/grad_norm": ("grad_norm", "Gradient norm before clipping"),
    "learner/mismatch_max": ("mismatch_max", "Largest gap between the sampler's and the learner's log-probabilities"),
    "learner/skipped": ("skipped_steps", "Optimiser steps of this step that were skipped as not finite"),
    "pace/samples_per_second": ("samples_per_second", "Trajectories of the step a second, the whole step counted"),
    "pace/gpu_tokens_per_second": (
        "gpu_tokens_per_second",
        "All tokens of the step's trajectories a second and GPU, the whole step and the GPUs of all roles counted",
    ),
    "pace/mfu": ("mfu", "Model FLOPs utilisation of the update: text and vision"),
    "pace/mfu_text": ("mfu_text", "Its part of the language model"),
    "pace/mfu_vision": ("mfu_vision", "Its part of the vision tower"),
    "recovery/count": ("recoveries", "Actors or groups lost and brought back in this run"),
    "recovery/seconds": ("recovery_seconds", "Seconds these recoveries took together"),
}
VALIDATION: Mapping[str, str] = {
    "reward": "Mean reward on held-out tasks",
    "object_iou": "Mean IoU of the object box on held-out tasks",
}
STEP, RATE, STAGE = "pointvg_train_step", "pointvg_train_tokens_per_second", "pointvg_train_stage_seconds"


class Gauges:
    """Shows the last record of each kind. To be made in a process that has joined Ray."""

    def __init__(self, run: str) -> None:
        def gauge(name: str, description: str, *tags: str) -> Gauge:
            made = Gauge(name, description, ("run", *tags))
            made.set_default_tags({"run": run})
            return made

        self._train = {key: gauge(f"pointvg_train_{name}", words) for key, (name, words) in TRAIN.items()}
        self._step = gauge(STEP, "Steps done")
        self._rate = gauge(RATE, "Tokens trained on in a second, the whole step counted")
        self._stage = gauge(STAGE, "Seconds of a stage of the step", "stage")
        self._validation = {
            name: gauge(f"pointvg_validation_{name}", words, "decoding") for name, words in VALIDATION.items()
        }

    def show(self, kind: str, step: int, numbers: Mapping[str, float]) -> None:
        """What a record of metrics.jsonl knows; a gauge whose number it does not know stays as it was."""
        if kind == "validation":
            for key, value in numbers.items():
                decoding, _, name = key.partition("/")
                if name in self._validation:
                    self._validation[name].set(value, {"decoding": decoding})
            return
        self._step.set(step + 1)
        for key, gauge in self._train.items():
            if key in numbers:
                gauge.set(numbers[key])
        for key, value in numbers.items():
            if key.startswith("time/"):
                self._stage.set(value, {"stage": key.removeprefix("time/")})
        if "reply/trained_tokens" in numbers and numbers.get("time/step"):
            self._rate.set(numbers["reply/trained_tokens"] / numbers["time/step"])
