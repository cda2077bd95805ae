"""How a setting of the published system becomes settings of ours: the conversions that published_table.py names.

    (value, all published settings) -> Translation: our settings, what is left to decide, a remark

A conversion sees every published setting, given or default, because many of them only mean something together.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, field
from pathlib import PurePosixPath
from typing import Any, cast

ALL = 1_000_000  # more checkpoints or rounds than any run has
Settings = Mapping[str, Any]  # every published setting by its dotted name, defaults filled in


@dataclass(frozen=True, slots=True)
class Translation:
    """What becomes of one setting. `values` are our dotted settings; `decide` says what the user must settle.

    >>> Translation({"run.seed": 1}).decide
    ''
    """

    values: Mapping[str, Any] = field(default_factory=dict[str, Any])
    decide: str = ""
    remark: str = ""


Convert = Callable[[Any, Settings], Translation]


class PublishedError(ValueError):
    """A published setting has a value that the published system would not take either."""


def to(*names: str, only: Mapping[Any, Any] | None = None) -> Convert:
    """The same value under our name(s), or its translation in `only`; null leaves our default."""

    def convert(value: Any, _: Settings) -> Translation:
        if value is None:
            return Translation()
        if only is not None:
            if value not in only:
                return Translation(
                    decide=f"{value!r} has no counterpart; choose {names[0]} from {_listed(only.values())}"
                )
            value = only[value]
        return Translation(dict.fromkeys(names, value))

    return convert


def gone(_: Any, __: Settings) -> Translation:
    """No counterpart, whatever the value."""
    return Translation()


def gone_if(*harmless: Any, otherwise: str) -> Convert:
    """No counterpart; a value that is not `harmless` asked for something, and `otherwise` says what to do."""

    def convert(value: Any, _: Settings) -> Translation:
        return Translation() if value in harmless else Translation(decide=otherwise)

    return convert


def when(name: str, wanted: Collection[Any], convert: Convert, why: str) -> Convert:
    """`convert` if another setting has one of the wanted values; else the setting had no effect, and `why` says so."""

    def converted(value: Any, old: Settings) -> Translation:
        return convert(value, old) if old[name] in wanted else Translation(remark=why)

    return converted


def _listed(names: Collection[Any]) -> str:
    return ", ".join(map(str, names))


def number(value: Any, name: str) -> float:
    """A published number: YAML 1.1 reads 1e-6 as text. Raises PublishedError."""
    try:
        return float(value)
    except (TypeError, ValueError):
        raise PublishedError(f"{name}={value!r} is not a number") from None


def mini_batches(size: Any, old: Settings) -> Translation:
    """Both sizes count prompts, and every prompt brings its samples along."""
    prompts, per_step = (
        int(number(v, n))
        for v, n in ((old["data.rollout_batch_size"], "rollout_batch_size"), (size, "global_batch_size"))
    )
    if per_step < 1 or prompts % per_step:
        return Translation(decide=f"{prompts} prompts do not divide into steps of {size}; set learner.mini_batches")
    remark = ""
    if old["worker.rollout.multiturn"] and int(old["worker.rollout.n"]) > 1:
        remark = (
            f"with multiturn the published code took {prompts // per_step * int(old['worker.rollout.n'])} optimiser "
            "steps a batch by mistake; here it is what was asked for"
        )
    return Translation({"learner.mini_batches": prompts // per_step}, remark=remark)


def micro_batches(rows: Any, old: Settings) -> Translation:
    """A number of trajectories, or as many tokens as that number of the longest may have."""
    if not old["worker.actor.dynamic_batching"]:
        return Translation({"learner.micro_batch_rows": rows})
    longest = int(model_length(old["worker.rollout.max_model_len"], old).values["rollout.engine.max_model_len"])
    return Translation(
        {"learner.micro_batch_tokens": int(number(rows, "micro_batch_size_per_device_for_update")) * longest}
    )


def sharding(ranks: Any, _: Settings) -> Translation:
    """-1 was all of them."""
    count = int(number(ranks, "fsdp_size"))
    return Translation({"learner.sharding.ranks": count} if count > 0 else {})


LOSSES = {"default": "ppo_clip", "gspo": "gspo", "gspo_token": "gspo_token", "cispo": "cispo", "sapo": "sapo"}
CLIPPED = ("default", "gspo", "gspo_token", "cispo")


def multiturn(on: Any, old: Settings) -> Translation:
    """A number of turns serves for both settings; without turns there is one."""
    return Translation({"rollout.max_turns": old["worker.rollout.max_iterations"] if on else 1})


def turns(iterations: Any, old: Settings) -> Translation:
    """Read with multiturn only."""
    if not old["worker.rollout.multiturn"]:
        return Translation(remark="no effect without multiturn")
    return Translation({"rollout.max_turns": iterations})


def model_length(length: Any, old: Settings) -> Translation:
    """Prompt and response together, unless it was given."""
    both = int(number(old["data.max_prompt_length"], "max_prompt_length")) + int(
        number(old["data.max_response_length"], "max_response_length")
    )
    return Translation({"rollout.engine.max_model_len": both if length is None else length})


def top_p(share: Any, _: Settings) -> Translation:
    """Truncated sampling goes with a correction here."""
    if number(share, "worker.rollout.top_p") == 1.0:
        return Translation({"rollout.sampling.top_p": share})
    remark = "the published learner ignored the truncation; algorithm.mismatch corrects for it. top_p=1 needs none"
    return Translation({"rollout.sampling.top_p": share, "algorithm.mismatch": {}}, remark=remark)


def top_k(tokens: Any, _: Settings) -> Translation:
    """-1 was no limit, which is 0 here."""
    count = int(number(tokens, "worker.rollout.top_k"))
    if count <= 0:
        return Translation({"rollout.sampling.top_k": 0})
    return Translation(
        {"rollout.sampling.top_k": count, "algorithm.mismatch": {}}, remark="algorithm.mismatch corrects for it"
    )


def validation_sampling(overrides: Any, old: Settings) -> Translation:
    """The rollout's sampling, with what was overridden."""
    if not isinstance(overrides, dict):
        raise PublishedError(f"worker.rollout.val_override_config={overrides!r} is not a mapping")
    given = cast("dict[str, Any]", overrides)
    sampling = {name: given.get(name, old[f"worker.rollout.{name}"]) for name in ("temperature", "top_p", "top_k")}
    values = {f"validation.sampling.{name}": value for name, value in sampling.items()}
    values["validation.sampling.top_k"] = max(0, int(number(sampling["top_k"], "top_k")))
    values["validation.samples"] = given.get("n", 1)
    other = sorted(given.keys() - {"temperature", "top_p", "top_k", "n"})
    decide = f"{_listed(other)} cannot be set for validation" if other else ""
    return Translation(values, decide, "a greedy pass is made too: validation.greedy=false leaves it out")


def stop_strings(text: Any, _: Settings) -> Translation:
    """A turn ends after a tool call or where the model ends it; nothing else is needed."""
    known = {"</tool_call>", "</answer>", "<|im_end|>", ""}
    other = sorted(set(str(text or "").split(",")) - known)
    return Translation(decide=f"{_listed(other)} cannot end a turn here; teach the model to end it" if other else "")


def kl_coefficient(coefficient: Any, old: Settings) -> Translation:
    """disable_kl was a switch of its own."""
    return Translation({"algorithm.kl.coefficient": 0.0 if old["algorithm.disable_kl"] else coefficient})


def with_kl(convert: Convert) -> Convert:
    """Only where there is a KL term at all."""
    return when("algorithm.disable_kl", (False,), convert, "no effect with disable_kl")


def kl_controller(kind: Any, old: Settings) -> Translation:
    """Target and horizon come along; they had no effect on a fixed coefficient."""
    if kind != "adaptive":
        return Translation({"algorithm.kl.controller": kind})
    remark = (
        "the published code never moved the coefficient with use_kl_loss; here it moves"
        if old["algorithm.use_kl_loss"]
        else ""
    )
    return Translation({"algorithm.kl.controller": kind}, remark=remark)


def format_prompt(file: Any, _: Settings) -> Translation:
    """Published prompts bring their own instruction, so without a template the row's text is the question."""
    if file is None:
        return Translation({"data.prompt_style": "short"})
    if not str(file).endswith((".jinja", ".jinja2", ".j2")):
        return Translation(decide="data.prompt_style takes a template by the ending .jinja: rename the file")
    return Translation({"data.prompt_style": str(file)})


def chat_template(template: Any, _: Settings) -> Translation:
    """The text of a template there, a file here."""
    if template is None:
        return Translation()
    if "{" in str(template):
        return Translation(decide="write the template into a file and name it in model.chat_template")
    return Translation({"model.chat_template": template})


def adaptive(name: str, only: Mapping[Any, Any] | None = None) -> Convert:
    """A field of algorithm.adaptive, where weighting is on."""
    return when(
        "algorithm.enable_adv_importance_weighting",
        (True,),
        to(f"algorithm.adaptive.{name}", only=only),
        "no effect without enable_adv_importance_weighting",
    )


def filtered(convert: Convert) -> Convert:
    """Where groups are filtered."""
    return when("algorithm.online_filtering", (True,), convert, "no effect without online_filtering")


def filter_high(high: Any, old: Settings) -> Translation:
    """A bound for rewards of 0 to 1 drops nearly every group of a reward of 0 to 10."""
    if old["algorithm.filter_key"] == "overall" and high is not None and number(high, "algorithm.filter_high") <= 1:
        return Translation(remark=f"left out: few groups of a reward of 0 to 10 have a mean below {high}")
    return to("algorithm.dynamic_sampling.high")(high, old)


def max_rounds(tries: Any, _: Settings) -> Translation:
    """-1 was no limit."""
    if number(tries, "trainer.max_try_make_batch") < 1:
        return Translation(decide="there is always a limit; choose algorithm.dynamic_sampling.max_rounds")
    return Translation({"algorithm.dynamic_sampling.max_rounds": max(2, int(tries))})


def lora(convert: Convert) -> Convert:
    """A field of model.lora, where the rank is above 0."""

    def converted(value: Any, old: Settings) -> Translation:
        if int(number(old["worker.actor.model.lora.rank"], "lora.rank")) > 0:
            return convert(value, old)
        return Translation(remark="no effect with lora.rank=0")

    return converted


def with_critic(convert: Convert) -> Convert:
    """Only for the estimator that has a critic."""
    return when("algorithm.adv_estimator", ("gae",), convert, "read with adv_estimator=gae alone")


def of_critic(actors: Convert) -> Convert:
    """The conversion of an actor's setting, for the critic's of the same name."""

    def converted(value: Any, old: Settings) -> Translation:
        own = {f"worker.actor.{k.removeprefix(CRITIC)}": v for k, v in old.items() if k.startswith(CRITIC)}
        found = actors(value, {**old, **own})
        values = {name.replace("learner.", "critic.", 1): value for name, value in found.values.items()}
        return Translation(values, found.decide.replace("learner.", "critic."))

    return with_critic(converted)


CRITIC = "worker.critic."


def warmup_ratio(ratio: Any, old: Settings) -> Translation:
    """A number of steps won over the ratio."""
    if old["worker.actor.optim.lr_warmup_steps"] is not None:
        return Translation(remark="no effect with lr_warmup_steps")
    return Translation({"learner.optimiser.warmup_ratio": ratio})


def warmup_steps(steps: Any, old: Settings) -> Translation:
    """Counted in batches there, in optimiser steps here."""
    if steps is None:
        return Translation()
    each = mini_batches(old["worker.actor.global_batch_size"], old).values.get("learner.mini_batches", 1)
    return Translation({"learner.optimiser.warmup_steps": int(steps) * each * int(old["worker.actor.ppo_epochs"])})


BUILT_IN = "reward_function/reward_func.py:compute_score"


def reward_function(function: Any, old: Settings) -> Translation:
    """The published reward is built in; one's own is called as before."""
    if function is None or str(function).endswith(BUILT_IN):
        remark = "the published clamp on negatives; negative_max=10 gives them a gradient (docs/algorithms.md)"
        return Translation({"reward.rules.negative_max": 1.0}, remark=remark)
    return Translation({"reward.function": function, "reward.rules": {}})


def reward_kwargs(kwargs: Any, old: Settings) -> Translation:
    """Arguments of one's own function."""
    if not kwargs:
        return Translation()
    function = old["worker.reward.reward_function"]
    if function is None or str(function).endswith(BUILT_IN):
        return Translation(decide=f"the built-in reward takes {_listed(kwargs)} as reward.rules, if it has such a rule")
    return Translation({"reward.function_kwargs": kwargs})


TRACKERS = ("tensorboard", "wandb", "mlflow", "swanlab")


def loggers(names: Any, _: Settings) -> Translation:
    """Console and file are always on; trackers have the same names."""
    given = cast("list[str]", names if isinstance(names, list | tuple) else [names])
    other = sorted({*given} - {"console", "file", *TRACKERS})
    known = [name for name in TRACKERS if name in given]
    decide = f"no {_listed(other)}: name one of run.trackers, or read metrics.jsonl" if other else ""
    return Translation({"run.trackers": known}, decide=decide)


def length(epochs: Any, old: Settings) -> Translation:
    """max_steps wins, there and here; here only one of them may be set."""
    return Translation() if old["trainer.max_steps"] is not None else Translation({"trainer.epochs": epochs})


def run_name(name: Any, old: Settings) -> Translation:
    """The run's own folder; a checkpoint path, where given, named it instead."""
    if old["trainer.save_checkpoint_path"] is not None:
        return Translation(remark="no effect with save_checkpoint_path")
    return Translation({"run.name": name})


def run_folder(project: Any, old: Settings) -> Translation:
    """Runs of a project lie side by side."""
    if old["trainer.save_checkpoint_path"] is not None:
        return Translation(remark="no effect with save_checkpoint_path")
    return Translation({"run.folder": f"runs/{project}"})


def checkpoint_path(path: Any, _: Settings) -> Translation:
    """The folder becomes the whole run's."""
    if path is None:
        return Translation()
    folder = PurePosixPath(str(path))
    return Translation({"run.folder": str(folder.parent), "run.name": folder.name})


def keep(limit: Any, _: Settings) -> Translation:
    """-1 kept every checkpoint."""
    count = int(number(limit, "trainer.save_limit"))
    return Translation({"checkpoint.keep": ALL if count < 1 else count})


def every(name: str) -> Convert:
    """-1 was never, which is 0 here."""

    def convert(steps: Any, _: Settings) -> Translation:
        return Translation({name: max(0, int(number(steps, name)))})

    return convert


def share_out(per_node: Any, old: Settings) -> Translation:
    """Proposes which role gets which GPUs: there all roles took turns on all of them, here each has its own."""
    nodes = int(number(old["trainer.nnodes"], "trainer.nnodes"))
    gpus = nodes * int(number(per_node, "trainer.n_gpus_per_node"))
    each = int(number(old["worker.rollout.tensor_parallel_size"], "tensor_parallel_size"))
    without = old["algorithm.disable_kl"] or old["algorithm.kl_penalty"] == "full"  # that the learner holds itself
    references = 0 if without else 1
    critic = old["algorithm.adv_estimator"] == "gae"
    trained = 2 if critic else 1
    ranks = 1 << max(0, (gpus // (2 * trained)).bit_length() - 1)  # a power of two divides most batches
    engines = (gpus - trained * ranks - references) // each
    if engines < 1:
        return Translation(decide=f"{gpus} GPU(s) are too few for roles with their own GPUs; set resources.* by hand")
    values = {
        "resources.learner.count": ranks,
        "resources.rollout.count": engines,
        "resources.learner.gpus": 1,
        "resources.rollout.gpus": each,
        "resources.reference.gpus": references,
        "resources.weight_transfer": "object_store" if int(old["worker.actor.model.lora.rank"]) else "nccl",
    }
    if critic:
        values |= {"resources.critic.count": ranks, "resources.critic.gpus": 1}
    decide = (
        f"there all roles took turns on {gpus} GPU(s); here each has its own: {ranks} for the learner, "
        + (f"{ranks} for the critic, " if critic else "")
        + f"{engines} engine(s) of {each}, {references} for the reference is a proposal"
    )
    return Translation(values, decide)
