"""Every advantage and every loss that the configuration offers trains the shipped model through the whole loop.

One Ray session: the engine, the reward and the reference stay, each method gets a learner and a run folder of its own.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, get_args

import pytest
from pydantic import ValidationError

from orchestrator.after_step import Watch
from orchestrator.batch.progress import Position, Progress
from orchestrator.batch.tasks import read_split
from orchestrator.loop import train
from orchestrator.roles.cluster import Cluster, Players, connect, recoveries_of
from orchestrator.roles.critic import CriticRole, NoCritic
from orchestrator.roles.learner import LearnerRole
from orchestrator.roles.reference import NoReference, ReferenceRole
from orchestrator.run_folder.folder import critic_of, open_run
from orchestrator.telemetry.metrics import MetricsLog, PlainScreen
from policy.state.checkpoint import is_complete, read_extra
from schemas.config import Advantage, LossName, TrainConfig
from tests.small_run import small_run

STEPS = 20
SHIPPED = Path(__file__).resolve().parents[2] / "models" / "tiny"
ADAPTIVE = {"coefficient": 0.05, "controller": "adaptive", "target": 1e-4, "horizon": 320}


@dataclass(frozen=True)
class Method:
    """An advantage and a loss, with other parts of the method along the way."""

    advantage: Advantage
    loss: LossName
    kl: dict[str, Any] = field(default_factory=lambda: {"coefficient": 0.0})
    algorithm: dict[str, Any] = field(default_factory=dict)
    loss_options: dict[str, Any] = field(default_factory=dict)
    optimiser: dict[str, Any] = field(default_factory=dict)
    critic: dict[str, Any] | None = None

    def __str__(self) -> str:
        return f"{self.advantage}-{self.loss}"

    def settings(self) -> dict[str, Any]:
        """The algorithm section."""
        loss = {"name": self.loss} | self.loss_options
        return {"advantage": self.advantage, "loss": loss, "kl": self.kl} | self.algorithm


METHODS = [
    Method("grpo", "ppo_clip", kl=ADAPTIVE | {"estimator": "k3"}, algorithm={"adaptive": {}}),
    Method("dr_grpo", "gspo", kl=ADAPTIVE | {"estimator": "full"}, loss_options={"denominator": "sequence"}),
    Method("grpo_passk", "cispo", algorithm={"mismatch": {"level": "sequence", "mode": "mask"}}),
    Method("rloo", "sapo", optimiser={"state_dtype": "bfloat16"}),
    Method("reinforce_plus_plus", "gspo_token", kl=ADAPTIVE | {"place": "reward", "estimator": "k1"}),
    Method(
        "reinforce_plus_plus_baseline",
        "cispo",
        algorithm={"overlong": {"limit": 70, "buffer": 20}, "mask_truncated": True},
        loss_options={"entropy_coefficient": 0.001},
    ),
    Method(
        "remax",
        "ppo_clip",
        algorithm={"dynamic_sampling": {"min_spread": 0.5}, "mismatch": {"mode": "mask", "limit": 5.0}},
        loss_options={"clip_high": 0.28, "denominator": "constant", "constant": 1280.0},
    ),
    Method(
        "gae",
        "ppo_clip",
        kl=ADAPTIVE | {"estimator": "k2"},
        algorithm={"dynamic_sampling": {"min_spread": 0.1}, "gamma": 0.99},
        critic={"optimiser": {"lr": 1e-3, "state_dtype": "bfloat16"}, "mini_batches": 2, "layout": "packed"},
    ),
]


def configured(method: Method, scenes: Path, folder: Path) -> TrainConfig:
    return TrainConfig.model_validate(
        small_run(
            scenes,
            folder,
            run={"name": str(method)},
            algorithm=method.settings(),
            # Two optimiser steps: the second one's ratio is not 1.
            learner={"optimiser": {"lr": 1e-4} | method.optimiser, "mini_batches": 2},
            critic=method.critic,
            validation={"before": True, "after": True},
            trainer={"max_steps": STEPS},
        )
    )


class SharedCluster(Cluster):
    """A learner, and a critic if need be, of its own beside an engine, a reward and a reference that are there."""

    def __init__(self, config: TrainConfig, players: Players, reference: ReferenceRole) -> None:
        self._nccl, self._timeout_s = False, config.resources.call_timeout_s
        self.recoveries, self.rollout, self.reward = players.recoveries, players.rollout, players.reward
        self.learner = LearnerRole(config, STEPS, self.recoveries)
        self.reference = reference if config.starts_reference else NoReference()
        self.critic = CriticRole(config, STEPS, self.recoveries) if config.critic else NoCritic()


@pytest.fixture(scope="module")
def players(scenes: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Players, ReferenceRole]]:
    config = configured(METHODS[0], scenes, tmp_path_factory.mktemp("unused"))
    connect(config.resources)
    started = Players(config, recoveries_of(config))
    try:
        yield started, ReferenceRole.spawn(config, started.recoveries)
    finally:
        started.shutdown()


def test_every_method_is_among_them() -> None:
    assert {method.advantage for method in METHODS} == set(get_args(Advantage))
    assert {method.loss for method in METHODS} == set(get_args(LossName))


@pytest.mark.slow
@pytest.mark.cluster
@pytest.mark.parametrize("method", METHODS, ids=str)
def test_it_trains(players: tuple[Players, ReferenceRole], scenes: Path, tmp_path: Path, method: Method) -> None:
    config = configured(method, scenes, tmp_path)
    folder, tasks = open_run(config.run, config), read_split(config, "train")
    cluster, log = SharedCluster(config, *players), MetricsLog(folder.root, 0)
    try:
        cluster.start(None)
        cluster.publish_weights(version=0)
        progress = Progress(config, tasks, Position())
        train(config, cluster, progress, Watch(config, cluster, folder, (), log, PlainScreen(STEPS, 0)))
    finally:
        log.close()
        cluster.learner.group.group.stop()
        if isinstance(cluster.critic, CriticRole):
            cluster.critic.group.group.stop()

    records = [json.loads(line) for line in folder.metrics.read_text().splitlines()]
    assert [record["step"] for record in records] == list(range(STEPS))
    for record in records:
        numbers = [value for value in record.values() if not isinstance(value, str)]
        assert all(value is not None and math.isfinite(value) for value in numbers)
        assert record["learner/optimiser_steps"] == 2
        assert record["learner/skipped"] == 0
        assert record["learner/mismatch_max"] < 1e-3
        assert record["learner/mismatch_ratio"] == pytest.approx(1, abs=1e-4)
        assert record["learner/mismatch_kl"] < 1e-6
        assert record["learner/trained_tokens"] <= record["reply/trained_tokens"]  # no greedy reply among them
    assert any(record["learner/grad_norm"] > 0 for record in records)
    assert any(record["learner/ratio"] != 1 for record in records)
    if method.critic is not None:
        assert all(record["critic/optimiser_steps"] == 2 and record["critic/skipped"] == 0 for record in records)
        assert is_complete(critic_of(folder.checkpoint(STEPS)))
    saved = read_extra(folder.checkpoint(STEPS))
    assert saved["step"] == STEPS
    if method.kl["coefficient"]:
        assert records[-1]["learner/kl"] != 0
        assert saved["kl_coefficient"] == pytest.approx(progress.kl.coef)
        assert saved["kl_coefficient"] != pytest.approx(0.05, rel=1e-3)  # the controller moved it, and it is kept
    if "dynamic_sampling" in method.algorithm:
        played = sum(record["dynamic/groups_played"] for record in records)
        dealt = saved["cursor"]["epoch"] * len(tasks) + saved["cursor"]["position"]
        assert played == dealt > 4 * STEPS
    else:
        assert "dynamic/rounds" not in records[0]


@pytest.mark.parametrize(
    ("algorithm", "reason"),
    [
        ({"advantage": "remax", "adaptive": {}}, "'remax' does not form by group"),
        ({"advantage": "reinforce_plus_plus", "adaptive": {}}, "not form by group"),
        ({"advantage": "rloo", "gamma": 1.0}, "gamma=1.0 has no effect"),
        ({"advantage": "reinforce_plus_plus_baseline", "gamma": 0.9}, "gamma=0.9 has no effect"),
        ({"kl": {"coefficient": 0.1, "estimator": "k1"}}, "expected gradient of 0"),
    ],
)
def test_parts_that_do_not_work_together_are_refused(tmp_path: Path, algorithm: dict[str, Any], reason: str) -> None:
    with pytest.raises(ValidationError, match=reason):
        configured(Method("grpo", "ppo_clip", algorithm=algorithm), tmp_path, tmp_path)


def test_methods_that_work_are_not_refused(tmp_path: Path) -> None:
    for method in (*METHODS, Method("reinforce_plus_plus", "cispo", algorithm={"gamma": 0.9})):
        configured(method, tmp_path, tmp_path)
