"""The configuration tree refuses what cannot work, by field, value and remedy."""

from pathlib import Path
from typing import Any, get_args

import pytest
import yaml

from schemas.batch import SCORES
from schemas.config import BatchPlan, SftConfig, TrainConfig
from schemas.config.file import ConfigError, load, to_yaml
from schemas.config.method import ScoreKey
from schemas.config.micro_batches import MicroBatches

MINIMAL: dict[str, Any] = {"model": {"path": "m"}, "data": {"train_files": "a.jsonl"}, "trainer": {"max_steps": 3}}


PPO = ["algorithm.advantage=gae", "critic={}"]


def write(tmp_path: Path, values: dict[str, Any]) -> Path:
    file = tmp_path / "c.yaml"
    file.write_text(yaml.safe_dump(values, sort_keys=False))
    return file


def refused(tmp_path: Path, *overrides: str, values: dict[str, Any] = MINIMAL) -> str:
    with pytest.raises(ConfigError) as caught:
        load(TrainConfig, write(tmp_path, values), overrides)
    return str(caught.value)


def test_overrides_win_and_their_origin_is_kept(tmp_path: Path) -> None:
    loaded = load(TrainConfig, write(tmp_path, MINIMAL), ["trainer.max_steps=7", "rollout.sampling.temperature=0.9"])
    assert loaded.config.trainer.max_steps == 7
    assert loaded.config.rollout.sampling.temperature == 0.9
    assert loaded.origins[("trainer", "max_steps")] == "command line"
    assert loaded.origins[("model", "path")].endswith("c.yaml:2")


def test_an_unknown_field_is_named_with_its_line_and_the_nearest_field(tmp_path: Path) -> None:
    message = refused(tmp_path, values={**MINIMAL, "trainer": {"max_step": 3}})
    assert "c.yaml:6: trainer.max_step: unknown field; did you mean 'max_steps'?" in message


@pytest.mark.parametrize(
    ("override", "said"),
    [
        ("data.train_files=null", "command line: data.train_files: expected a list (got null)"),
        ("data.train_files=[1]", "command line: data.train_files.0: expected a text (got 1)"),
        ("reward.rules=null", "command line: reward.rules: expected a section of fields (got null)"),
    ],
)
def test_a_value_of_another_type_is_refused_in_the_words_of_yaml(tmp_path: Path, override: str, said: str) -> None:
    assert refused(tmp_path, override) == said


def test_a_misspelt_override_is_refused(tmp_path: Path) -> None:
    assert "command line: learner.optimizer: unknown field; did you mean 'optimiser'?" in refused(
        tmp_path, "learner.optimizer.lr=1"
    )


@pytest.mark.parametrize(
    ("overrides", "said"),
    [
        (["rollout.sampling.top_p=0.95"], "set top_p=1 and top_k=0, or set algorithm.mismatch"),
        (["rollout.sampling.temperature=0"], "explores nothing"),
        (["rollout.samples_per_task=1"], "draw at least 2 samples"),
        (
            ["rollout.samples_per_task=1", "algorithm.advantage=reinforce_plus_plus_baseline"],
            "or use reinforce_plus_plus",
        ),
        (["algorithm.advantage=ppo"], "algorithm.advantage"),
        (["algorithm.gamma=1.5"], "algorithm.gamma"),
        (
            ["algorithm.dynamic_sampling.min_spread=10"],
            "'reward' lies in [0, 10]; min_spread=10.0 would drop every group",
        ),
        (
            ["algorithm.dynamic_sampling={key: obj_iou, high: 9.9}"],
            "'obj_iou' lies in [0, 1]; high=9.9 lies outside, set it within or remove it",
        ),
        (["algorithm.dynamic_sampling={low: 3, high: 2}"], "low=3.0 is not below high=2.0"),
        (
            ["algorithm={advantage: remax, dynamic_sampling: {}}", "rollout.samples_per_task=1"],
            "a group of one has no spread and would always be dropped",
        ),
        (["algorithm.dynamic_sampling.max_rounds=1"], "algorithm.dynamic_sampling.max_rounds"),
        (["algorithm.dynamic_sampling.key=iou"], "algorithm.dynamic_sampling.key"),
        (["algorithm.overlong={limit: 20, buffer: 30}"], "even an empty reply would be punished"),
        (
            ["algorithm.overlong={limit: 1100, buffer: 50}"],
            "punishment starts above 1050 tokens per trajectory, and none has more than 1024",
        ),
        (["algorithm.overlong={limit: 600, buffer: 80, per: turn}"], "none has more than 512"),
        (["algorithm.mismatch.low=0.5"], "no effect with mode='truncate'"),
        (["algorithm.mismatch.limit=0.5"], "algorithm.mismatch.limit"),
        (["algorithm.kl.target=0.1"], "no effect with controller='fixed'"),
        (["algorithm.kl={coefficient: 0, controller: adaptive, target: 0.1, horizon: 1000}"], "coefficient of 0"),
        (
            ["algorithm.kl={place: reward, estimator: full}"],
            "would have to send its probability of every id in the vocabulary",
        ),
        (["algorithm.kl={place: reward, coefficient: 0}"], "place='reward' has no effect with coefficient=0"),
        (
            ["algorithm.kl.place=reward", "rollout.sampling.top_p=0.9", "algorithm.mismatch={}"],
            "set top_p=1 and top_k=0, or place='loss'",
        ),
        (["algorithm.kl.controller=adaptive"], "needs target and horizon"),
        (["algorithm.loss.denominator=constant"], "set constant exactly when"),
        (["algorithm.loss.name=reinforce"], "algorithm.loss.name"),
        (["algorithm.loss={name: sapo, clip_low: 0.1}"], "loss 'sapo' does not read clip_low; remove"),
        (["algorithm.loss={name: cispo, clip_dual: 3, tau_positive: 1}"], "does not read clip_dual, tau_positive"),
        (["algorithm.loss.tau_negative=1.05"], "'ppo_clip' does not read tau_negative"),
        (["algorithm.loss.clip_high=null"], "needs clip_high, given as null"),
        (["algorithm.loss.clip_dual=1.1"], "clip_dual=1.1 must lie above 1 + clip_high=1.2"),
        (["algorithm.loss.clip_low=1.0"], "algorithm.loss.clip_low"),
        (["algorithm.adaptive={clip_min: 4}"], "clip_min=4.0 is above clip_max=3.0"),
        (["data.min_pixels=900000", "data.max_pixels=800000"], "min_pixels=900000 is above max_pixels=800000"),
        (["trainer.epochs=1"], "set exactly one of them"),
        (["algorithm.advantage=gae"], "needs a critic; add a critic section (critic={} takes its defaults)"),
        (["critic={}"], "the critic section has no effect with algorithm.advantage='grpo', which reads no values"),
        ([*PPO, "critic.pretrain_steps=3"], "critic.pretrain_steps=3 leaves no step of trainer.max_steps=3"),
        ([*PPO, "critic.mini_batches=3"], "do not divide into critic.mini_batches=3 x resources.critic.count=1"),
        ([*PPO, "resources.critic.count=3"], "do not divide into critic.mini_batches=1 x resources.critic.count=3"),
        ([*PPO, "critic.value_clip=0"], "critic.value_clip"),
        ([*PPO, "critic.sharding.ranks=2"], "resources.critic.count=1 is no multiple of critic.sharding.ranks=2"),
        ([*PPO, "critic.compile=true"], "critic.compile has no effect without GPUs; set resources.critic.gpus"),
        ([*PPO, "critic.micro_batch_rows=null"], "micro_batch_rows=null without micro_batch_tokens limits nothing"),
        ([*PPO, "critic.lam=1"], "critic.lam: unknown field"),
        ([*PPO, "algorithm.gae.lam=1.5"], "algorithm.gae.lam"),
        (["resources.weight_transfer=nccl"], "needs GPUs on both sides"),
        (["rollout.tasks_per_step=3", "rollout.samples_per_task=3", "resources.learner.count=2"], "do not divide"),
        (["rollout.tasks_per_step=1", "resources.rollout.count=2"], "leaves some of"),
        (["run.name=../x"], "run.name"),
        (["reward.port=80", "reward.host=0.0.0.0"], "token"),
        (["trainer.max_steps=many"], "trainer.max_steps"),
        (["trainer"], "is not an override"),
        (["model.path.x=1"], "not a section"),
    ],
)
def test_settings_that_cannot_work_are_refused(tmp_path: Path, overrides: list[str], said: str) -> None:
    assert said in refused(tmp_path, *overrides)


@pytest.mark.parametrize("advantage", ["reinforce_plus_plus", "remax"])
def test_one_sample_per_task_is_enough_where_samples_are_not_compared(tmp_path: Path, advantage: str) -> None:
    overrides = ["rollout.samples_per_task=1", f"algorithm.advantage={advantage}"]
    assert load(TrainConfig, write(tmp_path, MINIMAL), overrides).config.plan.trajectories == 32


def test_a_critic_has_a_plan_of_its_own_and_learns_with_one_sample_per_task(tmp_path: Path) -> None:
    own = ["critic.epochs=2", "critic.mini_batches=4", "resources.critic.count=2", "rollout.samples_per_task=1"]
    config = load(TrainConfig, write(tmp_path, MINIMAL), [*PPO, *own, "critic.pretrain_steps=1"]).config
    assert config.critic_plan == BatchPlan(32, 1, 2, 2, 4, MicroBatches(16))
    assert config.plan == BatchPlan(32, 1, 1, 1, 1, MicroBatches(16))
    assert config.pretrain_steps == 1
    plain = load(TrainConfig, write(tmp_path, MINIMAL)).config
    assert (plain.critic_plan, plain.pretrain_steps) == (None, 0)


def test_thresholds_of_a_reward_of_one_s_own_are_not_judged_by_the_built_in_range(tmp_path: Path) -> None:
    own = ["reward.function=mine.py:score", "algorithm.dynamic_sampling={min_spread: 20, high: 90}"]
    found = load(TrainConfig, write(tmp_path, MINIMAL), own).config.algorithm.dynamic_sampling
    assert found is not None
    assert (found.min_spread, found.high) == (20.0, 90.0)


def test_the_keys_of_dynamic_sampling_are_the_columns_of_scores() -> None:
    assert get_args(ScoreKey) == tuple(SCORES.names[1:])


def test_every_problem_is_listed_at_once(tmp_path: Path) -> None:
    message = refused(tmp_path, "learner.optimiser.lr=-1", "rollout.max_turns=0")
    assert "learner.optimiser.lr" in message
    assert "rollout.max_turns" in message


def test_a_key_written_twice_is_refused(tmp_path: Path) -> None:
    file = tmp_path / "c.yaml"
    file.write_text("model:\n  path: a\n  path: b\n")
    with pytest.raises(ConfigError, match=r"c\.yaml:3: model\.path is set twice"):
        load(TrainConfig, file)


def test_broken_yaml_names_the_line(tmp_path: Path) -> None:
    file = tmp_path / "c.yaml"
    file.write_text("model:\n  path: [a\n")
    with pytest.raises(ConfigError, match=r"c\.yaml:\d: not valid YAML"):
        load(TrainConfig, file)


def test_the_resolved_configuration_reads_back_as_itself(tmp_path: Path) -> None:
    config = load(TrainConfig, write(tmp_path, MINIMAL)).config
    again = tmp_path / "resolved.yaml"
    again.write_text(to_yaml(config))
    assert load(TrainConfig, again).config == config


@pytest.mark.parametrize(
    ("overrides", "expected"),
    [
        ([], {"clip_low": 0.2, "clip_high": 0.2, "clip_dual": 3.0, "tau_positive": None, "tau_negative": None}),
        (["algorithm.loss.clip_dual=null"], {"clip_high": 0.2, "clip_dual": None}),
        (["algorithm.loss.name=gspo"], {"clip_low": 3e-4, "clip_high": 4e-4, "clip_dual": None}),
        (["algorithm.loss={name: gspo_token, clip_high: 5.0e-4}"], {"clip_low": 3e-4, "clip_high": 5e-4}),
        (["algorithm.advantage=remax", "algorithm.kl.coefficient=0"], {}),
        (["algorithm.kl={place: reward, estimator: k1}"], {}),
        (["algorithm={advantage: reinforce_plus_plus, gamma: 0.99}"], {}),
        (["algorithm.loss.name=cispo"], {"clip_low": 0.999, "clip_high": 0.2, "clip_dual": None}),
        (
            ["algorithm.loss={name: sapo, tau_negative: 1.2}"],
            {"clip_low": None, "tau_positive": 1, "tau_negative": 1.2},
        ),
    ],
)
def test_a_loss_has_its_own_defaults_and_every_method_reads_back_as_itself(
    tmp_path: Path, overrides: list[str], expected: dict[str, float | None]
) -> None:
    config = load(TrainConfig, write(tmp_path, MINIMAL), overrides).config
    assert config.algorithm.loss.model_dump(include=set(expected)) == expected
    again = tmp_path / "resolved.yaml"
    again.write_text(to_yaml(config))
    assert load(TrainConfig, again).config == config


def test_batch_plan_counts() -> None:
    plan = BatchPlan(tasks=256, samples=5, ranks=8, epochs=1, mini_batches=2, micro_batches=MicroBatches(8))
    assert plan.trajectories == 1280
    assert plan.optimiser_steps == 2
    assert plan.rows_per_rank == 80
    assert "1280 trajectories" in str(plan)
    assert "80 trajectories each, in micro-batches of up to 8 trajectories" in str(plan)


def test_sft_refuses_stage_two_settings(tmp_path: Path) -> None:
    values = {"model": {"path": "m"}, "data": {"train_files": "a"}, "trainer": {"samples": 10}}
    with pytest.raises(ConfigError, match="belong to stage 2"):
        load(SftConfig, write(tmp_path, values), ["learner.mini_batches=2"])
    with pytest.raises(ConfigError, match="does not divide"):
        load(SftConfig, write(tmp_path, values), ["resources.learner.count=3"])


def test_a_deterministic_run_is_in_float32(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"run\.deterministic=true needs rollout\.engine\.dtype=float32"):
        load(TrainConfig, write(tmp_path, MINIMAL), ["run.deterministic=true", "rollout.engine.dtype=bfloat16"])
    values = {"model": {"path": "m", "dtype": "bfloat16"}, "data": {"train_files": "a"}, "trainer": {"samples": 64}}
    with pytest.raises(ConfigError, match=r"needs model\.dtype=float32, it is 'bfloat16'"):
        load(SftConfig, write(tmp_path, values), ["run.deterministic=true"])
