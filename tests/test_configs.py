"""Every shipped configuration parses, and the quickstart's paths are those that make train makes."""

import re
import shlex
from pathlib import Path

import pytest
import yaml

from pointing.coordinates import Frame, Size
from pointing.rewards import PUBLISHED, score
from schemas.config import SftConfig, TinyConfig, TrainConfig
from schemas.config.file import load
from schemas.config.pointer import PointerConfig
from schemas.config.service import ServiceConfig

ROOT = Path(__file__).resolve().parent.parent
CONFIGS = sorted((ROOT / "configs").glob("*.yaml"))


def kind(file: Path) -> type:
    """Which configuration a file is, by its sections."""
    sections = yaml.safe_load(file.read_text(encoding="utf-8"))
    if "rollout" in sections:
        return TrainConfig
    if "architecture" in sections:
        return TinyConfig
    if "trainer" in sections:
        return SftConfig
    return PointerConfig if "pointer" in sections else ServiceConfig


@pytest.mark.parametrize("file", CONFIGS, ids=lambda f: f.name)
def test_it_parses(file: Path) -> None:
    load(kind(file), file)


HAND, TARGET = "<|box_start|>[10, 10, 40, 50]<|box_end|>", "<|box_start|>[60, 20, 80, 40]<|box_end|>"
CALL = '<tool_call>{"name": "draw_ray", "start": [30, 30], "end": [60, 30], "color": "red"}</tool_call>'
CAPTION = "<|caption_start|>cup<|caption_end|>"
FRAME = Frame("pixels", Size(100, 60), Size(100, 60))
TRUTH = {
    "hand_bbox": [10, 10, 40, 50],
    "pointing_keypoints": [[30, 30], [60, 30]],
    "pointing_ray": {"start": [30, 30], "end": [60, 30]},
    "obj_bbox": [60, 20, 80, 40],
}
# What each reply earns under the published rules but with negative_max 10, and where silence is not paid for.
REPLIES = {
    "silence to a negative": ("", None, 10.0, 0.0),
    "an answer to a negative": ("<answer>Nobody is pointing.</answer>", None, 10.0, 10.0),
    "a captioned box alone": (CAPTION + TARGET, TRUTH, 7.0, 0.0),
    "the whole": (HAND + CALL + CAPTION + TARGET, TRUTH, 10.0, 10.0),
    "an inverted box": (HAND + CALL + CAPTION + "<|box_start|>[80, 40, 60, 20]<|box_end|>", TRUTH, 10.0, 0.32),
}
SMALL_MODEL = {"quickstart.yaml", "ppo.yaml", "dapo.yaml"}  # whose measured numbers are of their rules


@pytest.mark.parametrize("file", CONFIGS, ids=lambda f: f.name)
def test_what_shipped_configurations_pay_for(file: Path) -> None:
    config = load(kind(file), file).config
    if not isinstance(config, TrainConfig | ServiceConfig):
        return
    rules = config.reward.rules
    earned = {name: score(reply, truth, FRAME, rules).reward for name, (reply, truth, *_) in REPLIES.items()}
    if file.name == "published.yaml":
        assert rules == PUBLISHED
        assert (earned["silence to a negative"], earned["a captioned box alone"]) == (1.0, 7.0)
        return
    assert earned == pytest.approx({name: row[2 if file.name in SMALL_MODEL else 3] for name, row in REPLIES.items()})


def test_the_quickstart_uses_every_role() -> None:
    config = load(TrainConfig, ROOT / "configs" / "quickstart.yaml").config
    assert config.uses_reference
    assert config.resources.learner.count == 2
    assert config.algorithm.adaptive is not None
    made = (ROOT / "Makefile").read_text(encoding="utf-8")
    assert f"pointvg scenes {Path(str(config.data.train_files)).parent}" in made


def test_the_commands_for_a_gpu_parse() -> None:
    """Of docs/clusters.md, which nobody without a GPU can run."""
    text = (ROOT / "docs" / "clusters.md").read_text(encoding="utf-8").replace("\\\n", " ")
    shared = re.search(r'ONE="(.*)"', text)
    assert shared
    commands = [shlex.split(line, comments=True) for line in re.findall(r"pointvg train (--config .*\$ONE.*)", text)]
    assert len(commands) == 4
    for _, file, *overrides in commands:
        given = [each for word in overrides for each in (shared[1].split() if word == "$ONE" else [word])]
        resources = load(TrainConfig, ROOT / file, given).config.resources
        assert resources.rollout.gpus
        assert resources.learner.gpus
