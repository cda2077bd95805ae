"""What each example makes of an answer, by numbers worked out by hand; and that its configuration trains for it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from examples.ar.run import GAP, placed
from examples.in_car.run import sentence
from examples.robot.run import HEAD, Camera, decision, goal
from examples.smart_home.run import reaction
from orchestrator.evaluation.answers import Answer
from pointing.coordinates import Frame, Size
from pointing.rewards import PUBLISHED, score
from policy.conversation.question import question_text
from schemas.config import TrainConfig
from schemas.config.file import load
from schemas.scoring import FrameSpec

ROOT = Path(__file__).parents[2]
NAMES = ("smart_home", "robot", "ar", "in_car")


def answer(name: str | None = "red star", target: Any = (40.0, 20.0, 60.0, 40.0), confidence: float = 1.0) -> Answer:
    frame = FrameSpec(original_size=(100, 80))
    rest: dict[str, Any] = {
        "hand": None,
        "ray": None,
        "ended_by": "answer",
        "turns": (),
        "response": "",
        "frame": frame,
    }
    return Answer(id="a", image="a.png", question="?", name=name, target=target, confidence=confidence, **rest)


def test_a_home_switches_what_is_named_asks_when_unsure_and_leaves_negatives_alone() -> None:
    assert reaction(answer(), "on") == "publish garden/lights/set on"
    assert reaction(answer("Blue Square"), "off") == "publish living/tv/set off"
    assert reaction(answer(confidence=0.25), "on") == "ask: do you mean garden/lights?"
    assert reaction(answer("a starling"), "on") == "ask: what is a starling?"
    assert reaction(answer(None, None), "on") == "nothing: nobody points"


def test_a_goal_in_the_robot_s_frame() -> None:
    """A focal length of 100 px, 2 m away, 10 px left of the centre and 10 above: 0.2 m left and 0.2 m up."""
    camera = Camera(100.0, (60.0, 40.0), HEAD)
    depth = np.full((80, 120), 2.0)
    assert goal((40, 20, 60, 40), depth, camera) == pytest.approx([2.0, 0.2, 1.4])
    depth[:, :48] = 9.0  # the wall behind it, in the left of the box
    depth[30:, :] = 0.0  # not measured
    assert goal((40, 20, 60, 40), depth, camera) == pytest.approx([2.0, 0.2, 1.4])
    assert goal((40, 45, 60, 60), depth, camera) is None
    assert decision(answer(confidence=0.25), depth, camera) == 'say "I am not sure": 25% of the draws agree'
    assert decision(answer(target=None), depth, camera) == "stay: nobody points"
    assert decision(answer(), depth, camera) == "move to x 2.00 m, y 0.20 m, z 1.40 m"
    assert decision(answer(target=(40.0, 45.0, 60.0, 60.0)), depth, camera).startswith('say "I cannot see')


def test_a_card_stays_within_the_view_and_beside_its_target() -> None:
    view, size = (200, 100), (60.0, 20.0)
    for left, top in ((0, 0), (90, 60), (190, 90), (190, 0), (0, 90)):
        target = (float(left), float(top), left + 10.0, top + 10.0)
        card = placed(target, size, view)
        assert card.box[0] >= 0 and card.box[2] <= view[0] and card.box[1] >= 0 and card.box[3] <= view[1]  # noqa: PT018
        assert card.box[3] <= target[1] or card.box[1] >= target[3]
    above = placed((90, 60, 110, 80), size, view)
    assert above.box == (70, 60 - GAP - 20, 130, 60 - GAP)
    assert (above.anchor, above.tie) == ((100, 60), (100, 60 - GAP))


def test_a_car_says_where_or_nothing() -> None:
    assert sentence(answer(), 100) == "That is the red star ahead."
    assert sentence(answer("a church", (0.0, 0.0, 20.0, 20.0)), 100) == "That is a church on the left."
    assert sentence(answer(None, (80.0, 0.0, 90.0, 9.0), 0.25), 100) == (
        "I am not certain; perhaps something that I have no name for on the right."
    )
    assert sentence(answer(None, None), 100) is None


@pytest.mark.parametrize("name", NAMES)
def test_its_configuration_has_a_question_negatives_and_weights_of_its_own(
    name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(ROOT)
    config = load(TrainConfig, ROOT / "examples" / name / "config.yaml").config
    asked = question_text("What is that?", config.data.prompt_style, "pixels")
    assert "What is that?" in asked
    assert len(asked) > 50
    rules = config.reward.rules
    assert rules != PUBLISHED
    frame = Frame("pixels", Size(100, 60), Size(100, 60))
    assert score("<answer>Nothing is pointed at.</answer>", None, frame, rules).reward == 10
    assert score("", None, frame, rules).reward == 0
    others = [load(TrainConfig, ROOT / "examples" / other / "config.yaml").config for other in NAMES if other != name]
    assert all(rules != other.reward.rules for other in others)
