"""Every setting of the published system and what becomes of it here: the one source of `pointvg config import` and of
docs/migrating.md.

An environment variable of its launch scripts is a setting too: its name is in capitals.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any, get_args

from migration.rules import (
    CLIPPED,
    LOSSES,
    Convert,
    Translation,
    adaptive,
    chat_template,
    checkpoint_path,
    every,
    filter_high,
    filtered,
    format_prompt,
    gone,
    gone_if,
    keep,
    kl_coefficient,
    kl_controller,
    length,
    loggers,
    lora,
    max_rounds,
    micro_batches,
    mini_batches,
    model_length,
    multiturn,
    of_critic,
    reward_function,
    reward_kwargs,
    run_folder,
    run_name,
    sharding,
    share_out,
    stop_strings,
    to,
    top_k,
    top_p,
    turns,
    validation_sampling,
    warmup_ratio,
    warmup_steps,
    when,
    with_critic,
    with_kl,
)
from schemas.config.method import ScoreKey


@dataclass(frozen=True, slots=True)
class Knob:
    """One published setting: its name and default there, our names (none if it is gone), and why.

    >>> KNOBS["data.shuffle"].new
    ('data.shuffle',)
    """

    old: str
    default: Any
    new: tuple[str, ...]
    why: str
    convert: Convert


def _mapped(old: str, default: Any, new: str, why: str = "", convert: Convert | None = None) -> Knob:
    names = tuple(new.split())
    return Knob(old, default, names, why, convert or to(*names))


def _gone(old: str, default: Any, why: str, convert: Convert = gone) -> Knob:
    return Knob(old, default, (), why, convert)


def _data() -> Iterator[Knob]:
    yield _mapped("train_files", "", "data.train_files")
    yield _mapped("val_files", "", "data.validation_files")
    yield _mapped("prompt_key", "prompt", "data.prompt_key")
    yield _mapped("answer_key", "answer", "data.ground_truth_key")
    yield _mapped("image_key", "images", "data.image_key")
    yield _mapped("video_key", "videos", "data.video_key")
    yield _mapped("image_dir", None, "data.image_dir", "null: beside each file")
    yield _gone("video_fps", 2.0, "rows with videos are refused")
    yield _mapped("max_prompt_length", 512, "data.max_prompt_tokens", "images count with every token they take")
    yield _mapped(
        "max_response_length",
        512,
        "rollout.max_tokens_per_turn",
        "with multiturn it bounds the conversation, through rollout.engine.max_model_len",
        when("worker.rollout.multiturn", (False,), to("rollout.max_tokens_per_turn"), "see max_model_len"),
    )
    yield _mapped("rollout_batch_size", 512, "rollout.tasks_per_step")
    yield _gone("mini_rollout_batch_size", None, "all tasks of a step are in the engines at once")
    yield _gone("val_batch_size", -1, "all validation tasks are in the engines at once")
    yield _mapped(
        "format_prompt",
        None,
        "data.prompt_style",
        "a Jinja file that wraps {{ content }}; null: as it is",
        format_prompt,
    )
    yield _mapped("override_chat_template", None, "model.chat_template", "a Jinja file", chat_template)
    yield _mapped("shuffle", True, "data.shuffle")
    yield _mapped("seed", 1, "run.seed", "one seed for data, sampling and adapters")
    yield _mapped("min_pixels", 262144, "data.min_pixels", "ground truth is converted with the image")
    yield _mapped("max_pixels", 4194304, "data.max_pixels")
    yield _gone(
        "filter_overlong_prompts",
        True,
        "always: they are counted and left out, never cut",
        gone_if(True, otherwise="a prompt is never cut here; raise data.max_prompt_tokens to keep long ones"),
    )
    yield _gone("filter_overlong_prompts_workers", 16, "lengths are counted without opening pixels")


def _model() -> Iterator[Knob]:
    yield _mapped("model_path", None, "model.path")
    yield _gone(
        "tokenizer_path",
        None,
        "the tokenizer is the checkpoint's",
        gone_if(None, otherwise="copy the tokenizer's files into the folder of model.path"),
    )
    yield _gone(
        "override_config",
        {},
        "the network is the checkpoint's",
        gone_if({}, None, otherwise="edit config.json in the folder of model.path"),
    )
    yield _mapped("enable_gradient_checkpointing", True, "model.gradient_checkpointing")
    yield _mapped("trust_remote_code", True, "model.trust_remote_code")
    yield _mapped("freeze_vision_tower", False, "model.freeze_vision")
    yield _mapped("lora.rank", 0, "model.lora.rank", "0: no adapters", lora(to("model.lora.rank")))
    yield _mapped("lora.alpha", 64, "model.lora.alpha", convert=lora(to("model.lora.alpha")))
    yield _mapped("lora.target_modules", "all-linear", "model.lora.targets", convert=lora(to("model.lora.targets")))
    yield _mapped("lora.exclude_modules", None, "model.lora.exclude", convert=lora(to("model.lora.exclude")))


def _optimiser() -> Iterator[Knob]:
    yield _mapped("lr", 1e-6, "learner.optimiser.lr")
    yield _mapped("betas", (0.9, 0.999), "learner.optimiser.betas")
    yield _mapped("weight_decay", 0.01, "learner.optimiser.weight_decay", "norms and biases are not decayed")
    yield _mapped(
        "strategy",
        "adamw",
        "learner.optimiser.state_dtype",
        "weights stay float32; the moments are rounded stochastically",
        to("learner.optimiser.state_dtype", only={"adamw": "float32", "adamw_bf16": "bfloat16"}),
    )
    yield _mapped(
        "lr_warmup_ratio", 0.0, "learner.optimiser.warmup_ratio", "unless lr_warmup_steps is given", warmup_ratio
    )
    yield _mapped(
        "lr_warmup_steps",
        None,
        "learner.optimiser.warmup_steps",
        "batches there, optimiser steps here",
        warmup_steps,
    )
    yield _mapped("min_lr_ratio", None, "learner.optimiser.min_ratio")
    yield _mapped("lr_scheduler_type", "constant", "learner.optimiser.schedule")
    yield _gone("training_steps", -1, "derived, there and here")


MEMORY = "changes memory and speed only; FSDP2 shards every block over the ranks"


def _fsdp() -> Iterator[Knob]:
    for name, default in (
        ("enable_full_shard", True),
        ("enable_rank0_init", True),
        ("use_orig_params", False),
    ):
        yield _gone(name, default, MEMORY)
    yield _mapped("enable_cpu_offload", False, "learner.sharding.cpu_offload")
    yield _mapped("fsdp_size", -1, "learner.sharding.ranks", "-1 is null: all ranks share one copy", sharding)
    yield _gone("torch_dtype", None, "trained weights are kept in float32, frozen ones in model.dtype")
    yield _mapped(
        "mp_param_dtype",
        "bf16",
        "model.dtype",
        "the type of the computation",
        to("model.dtype", only={"bf16": "bfloat16", "fp32": "float32"}),
    )
    yield _gone("mp_reduce_dtype", "fp32", "gradients are summed in float32")
    yield _gone("mp_buffer_dtype", "fp32", "buffers keep their own type")


def _offload() -> Iterator[Knob]:
    yield _gone("offload_params", False, "roles have memory of their own and do not take turns")
    yield _gone("offload_optimizer", False, "roles have memory of their own and do not take turns")


ULYSSES = (
    "sequence parallelism is not offered: a conversation of two turns and two images is a few thousand tokens, which "
    "one rank holds. Use model.gradient_checkpointing, a smaller learner.micro_batch_rows or data.max_pixels"
)


def _actor() -> Iterator[Knob]:
    yield _gone("strategy", "fsdp", "FSDP2, always")
    yield _mapped(
        "global_batch_size",
        256,
        "learner.mini_batches",
        "optimiser steps in one pass over a batch: rollout_batch_size / global_batch_size",
        mini_batches,
    )
    yield _mapped(
        "micro_batch_size_per_device_for_update",
        4,
        "learner.micro_batch_rows learner.micro_batch_tokens",
        "with dynamic_batching as many tokens as so many of the longest trajectories have",
        micro_batches,
    )
    yield _gone("micro_batch_size_per_device_for_experience", 16, "one limit serves both")
    yield _mapped("max_grad_norm", 1.0, "learner.optimiser.max_grad_norm")
    loss = "worker.actor.loss_type"
    for name, default, losses in (
        ("clip_ratio_low", 0.2, CLIPPED),
        ("clip_ratio_high", 0.3, CLIPPED),
        ("clip_ratio_dual", 3.0, CLIPPED[:3]),
        ("tau_positive", 1.0, ("sapo",)),
        ("tau_negative", 1.05, ("sapo",)),
    ):
        new = f"algorithm.loss.{name.replace('_ratio', '')}"
        yield _mapped(
            name, default, new, "of the losses that read it", when(loss, losses, to(new), "not read by this loss")
        )
    yield _mapped(
        "loss_avg_mode",
        "token",
        "algorithm.loss.denominator",
        "counted over the whole optimiser step, so it does not change with the split",
        to("algorithm.loss.denominator", only={"token": "token", "seq": "sequence"}),
    )
    yield _mapped("loss_type", "default", "algorithm.loss.name", convert=to("algorithm.loss.name", only=LOSSES))
    yield _mapped("ppo_epochs", 1, "learner.epochs")
    yield _mapped(
        "padding_free",
        True,
        "learner.layout",
        "packed or padded: the same numbers",
        to("learner.layout", only={True: "packed", False: "padded"}),
    )
    yield _mapped(
        "dynamic_batching",
        True,
        "learner.micro_batch_tokens",
        "gradients do not depend on the split",
        lambda on, old: (
            micro_batches(old["worker.actor.micro_batch_size_per_device_for_update"], old) if on else Translation()
        ),
    )
    yield _gone("ulysses_size", 1, "sequence parallelism is not offered", gone_if(1, otherwise=ULYSSES))
    yield _gone("use_torch_compile", True, "changes speed only; learner.compile is off unless you set it")
    yield _gone("global_batch_size_per_device", -1, "derived, there and here")
    for name, default in (("disable_kl", False), ("use_kl_loss", False), ("kl_penalty", "kl"), ("kl_coef", 0.0)):
        yield _gone(name, default, f"derived there: set algorithm.{name}")
    yield from _under("model", _model())
    yield from _under("optim", _optimiser())
    yield from _under("fsdp", _fsdp())
    yield from _under("offload", _offload())


def _critic() -> Iterator[Knob]:
    """What the actor has too goes the same way, into the critic section; the network is the policy's."""
    alike = {
        "global_batch_size": 256,
        "micro_batch_size_per_device_for_update": 4,
        "max_grad_norm": 1.0,
        "ppo_epochs": 1,
        "padding_free": False,
        "dynamic_batching": True,
    } | {
        knob.old: knob.default
        for knob in (*_under("optim", _optimiser()), *_under("fsdp", _fsdp()))
        if any(name.startswith("learner.") for name in knob.new)
    }
    actors = {knob.old: knob for knob in _actor()}
    for name, default in alike.items():
        knob = actors[name]
        new = tuple(own.replace("learner.", "critic.", 1) for own in knob.new)
        yield Knob(name, default, new, "with adv_estimator=gae, as the actor's", of_critic(knob.convert))
    yield _mapped(
        "cliprange_value",
        0.5,
        "critic.value_clip",
        "with adv_estimator=gae; in units of reward",
        with_critic(to("critic.value_clip")),
    )
    yield _mapped(
        "model.model_path",
        None,
        "critic.path",
        "with adv_estimator=gae; null: the policy's",
        with_critic(to("critic.path")),
    )
    yield _gone(
        "loss_avg_mode",
        "token",
        "the mean over tokens",
        with_critic(gone_if("token", otherwise="the critic's loss is always the mean over tokens")),
    )
    yield _gone("strategy", "fsdp", "FSDP2, always")
    yield _gone("micro_batch_size_per_device_for_experience", 16, "one limit serves both")
    yield _gone("ulysses_size", 1, "sequence parallelism is not offered", with_critic(gone_if(1, otherwise=ULYSSES)))
    yield _gone("global_batch_size_per_device", -1, "derived, there and here")
    for section, knobs in (("model", _model()), ("optim", _optimiser()), ("fsdp", _fsdp()), ("offload", _offload())):
        for knob in _under(section, knobs):
            if knob.old not in alike and knob.old != "model.model_path":
                yield _gone(knob.old, knob.default, "as the policy's")


def _reference() -> Iterator[Knob]:
    yield _gone("strategy", "fsdp", "each replica holds the whole model, frozen")
    for knob in (*_under("fsdp", _fsdp()), *_under("offload", _offload())):
        yield _gone(knob.old, knob.default, "each replica holds the whole model, frozen, in model.dtype")
    yield _gone("micro_batch_size_per_device_for_experience", -1, "derived there; learner.micro_batch_rows here")
    for name, default in (
        ("padding_free", False),
        ("dynamic_batching", False),
        ("ulysses_size", 1),
        ("use_torch_compile", True),
    ):
        yield _gone(name, default, "derived there from the actor's; as the learner here")


def _reward() -> Iterator[Knob]:
    yield _mapped(
        "reward_function",
        None,
        "reward.function reward.rules.negative_max",
        "the published reward is built in; one's own `path.py:name` is called with the same lists of dictionaries",
        reward_function,
    )
    yield _mapped("reward_function_kwargs", {}, "reward.function_kwargs", convert=reward_kwargs)
    yield _gone("skip_special_tokens", True, "special tokens always reach the reward: boxes are made of them")
    yield _mapped("num_cpus", 1, "reward.cpus_per_replica")
    yield _gone("reward_function_name", None, "derived, there and here")


def _rollout() -> Iterator[Knob]:
    yield _gone("name", "vllm", "vLLM", gone_if("vllm", otherwise="rollouts are played by vLLM alone"))
    yield _mapped("n", 1, "rollout.samples_per_task")
    yield _mapped("temperature", 1.0, "rollout.sampling.temperature")
    yield _mapped("top_p", 1.0, "rollout.sampling.top_p algorithm.mismatch", "below 1 only with the correction", top_p)
    yield _mapped("top_k", -1, "rollout.sampling.top_k algorithm.mismatch", "-1 is 0 here", top_k)
    yield _gone("seed", 1, "run.seed, from data.seed, serves everything")
    yield _gone("limit_images", 0, "follows from rollout.max_turns")
    yield _mapped(
        "dtype",
        "bf16",
        "rollout.engine.dtype",
        convert=to("rollout.engine.dtype", only={"bf16": "bfloat16", "fp32": "float32"}),
    )
    yield _mapped("gpu_memory_utilization", 0.6, "rollout.engine.gpu_memory_utilization", "engines keep their memory")
    yield _gone("ignore_eos", False, "a turn ends where the model ends it", gone_if(False, otherwise="not offered"))
    yield _mapped("enforce_eager", False, "rollout.engine.enforce_eager")
    yield _gone("enable_chunked_prefill", False, "changes speed only; vLLM decides")
    yield _mapped("tensor_parallel_size", 2, "rollout.engine.tensor_parallel_size")
    yield _mapped(
        "max_model_len", None, "rollout.engine.max_model_len", "null: prompt and response together", model_length
    )
    yield _gone("max_num_batched_tokens", 8192, "changes speed only; vLLM decides")
    yield _gone("disable_log_stats", True, "always")
    yield _gone("disable_tqdm", False, "one bar, for the whole run")
    yield _mapped(
        "val_override_config",
        {},
        "validation.samples validation.sampling.temperature validation.sampling.top_p validation.sampling.top_k",
        "each reply is scored against its own task, whatever n is",
        validation_sampling,
    )
    yield _mapped("multiturn", False, "rollout.max_turns", "max_iterations, or one turn", multiturn)
    yield _mapped("max_iterations", 5, "rollout.max_turns", "with multiturn", turns)
    yield _mapped(
        "max_generation_length_per_turn",
        512,
        "rollout.max_tokens_per_turn",
        "with multiturn",
        when("worker.rollout.multiturn", (True,), to("rollout.max_tokens_per_turn"), "no effect without multiturn"),
    )
    yield _gone("stop_strings", None, "a turn ends at </tool_call> or where the model ends it", stop_strings)
    yield _gone("ray_line_width", 5, "the line's width follows the size of the image that the model sees")
    yield _gone("prompt_length", -1, "derived, there and here")
    yield _gone("response_length", -1, "derived, there and here")
    yield _gone("trust_remote_code", False, "derived, there and here")


def _algorithm() -> Iterator[Knob]:
    discounted = ("reinforce_plus_plus", "gae")
    yield _mapped(
        "gamma",
        1.0,
        "algorithm.gamma",
        "of the estimators that discount",
        when("algorithm.adv_estimator", discounted, to("algorithm.gamma"), "this estimator does not discount"),
    )
    traces = "algorithm.gae.lam algorithm.gae.return_lam"
    yield _mapped("lam", 1.0, traces, "one for both there", with_critic(to(*traces.split())))
    estimators = ("gae", "grpo", "grpo_passk", "rloo", "reinforce_plus_plus", "remax")
    yield _mapped(
        "adv_estimator",
        "grpo",
        "algorithm.advantage",
        convert=to("algorithm.advantage", only={name: name for name in estimators}),
    )
    yield _mapped("disable_kl", False, "algorithm.kl.coefficient", "true is coefficient 0, without a reference", gone)
    yield _mapped(
        "use_kl_loss",
        False,
        "algorithm.kl.place",
        convert=with_kl(to("algorithm.kl.place", only={True: "loss", False: "reward"})),
    )
    estimators = {"kl": "k1", "abs": "abs", "mse": "k2", "low_var_kl": "k3", "full": "full"}
    yield _mapped(
        "kl_penalty", "kl", "algorithm.kl.estimator", convert=with_kl(to("algorithm.kl.estimator", only=estimators))
    )
    yield _mapped("kl_coef", 0.001, "algorithm.kl.coefficient", convert=kl_coefficient)
    yield _mapped("kl_type", "fixed", "algorithm.kl.controller", convert=with_kl(kl_controller))
    for name, default in (("horizon", 10000.0), ("target", 0.1)):
        new = f"algorithm.kl.{name}"
        moving = when("algorithm.kl_type", ("adaptive",), to(new), "no effect on a fixed coefficient")
        yield _mapped(f"kl_{name}", default, new, "of the adaptive controller", with_kl(moving))
    yield _mapped(
        "online_filtering",
        False,
        "algorithm.dynamic_sampling",
        "groups without spread are dropped too",
        lambda on, _: Translation({"algorithm.dynamic_sampling": {}} if on else {}),
    )
    keys = {"overall": "reward"} | {name: name for name in get_args(ScoreKey)}
    for name, default, convert in (
        ("key", "overall", to("algorithm.dynamic_sampling.key", only=keys)),
        ("low", 0.01, to("algorithm.dynamic_sampling.low")),
        ("high", 0.99, filter_high),
    ):
        yield _mapped(f"filter_{name}", default, f"algorithm.dynamic_sampling.{name}", convert=filtered(convert))
    yield _mapped(
        "enable_adv_importance_weighting",
        False,
        "algorithm.adaptive",
        convert=lambda on, _: Translation({"algorithm.adaptive": {}} if on else {}),
    )
    statistics = {"variance": "variance", "std": "std", "reward_entropy": "entropy", "top_bottom_gap": "range"}
    methods = {"sqrt_ratio": "sqrt", "linear_ratio": "linear", "power_ratio": "power", "log_ratio": "log"}
    for name, default, new, only in (
        ("global_var_init", 1.0, "initial", None),
        ("momentum", 0.95, "momentum", None),
        ("eps", 1e-6, "eps", None),
        ("clip_min", 0.1, "clip_min", None),
        ("clip_max", 10.0, "clip_max", None),
        ("normalize", False, "normalize", None),
        ("statistic", "variance", "statistic", statistics),
        ("method", "sqrt_ratio", "mapping", methods),
        ("use_batch_stat", False, "baseline", {True: "batch", False: "moving_average"}),
        ("power", 0.5, "power", None),
        ("log_alpha", 1.0, "log_alpha", None),
        ("entropy_bins", 5, "entropy_bins", None),
    ):
        why = "null starts from the first batch; a small number is a hidden gain" if new == "initial" else ""
        yield _mapped(f"adv_importance_{name}", default, f"algorithm.adaptive.{new}", why, adaptive(new, only))


def _trainer() -> Iterator[Knob]:
    yield _mapped("total_epochs", 15, "trainer.epochs", "unless max_steps is given", length)
    yield _mapped("max_steps", None, "trainer.max_steps")
    yield _mapped("project_name", "easy_r1", "run.folder", "runs/PROJECT", run_folder)
    yield _mapped("experiment_name", "demo", "run.name", convert=run_name)
    yield _mapped(
        "logger", ("console", "wandb"), "run.trackers", "console and file (metrics.jsonl) are always on", loggers
    )
    yield _gone("nnodes", 1, "with n_gpus_per_node: every role has GPUs of its own in resources.*")
    yield _mapped(
        "n_gpus_per_node",
        8,
        "resources.learner.count resources.rollout.count resources.learner.gpus resources.rollout.gpus "
        "resources.reference.gpus resources.critic.count resources.critic.gpus resources.weight_transfer",
        "a proposal: every role has GPUs of its own",
        share_out,
    )
    yield _mapped(
        "max_try_make_batch",
        20,
        "algorithm.dynamic_sampling.max_rounds",
        "at the limit the batch is filled, and the run goes on",
        filtered(max_rounds),
    )
    yield _mapped(
        "critic_warmup",
        0,
        "critic.pretrain_steps",
        "with adv_estimator=gae: steps",
        with_critic(to("critic.pretrain_steps")),
    )
    yield _mapped("val_freq", -1, "validation.every", "-1 is 0 here", every("validation.every"))
    yield _mapped("val_before_train", True, "validation.before")
    yield _gone("val_only", False, "a command of its own", gone_if(False, otherwise="run pointvg eval --config FILE"))
    yield _mapped("val_generations_to_log", 0, "trainer.samples_to_log", "as pictures")
    yield _gone("train_generations_to_log", 0, "whole groups are kept: trainer.groups_to_log")
    yield _gone("train_generations_log_freq", 0, "groups of 200 steps are kept, evenly over the run")
    yield _mapped("save_freq", -1, "checkpoint.every", "-1 is 0 here: at the end alone", every("checkpoint.every"))
    yield _mapped("save_limit", -1, "checkpoint.keep", "the best is kept beside", keep)
    yield _gone(
        "save_model_only",
        False,
        "checkpoints are whole; `pointvg export` writes the model alone",
        gone_if(
            False, otherwise="checkpoints are whole here, so that a run continues; run pointvg export for the model"
        ),
    )
    yield _mapped("save_checkpoint_path", None, "run.folder run.name", "the whole run's folder", checkpoint_path)
    yield _gone(
        "load_checkpoint_path",
        None,
        "a run continues in its own folder",
        gone_if(None, otherwise="its checkpoints are not read: merge them to a Hugging Face folder, set model.path"),
    )
    yield _mapped(
        "ray_timeline",
        None,
        "run.timeline",
        "a file there; timeline.json in the run folder here",
        lambda file, _: Translation({"run.timeline": file is not None}),
    )
    yield _mapped("find_last_checkpoint", True, "run.resume", "false refuses a folder that exists")


def _environment() -> Iterator[Knob]:
    yield _gone("VLLM_USE_V1", "1", "obsolete: vLLM has no other engine")
    yield _gone("PYTHONUNBUFFERED", "1", "still yours to set")


def _under(section: str, knobs: Iterable[Knob]) -> Iterator[Knob]:
    for knob in knobs:
        yield Knob(f"{section}.{knob.old}", knob.default, knob.new, knob.why, knob.convert)


def _all() -> Iterator[Knob]:
    yield from _under("data", _data())
    yield _gone("worker.hybrid_engine", True, "every role has processes of its own")
    yield from _under("worker.actor", _actor())
    yield from _under("worker.critic", _critic())
    yield from _under("worker.ref", _reference())
    yield from _under("worker.reward", _reward())
    yield from _under("worker.rollout", _rollout())
    yield from _under("algorithm", _algorithm())
    yield from _under("trainer", _trainer())
    yield from _environment()


KNOBS: Mapping[str, Knob] = MappingProxyType({knob.old: knob for knob in _all()})
