"""The rewards of the configurations for real models: no way to earn without pointing, but in the published one."""

from __future__ import annotations

from pathlib import Path

import pytest

from pointing.prompts import transcript
from pointing.rewards import PUBLISHED, score
from schemas.config import TrainConfig
from schemas.config.file import load
from schemas.scoring import RewardRules
from schemas.task import NEGATIVE
from tests.pointing.test_hardening import CALL, CAPTION, FRAME, GOOD, HAND, TARGET, TRUTH

FOLDER = Path(__file__).resolve().parents[2] / "configs"
TEXTS = {file.name: file.read_text(encoding="utf-8") for file in FOLDER.glob("*.yaml")}
SHIPPED = {name: FOLDER / name for name, text in TEXTS.items() if "rollout:" in text and "path: /path/to/" in text}


def rules(name: str) -> RewardRules:
    return load(TrainConfig, SHIPPED[name]).config.reward.rules


def test_the_published_configuration_has_the_published_rules() -> None:
    assert {name for name in SHIPPED if rules(name) == PUBLISHED} == {"published.yaml"}
    assert RewardRules() == PUBLISHED


@pytest.mark.parametrize("name", sorted(SHIPPED.keys() - {"published.yaml"}))
def test_silence_and_a_lone_box_earn_nothing_and_an_honest_reply_everything(name: str) -> None:
    found = rules(name)
    assert score("", None, FRAME, found).reward == 0
    assert score(CAPTION + TARGET, TRUTH, FRAME, found).reward == 0
    assert score(HAND + CAPTION + TARGET, TRUTH, FRAME, found).reward == 0
    assert score(HAND + CALL + CAPTION + "<|box_start|>[80, 40, 60, 20]<|box_end|>", TRUTH, FRAME, found).reward < 5
    assert score(GOOD, TRUTH, FRAME, found).reward == score(GOOD, TRUTH, FRAME).reward
    assert score("\n".join(transcript(NEGATIVE, FRAME)), None, FRAME, found).reward == 10
