"""Every setting of the published system has its line in the table, and its launch script becomes the run it meant."""

from pathlib import Path
from typing import Any

import pytest
import yaml
from typer.testing import CliRunner

from migration.convert import import_config, migrating
from migration.table import KNOBS
from orchestrator.cli.main import app
from schemas.config import TrainConfig
from schemas.config.file import ConfigError, load

ROOT = Path(__file__).parents[2]
PUBLISHED = dict(
    line.split("\t") for line in (Path(__file__).parent / "published_knobs.tsv").read_text().splitlines()
)  # dotted name -> default, as the published dataclasses write it

CONFIG = """\
data:
  train_files: train.jsonl
  val_files: val.jsonl
  answer_key: ground_truth
  max_prompt_length: 2048
  max_response_length: 256
  rollout_batch_size: 256
  val_batch_size: 256
  seed: 998244353
worker:
  actor:
    global_batch_size: 128
    micro_batch_size_per_device_for_update: 8
    model: {model_path: some/model, lora: {rank: 0, exclude_modules: ".*visual.*"}}
    offload: {offload_params: true}
  rollout:
    n: 5
    seed: 42
    tensor_parallel_size: 1
    val_override_config: {temperature: 0.6, top_p: 0.95, n: 3}
  ref:
    fsdp: {enable_cpu_offload: true}
  reward:
    reward_function: ./PointVG-R/reward_function/reward_func.py:compute_score
    skip_special_tokens: false
algorithm: {adv_estimator: grpo, use_kl_loss: true, kl_penalty: low_var_kl, kl_coef: 1e-2}
trainer: {total_epochs: 3, logger: [file, tensorboard], val_freq: 10, save_freq: 1, save_limit: 3}
"""
LAUNCH = """\
config=config.yaml data.max_prompt_length=1024 data.max_response_length=1024 data.max_pixels=1048576
worker.actor.max_grad_norm=0.5 worker.actor.optim.lr=1e-5 worker.actor.optim.lr_warmup_ratio=0.10
worker.actor.optim.lr_scheduler_type=cosine worker.actor.optim.min_lr_ratio=0.20
worker.actor.offload.offload_params=false worker.rollout.temperature=0.9 worker.rollout.top_p=0.95
worker.rollout.max_model_len=4096 worker.rollout.limit_images=2 worker.rollout.multiturn=true
worker.rollout.max_iterations=2 worker.rollout.max_generation_length_per_turn=1024
worker.rollout.stop_strings=</tool_call>,</answer>,<|im_end|> worker.rollout.ray_line_width=5
algorithm.kl_coef=5.0e-2 algorithm.kl_type=adaptive algorithm.kl_horizon=10000 algorithm.kl_target=0.08
algorithm.enable_adv_importance_weighting=true algorithm.adv_importance_global_var_init=0.1
algorithm.adv_importance_clip_min=0.3 algorithm.adv_importance_clip_max=3.0
trainer.experiment_name=opensource_exp trainer.project_name=PointVG-R trainer.n_gpus_per_node=8
trainer.total_epochs=7 VLLM_USE_V1=1
"""
SCRIPT = LAUNCH.split()


@pytest.fixture
def old(tmp_path: Path) -> Path:
    file = tmp_path / "config.yaml"
    file.write_text(CONFIG)
    return file


def our(values: Any, dotted: str) -> Any:
    for key in dotted.split("."):
        values = values[key]
    return values


def test_every_published_setting_is_in_the_table_with_its_default() -> None:
    assert {name for name in KNOBS if not name.isupper()} == set(PUBLISHED)
    assert {name: repr(KNOBS[name].default) for name in PUBLISHED} == {
        name: repr(eval(default))
        for name, default in PUBLISHED.items()  # literals of a file of this repository
    }


def test_our_names_exist_and_every_gone_setting_has_its_reason() -> None:
    for knob in KNOBS.values():
        assert knob.new or knob.why, knob.old
        for name in knob.new:
            model: Any = TrainConfig
            for key in name.split("."):
                field = model.model_fields[key]  # KeyError names what is not there
                options = (field.annotation, *getattr(field.annotation, "__args__", ()))
                model = next((option for option in options if hasattr(option, "model_fields")), None)


def test_the_published_launch_becomes_the_run_that_it_meant(old: Path) -> None:
    imported = import_config(old, SCRIPT)
    assert imported.problems == ""
    config = TrainConfig.model_validate(imported.values)
    assert config.plan.trajectories == 1280
    assert config.plan.optimiser_steps == 2  # 256 prompts in minibatches of 128, and not of 128 replies
    assert config.rollout.max_turns == 2
    assert config.rollout.max_tokens_per_turn == 1024
    assert config.rollout.engine.max_model_len == 4096
    assert (config.rollout.sampling.temperature, config.rollout.sampling.top_p) == (0.9, 0.95)
    assert config.algorithm.mismatch is not None
    assert config.algorithm.kl.model_dump() == {
        "coefficient": 0.05, "place": "loss", "estimator": "k3", "controller": "adaptive", "target": 0.08,
        "horizon": 10000.0,
    }  # fmt: skip
    assert config.algorithm.adaptive is not None
    assert (config.algorithm.adaptive.initial, config.algorithm.adaptive.clip_max) == (0.1, 3.0)
    assert (config.algorithm.loss.clip_low, config.algorithm.loss.clip_high) == (0.2, 0.3)
    assert config.learner.optimiser.lr == 1e-5
    assert config.learner.optimiser.warmup_ratio == 0.1
    assert config.reward.rules.negative_max == 1.0
    assert (config.validation.samples, config.validation.sampling.temperature) == (3, 0.6)
    assert (config.run.folder, config.run.name, config.run.seed) == ("runs/PointVG-R", "opensource_exp", 998244353)
    resources = config.resources
    assert resources.learner.count + resources.rollout.count + resources.reference.count == 8
    assert len(imported.decisions) == 1  # how to share out the GPUs


PPO = [
    "algorithm.adv_estimator=gae",
    "algorithm.lam=0.95",
    "algorithm.gamma=0.99",
    "trainer.critic_warmup=5",
    "worker.critic.global_batch_size=64",
    "worker.critic.optim.lr=1e-5",
    "worker.critic.optim.lr_warmup_steps=3",
    "worker.critic.ppo_epochs=2",
    "worker.critic.model.model_path=other/model",
    "worker.critic.padding_free=true",
]


def test_a_critic_comes_along_with_settings_of_its_own(old: Path) -> None:
    imported = import_config(old, PPO)
    assert imported.problems == ""
    config = TrainConfig.model_validate(imported.values)
    assert (config.algorithm.advantage, config.algorithm.gamma) == ("gae", 0.99)
    assert config.algorithm.gae is not None
    assert (config.algorithm.gae.lam, config.algorithm.gae.return_lam) == (0.95, 0.95)
    critic = config.critic
    assert critic is not None
    assert (critic.path, critic.value_clip, critic.pretrain_steps, critic.layout) == ("other/model", 0.5, 5, "packed")
    assert (critic.epochs, critic.mini_batches) == (2, 4)  # 256 prompts in steps of 64
    assert (critic.micro_batch_rows, critic.micro_batch_tokens) == (None, 4 * (2048 + 256))
    assert (critic.optimiser.lr, critic.optimiser.warmup_steps) == (1e-5, 24)  # 3 batches of 4 x 2 steps
    assert (config.learner.epochs, config.learner.mini_batches, config.learner.optimiser.warmup_steps) == (1, 2, 0)
    resources = config.resources
    assert (resources.learner.count, resources.critic.count, resources.critic.gpus) == (2, 2, 1)
    assert resources.rollout.count == 8 - 2 - 2 - 1
    plain = TrainConfig.model_validate(import_config(old, PPO[4:]).values)  # the published default is grpo
    assert (plain.critic, plain.resources.critic.count) == (None, 1)


def test_the_report_says_what_became_of_each_setting_and_where_it_stood(old: Path) -> None:
    report = import_config(old, SCRIPT).report()
    assert f"{old}:7: data.rollout_batch_size=256 -> rollout.tasks_per_step=256" in report
    assert "10 optimiser steps a batch by mistake" in report
    assert f"{old}:21: worker.rollout.seed" not in report  # its line is the one that sets it
    assert "worker.rollout.seed=42 -> dropped  (run.seed, from data.seed, serves everything)" in report
    assert "command line: VLLM_USE_V1=1 -> dropped  (obsolete: vLLM has no other engine)" in report
    assert "published default: worker.actor.clip_ratio_high=0.3 -> algorithm.loss.clip_high=0.3" in report
    assert "published default: data.shuffle" not in report  # ours is the same
    assert "the published code never moved the coefficient" in report


@pytest.mark.parametrize(
    ("override", "said"),
    [
        ("worker.actor.ulysses_size=2", "sequence parallelism is not offered"),
        ("worker.actor.model.tokenizer_path=x", "copy the tokenizer's files"),
        ("algorithm.online_filtering=true trainer.max_try_make_batch=-1", "there is always a limit"),
        ("algorithm.online_filtering=true algorithm.filter_high=11", "high=11.0 lies outside"),
        ("worker.actor.global_batch_size=100", "256 prompts do not divide into steps of 100"),
        ("worker.actor.fsdp.mp_param_dtype=fp16", "'fp16' has no counterpart; choose model.dtype from bfloat16"),
        ("worker.rollout.name=sglang", "vLLM alone"),
        ("worker.rollout.stop_strings=</answer>,STOP", "STOP cannot end a turn here"),
        ("data.filter_overlong_prompts=false", "a prompt is never cut here"),
        ("trainer.logger=['file','comet']", "no comet"),
        ("data.override_chat_template='{{ messages }}'", "write the template into a file"),
        ("data.format_prompt=point.txt", "rename the file"),
        ("trainer.load_checkpoint_path=x", "set model.path"),
        ("trainer.save_model_only=true", "pointvg export"),
        ("trainer.val_only=true", "pointvg eval"),
        ("algorithm.adv_estimator=gae worker.critic.loss_avg_mode=seq", "always the mean over tokens"),
        ("trainer.n_gpus_per_node=2", "too few"),
        ("worker.rollout.val_override_config={seed: 1}", "seed cannot be set for validation"),
        ("worker.reward.reward_function_kwargs={a: 1}", "reward.rules"),
        ("algorithm.kl_penalty=full algorithm.use_kl_loss=false", "place='loss'"),
        # Refused by our own configuration, in its words.
        ("worker.rollout.top_p=0.9 algorithm.use_kl_loss=false", "place='loss'"),
        ("algorithm.kl_penalty=kl", "expected gradient of 0"),
        ("trainer.experiment_name='a b'", "run.name"),
    ],
)  # fmt: skip
def test_what_cannot_be_carried_over_is_left_to_decide(old: Path, override: str, said: str) -> None:
    parts = (" algorithm.", " trainer.", " worker.critic.")
    overrides = override.split() if any(part in override for part in parts) else [override]
    assert any(said in decision for decision in import_config(old, overrides).decisions)


@pytest.mark.parametrize(
    ("override", "name", "value"),
    [
        ("worker.reward.reward_function=mine.py:score", "reward.function", "mine.py:score"),
        ("worker.rollout.top_k=20", "rollout.sampling.top_k", 20),
        ("worker.actor.optim.strategy=adamw_bf16", "learner.optimiser.state_dtype", "bfloat16"),
        ("algorithm.kl_penalty=full", "algorithm.kl.estimator", "full"),
        ("algorithm.online_filtering=true", "algorithm.dynamic_sampling.low", 0.01),
        ("algorithm.online_filtering=true", "algorithm.dynamic_sampling.key", "reward"),
        ("algorithm.online_filtering=true", "algorithm.dynamic_sampling.max_rounds", 20),
        ("algorithm.disable_kl=true", "algorithm.kl.coefficient", 0.0),
        ("worker.actor.model.lora.rank=8", "model.lora.exclude", ".*visual.*"),
        ("worker.actor.loss_avg_mode=seq", "algorithm.loss.denominator", "sequence"),
        ("trainer.max_steps=9", "trainer.max_steps", 9),
        ("trainer.save_checkpoint_path=/a/b/c", "run.folder", "/a/b"),
        ("trainer.save_checkpoint_path=/a/b/c", "run.name", "c"),
        ("trainer.save_limit=-1", "checkpoint.keep", 1_000_000),
        ("worker.actor.optim.lr_warmup_steps=5", "learner.optimiser.warmup_steps", 10),  # of two steps each
        ("worker.actor.padding_free=false", "learner.layout", "padded"),
        ("worker.actor.dynamic_batching=false", "learner.micro_batch_rows", 8),
        ("worker.rollout.max_model_len=4096", "learner.micro_batch_tokens", 8 * 4096),
        ("worker.actor.fsdp.fsdp_size=2", "learner.sharding.ranks", 2),
        ("worker.actor.fsdp.enable_cpu_offload=true", "learner.sharding.cpu_offload", True),
        ("data.format_prompt=point.jinja", "data.prompt_style", "point.jinja"),
        ("data.format_prompt=null", "data.prompt_style", "short"),
        ("data.override_chat_template=own.jinja", "model.chat_template", "own.jinja"),
        ("trainer.ray_timeline=/tmp/t.json", "run.timeline", True),
        ("algorithm.adv_estimator=reinforce_plus_plus", "algorithm.gamma", 1.0),
    ],
)
def test_values_that_change_on_the_way(old: Path, override: str, name: str, value: object) -> None:
    imported = import_config(old, [override])
    assert imported.problems == ""
    assert our(imported.values, name) == value


@pytest.mark.parametrize("loss", ["default", "gspo", "gspo_token", "cispo", "sapo"])
def test_a_loss_gets_the_published_bounds_that_it_reads(old: Path, loss: str) -> None:
    config = TrainConfig.model_validate(import_config(old, [f"worker.actor.loss_type={loss}"]).values)
    read = config.algorithm.loss
    assert (read.tau_negative == 1.05) == (loss == "sapo")
    assert (read.clip_high == 0.3) == (loss != "sapo")


def test_unknown_settings_are_errors_with_file_and_line(old: Path) -> None:
    old.write_text(CONFIG.replace("val_batch_size", "val_batchsize").replace("offload_params", "ofload"))
    with pytest.raises(ConfigError) as caught:
        import_config(old, ["worker.rollout.topp=1", "VLLM_USE_V2=1"])
    assert f"{old}:8: data.val_batchsize: no such setting; did you mean data.val_batch_size?" in str(caught.value)
    assert f"{old}:15: worker.actor.offload.ofload: no such setting" in str(caught.value)
    assert "command line: worker.rollout.topp" in str(caught.value)
    assert "command line: VLLM_USE_V2: no such setting; did you mean VLLM_USE_V1?" in str(caught.value)


def test_a_value_that_is_no_value_is_an_error(old: Path) -> None:
    with pytest.raises(ConfigError, match=r"command line: worker\.rollout\.top_k='many' cannot be read"):
        import_config(old, ["worker.rollout.top_k=many"])


def test_the_page_is_what_the_table_says() -> None:
    stale = "docs/migrating.md is not what the table says; run `pointvg config migrating`"
    assert (ROOT / "docs" / "migrating.md").read_text(encoding="utf-8") == migrating(), stale


def test_the_command_writes_a_file_that_loads_and_overwrites_none(old: Path, tmp_path: Path) -> None:
    new = tmp_path / "new.yaml"
    done = CliRunner().invoke(app, ["config", "import", str(old), *SCRIPT, "--out", str(new)])
    assert done.exit_code == 0, done.output
    assert "needs a decision (1)" in done.output
    assert new.read_text().splitlines()[1].startswith("# decide: trainer.n_gpus_per_node=8")
    assert load(TrainConfig, new).config.rollout.samples_per_task == 5
    again = CliRunner().invoke(app, ["config", "import", str(old), "--out", str(new)])
    assert again.exit_code == 2
    assert "exists" in again.output
    wrong = CliRunner().invoke(app, ["config", "import", str(old), "data.nonsense=1"])
    assert wrong.exit_code == 2
    assert "data.nonsense: no such setting" in wrong.output


def test_show_prints_every_value_with_its_origin_and_reads_back(tmp_path: Path) -> None:
    file = ROOT / "configs" / "quickstart.yaml"
    arguments = [str(file), "algorithm.adaptive={clip_min: 0.5}", "data.system_prompt='two\n\nlines # x'"]
    shown = CliRunner().invoke(app, ["config", "show", "--config", *arguments]).output
    lines = shown.splitlines()
    line = 1 + file.read_text().splitlines().index("  samples_per_task: 8")
    assert f"  samples_per_task: 8  # {file}:{line}" in lines
    assert "    clip_min: 0.5  # command line" in lines
    assert "    clip_max: 3.0  # default" in lines  # the file's section was replaced
    assert "    eps: 1.0e-06  # default" in lines
    again = tmp_path / "shown.yaml"
    again.write_text(shown)
    assert load(TrainConfig, again).config == load(TrainConfig, file, arguments[1:]).config


@pytest.mark.parametrize("name", ["sft", "tiny", "reward", "grpo"])
def test_show_knows_every_kind_of_file(name: str) -> None:
    shown = CliRunner().invoke(app, ["config", "show", "--config", str(ROOT / "configs" / f"{name}.yaml")])
    assert shown.exit_code == 0, shown.output
    assert yaml.safe_load(shown.output)
