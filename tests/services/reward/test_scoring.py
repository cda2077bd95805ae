"""The scoring core: rows and items give the same numbers, and what cannot be scored is an error."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from types import SimpleNamespace

import pyarrow as pa
import pytest

from pointing import rewards
from schemas.batch import SCORES, SchemaError
from schemas.scoring import SCORE_TERMS, FrameSpec, RewardRules, ScoreItem
from services.reward import scoring

RULES = RewardRules(negative_max=10.0)
REWARD = scoring.BuiltIn(RULES)


def items_of(rollouts: pa.Table) -> list[ScoreItem]:
    return [
        ScoreItem(
            id=row["trajectory_id"],
            response=row["reply"],
            ground_truth=row["ground_truth"],
            frame=FrameSpec(kind=row["frame"], original_size=row["original_size"], seen_size=row["seen_size"]),
        )
        for row in rollouts.to_pylist()
    ]


def test_table_holds_exactly_the_scores_of_its_rows(rollouts: pa.Table) -> None:
    table = scoring.score_table(rollouts, REWARD)
    assert table.schema == SCORES
    assert table.column("trajectory_id").to_pylist() == rollouts.column("trajectory_id").to_pylist()
    for row, item in zip(table.to_pylist(), items_of(rollouts), strict=True):
        expected = rewards.score(item.response, item.ground_truth, scoring.item_of(item).frame, RULES)
        assert row["reward"] == expected.reward
        assert [row[term] for term in SCORE_TERMS] == [getattr(expected, term) for term in SCORE_TERMS]
    assert len(set(table.column("reward").to_pylist())) > 8
    assert table.column("neg").null_count == 12


def test_frame_is_applied_by_hand(make_rollouts: Callable[..., pa.Table]) -> None:
    truth = json.dumps({"obj_bbox": [32, 0, 160, 273]})
    thousandths = "<|box_start|>[100, 0, 500, 1000]<|box_end|>"
    seen = "<|box_start|>[31, 0, 154, 280]<|box_end|>"
    table = scoring.score_table(make_rollouts([thousandths, seen], [truth] * 2, ["thousandths", "pixels"]), REWARD)
    # 308 seen pixels are 320 original ones: 31 -> 32.2 and 154 -> 160
    expected = [1.0, (160 - 31 * 320 / 308) / 128]
    assert table.column("obj_iou").to_pylist() == pytest.approx(expected, rel=1e-12)


def test_no_rows_and_chunked_rows(rollouts: pa.Table) -> None:
    assert scoring.score_table(rollouts.slice(0, 0), REWARD).num_rows == 0
    chunked = pa.concat_tables([rollouts.slice(5), rollouts.slice(0, 5)])
    by_id = {row["trajectory_id"] + row["reply"]: row for row in rollouts.to_pylist()}
    assert len(by_id) == rollouts.num_rows
    assert scoring.score_table(chunked, REWARD).column("reward").to_pylist() == (
        scoring.score_table(rollouts, REWARD).column("reward").to_pylist()[5:]
        + scoring.score_table(rollouts, REWARD).column("reward").to_pylist()[:5]
    )


def test_a_wrong_table_is_refused_at_entry(rollouts: pa.Table) -> None:
    with pytest.raises(SchemaError, match="reward input: columns missing \\['reply'\\]"):
        scoring.score_table(rollouts.drop_columns(["reply"]), REWARD)


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_a_reward_that_is_not_finite_is_an_error_that_names_the_item(
    monkeypatch: pytest.MonkeyPatch, rollouts: pa.Table, value: float
) -> None:
    def broken(reply: str, *_: object) -> object:
        return rewards.Score(value) if reply == "" else rewards.Score(1.0)

    monkeypatch.setattr(rewards, "score", broken)
    with pytest.raises(scoring.ScoringError, match=r"item 5 \(0/t5/0\): the reward is not finite"):
        scoring.score_table(rollouts, REWARD)


def test_a_reward_that_raises_is_an_error_that_names_the_item(monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*_: object) -> SimpleNamespace:
        raise OverflowError("too large")

    monkeypatch.setattr(rewards, "score", broken)
    with pytest.raises(scoring.ScoringError, match="item 0: the reward raised OverflowError: too large"):
        REWARD.score([scoring.Item("", None)])


def test_scoring_needs_no_web_framework_and_no_cluster() -> None:
    """It also runs where neither is installed, as in a notebook that evaluates a model."""
    code = "import sys, services.reward.scoring; print(sorted({'ray', 'fastapi', 'torch'} & sys.modules.keys()))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
