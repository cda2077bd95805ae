"""The configuration tree: every knob, its default and the rules between knobs.

Frozen; unknown keys are refused; contradictory or ineffective settings are refused at construction with the field, the
value and a remedy. Files and dotted overrides are read by schemas/config_file.py.

One default lives in one place, here. Numbers that follow from others are properties (see `TrainConfig.plan`).
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Annotated, Any, Literal, cast

from pydantic import Field, NonNegativeFloat, NonNegativeInt, PositiveFloat, PositiveInt, model_validator

from schemas.method import DynamicSampling, Gae, Mismatch, Overlong
from schemas.micro_batches import MicroBatches
from schemas.placement import Placement
from schemas.scoring import RewardRules
from schemas.service import ServiceOptions
from schemas.task import Record

Fraction = Annotated[float, Field(ge=0.0, le=1.0)]
DType = Literal["float32", "bfloat16"]
Transfer = Literal["object_store", "nccl"]
OnError = Literal["stop", "continue"]
Advantage = Literal[
    "grpo", "dr_grpo", "grpo_passk", "rloo", "reinforce_plus_plus", "reinforce_plus_plus_baseline", "remax", "gae"
]


class Run(Record):
    """Where a run's folder is and what makes it repeatable."""

    name: Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*$")] = "run"
    folder: str = "runs"
    seed: NonNegativeInt = 1
    deterministic: bool = False  # the same numbers, bit for bit, every time on the same machine; slower, float32 alone
    resume: bool = True  # continue from the last checkpoint when the run folder holds one
    timeline: bool = (
        False  # write Ray's trace of all tasks and calls to timeline.json, for chrome://tracing or Perfetto
    )
    resume_step: NonNegativeInt | None = None  # continue from this checkpoint instead; later ones are set aside
    grace_s: PositiveFloat = 25.0  # from SIGTERM or Ctrl-C to the end of the run, its checkpoint written


class Lora(Record):
    """Low-rank adapters (peft). Only they are trained and saved; the sampler gets them merged."""

    rank: PositiveInt = 16
    alpha: PositiveInt = 32
    targets: tuple[str, ...] | Literal["all-linear"] = "all-linear"
    exclude: str | None = r".*visual.*"


class Model(Record):
    """The policy. `path` is a Hugging Face checkpoint folder of a Qwen2-VL, Qwen2.5-VL or Qwen3-VL model."""

    path: str
    chat_template: str | None = None  # a Jinja file in place of the checkpoint's own template, in the export too
    dtype: DType = "float32"
    # "varlen" tells sequences apart by where they start: torch's FlashAttention on a GPU, no mask anywhere. The others
    # are transformers' own.
    attention: Literal["varlen", "sdpa", "flash_attention_2", "eager"] = "varlen"
    freeze_vision: bool = False
    gradient_checkpointing: bool = False
    trust_remote_code: bool = False
    lora: Lora | None = None


class Data(Record):
    """Task files and how the model sees them. Pixel bounds are areas of the image that the model sees."""

    train_files: tuple[str, ...] | str
    validation_files: tuple[str, ...] | str = ()
    test_files: tuple[str, ...] | str = ()
    image_dir: str | None = None  # default: the folder of each file
    prompt_key: str = "prompt"
    ground_truth_key: str = "ground_truth"
    image_key: str = "images"
    video_key: str = "videos"
    # "short" asks the question alone, "detailed" describes tool and answer after it, a Jinja file wraps {{ content }}.
    prompt_style: Literal["short", "detailed"] | Annotated[str, Field(pattern=r"^.+\.(jinja|jinja2|j2)$")] = "detailed"
    system_prompt: str | None = None  # None keeps the chat template's own
    min_pixels: PositiveInt = 256 * 28 * 28
    max_pixels: PositiveInt = 1280 * 28 * 28
    max_prompt_tokens: PositiveInt = 4096
    on_error: Literal["fail", "skip"] = "fail"
    shuffle: bool = True

    @model_validator(mode="after")
    def _pixel_bounds(self) -> Data:
        if self.min_pixels > self.max_pixels:
            raise ValueError(
                f"min_pixels={self.min_pixels} is above max_pixels={self.max_pixels}; lower one or raise the other"
            )
        return self


class Sampling(Record):
    """How tokens are drawn. top_k 0 means no limit."""

    temperature: Annotated[float, Field(ge=0.0, le=10.0)] = 1.0
    top_p: Annotated[float, Field(gt=0.0, le=1.0)] = 1.0
    top_k: NonNegativeInt = 0

    @property
    def truncated(self) -> bool:
        """True when some tokens can never be drawn although the policy gives them probability."""
        return self.top_p != 1.0 or self.top_k != 0


class Engine(Record):
    """vLLM. Sizes are per engine."""

    dtype: DType = "float32"
    max_model_len: PositiveInt = 4096
    max_num_seqs: PositiveInt = 256
    kv_cache_bytes: PositiveInt = 256 * 1024 * 1024  # used by the CPU build
    gpu_memory_utilization: Annotated[float, Field(gt=0.0, lt=1.0)] = 0.6
    block_size: PositiveInt = 32
    tensor_parallel_size: PositiveInt = 1
    enforce_eager: bool = True
    image_cache_gib: NonNegativeFloat = 0.25


class Rollout(Record):
    """How episodes are played in training."""

    tasks_per_step: PositiveInt = 32
    samples_per_task: PositiveInt = 8
    sampling: Sampling = Sampling()
    max_turns: PositiveInt = 2
    max_tokens_per_turn: PositiveInt = 512
    shards_per_engine: PositiveInt = 2  # smaller shards reach the reward and the reference earlier
    engine: Engine = Engine()


class Adaptive(Record):
    """Variance-weighted advantages; the field names follow docs/algorithms.md."""

    statistic: Literal["variance", "std", "range", "entropy"] = "variance"
    mapping: Literal["sqrt", "linear", "power", "log"] = "sqrt"
    baseline: Literal["moving_average", "batch"] = "moving_average"
    momentum: Fraction = 0.95
    initial: PositiveFloat | None = None  # None: start from the first batch
    eps: PositiveFloat = 1e-6
    clip_min: NonNegativeFloat = 0.3
    clip_max: PositiveFloat = 3.0
    normalize: bool = False
    power: PositiveFloat = 0.5
    log_alpha: PositiveFloat = 1.0
    entropy_bins: Annotated[int, Field(ge=2)] = 5

    @model_validator(mode="after")
    def _clip_order(self) -> Adaptive:
        if self.clip_min > self.clip_max:
            raise ValueError(f"clip_min={self.clip_min} is above clip_max={self.clip_max}; swap them")
        return self


LossName = Literal["ppo_clip", "gspo", "gspo_token", "cispo", "sapo"]
# What each loss reads, with its defaults. Clip bounds are on the scale of the ratio they bound: GSPO's, a mean over a
# sequence, stays far closer to 1. CISPO as published has no lower bound.
LOSS_DEFAULTS: Mapping[LossName, Mapping[str, float | None]] = MappingProxyType(
    {
        "ppo_clip": {"clip_low": 0.2, "clip_high": 0.2, "clip_dual": 3.0},
        "gspo": {"clip_low": 3e-4, "clip_high": 4e-4, "clip_dual": None},
        "gspo_token": {"clip_low": 3e-4, "clip_high": 4e-4, "clip_dual": None},
        "cispo": {"clip_low": 0.999, "clip_high": 0.2},
        "sapo": {"tau_positive": 1.0, "tau_negative": 1.05},
    }
)


class Loss(Record):
    """The policy-gradient loss and what it divides by.

    What `name` reads of the clip bounds and taus starts from LOSS_DEFAULTS; the others stay None. clip_dual None means
    no bound.

    >>> Loss(name="sapo").tau_negative, Loss(name="sapo").clip_low
    (1.05, None)
    """

    name: LossName = "ppo_clip"
    clip_low: Annotated[float, Field(gt=0.0, lt=1.0)] | None = None
    clip_high: PositiveFloat | None = None
    clip_dual: PositiveFloat | None = None
    tau_positive: PositiveFloat | None = None
    tau_negative: PositiveFloat | None = None
    denominator: Literal["token", "sequence", "constant"] = "token"
    constant: PositiveFloat | None = None
    entropy_coefficient: NonNegativeFloat = 0.0

    @model_validator(mode="before")
    @classmethod
    def _own_defaults(cls, given: Any) -> Any:
        if not isinstance(given, dict):
            return given
        values = cast("dict[str, Any]", given)
        name = values.get("name", cls.model_fields["name"].default)
        own = next((defaults for known, defaults in LOSS_DEFAULTS.items() if known == name), {})  # {}: a wrong name
        return {**own, **values}

    @model_validator(mode="after")
    def _effective(self) -> Loss:
        reads = LOSS_DEFAULTS[self.name]
        fields = {field for defaults in LOSS_DEFAULTS.values() for field in defaults}
        unread = sorted(field for field in fields - reads.keys() if getattr(self, field) is not None)
        if unread:
            raise ValueError(
                f"loss {self.name!r} does not read {', '.join(unread)}; remove what has no effect (it reads "
                f"{', '.join(reads)})"
            )
        unset = [field for field in reads if field != "clip_dual" and getattr(self, field) is None]
        if unset:
            raise ValueError(f"loss {self.name!r} needs {', '.join(unset)}, given as null; leave out for the default")
        if self.clip_dual is not None and self.clip_high is not None and self.clip_dual <= 1 + self.clip_high:
            raise ValueError(
                f"clip_dual={self.clip_dual} must lie above 1 + clip_high={1 + self.clip_high}; raise it, or set null"
            )
        return self

    @model_validator(mode="after")
    def _constant_needed(self) -> Loss:
        if (self.denominator == "constant") != (self.constant is not None):
            raise ValueError(
                f"denominator={self.denominator!r} with constant={self.constant}: set constant exactly when "
                "denominator is 'constant' (Dr.GRPO: trajectories x longest reply)"
            )
        return self


class Kl(Record):
    """Distance to the reference model, as a term of the loss or taken off the reward of each sampled token.

    Coefficient 0 starts no reference model. `full` is the exact KL over the vocabulary: the learner then holds the
    reference itself, and no reference actor is started.
    """

    coefficient: NonNegativeFloat = 0.01
    place: Literal["loss", "reward"] = "loss"
    estimator: Literal["k1", "abs", "k2", "k3", "full"] = "k3"
    controller: Literal["fixed", "adaptive"] = "fixed"
    target: PositiveFloat | None = None  # of the adaptive controller: mean KL per trained token
    horizon: PositiveFloat | None = None  # of the adaptive controller: sequences

    @model_validator(mode="after")
    def _effective(self) -> Kl:
        if self.controller == "fixed" and (self.target is not None or self.horizon is not None):
            raise ValueError("target and horizon have no effect with controller='fixed'; remove them or set 'adaptive'")
        if self.controller == "adaptive" and (self.target is None or self.horizon is None):
            raise ValueError("controller='adaptive' needs target and horizon; 0.1 and 10000 are usual")
        if self.coefficient == 0 and self.controller == "adaptive":
            raise ValueError("an adaptive controller cannot move a coefficient of 0; start it above 0")
        if self.coefficient == 0 and self.place == "reward":
            raise ValueError("place='reward' has no effect with coefficient=0; raise the coefficient or remove place")
        if self.place == "reward" and self.exact:
            raise ValueError(
                "place='reward' with estimator='full': the sampler would have to send its probability of every id in "
                "the vocabulary for every token; use k1 or k3 in the reward, or place='loss'"
            )
        return self

    @property
    def exact(self) -> bool:
        """Whether the KL is summed over the vocabulary."""
        return self.estimator == "full"


class Algorithm(Record):
    """The RL method."""

    advantage: Advantage = "grpo"
    gamma: Fraction | None = None  # discount per sampled token where the advantage has one; None: 1
    gae: Gae | None = None  # None: the defaults, where the advantage is 'gae'
    adaptive: Adaptive | None = None
    loss: Loss = Loss()
    kl: Kl = Kl()
    mismatch: Mismatch | None = None
    dynamic_sampling: DynamicSampling | None = None
    overlong: Overlong | None = None
    mask_truncated: bool = False  # no loss on trajectories that a limit of tokens cut


class Optimiser(Record):
    """AdamW and its schedule. The learning rate warms up linearly, then follows `schedule` down to min_ratio x lr."""

    lr: PositiveFloat = 1e-6
    betas: tuple[Fraction, Fraction] = (0.9, 0.999)
    eps: PositiveFloat = 1e-8
    state_dtype: DType = "float32"  # of the two moments; bfloat16 halves them, rounded stochastically
    weight_decay: NonNegativeFloat = 0.01
    max_grad_norm: PositiveFloat = 1.0
    schedule: Literal["constant", "cosine", "linear"] = "constant"
    warmup_steps: NonNegativeInt = 0
    warmup_ratio: Fraction = 0.0  # of all optimiser steps, in place of warmup_steps
    min_ratio: Fraction = 0.0

    @model_validator(mode="after")
    def _one_warmup(self) -> Optimiser:
        if self.warmup_steps and self.warmup_ratio:
            raise ValueError(
                f"warmup_steps={self.warmup_steps} and warmup_ratio={self.warmup_ratio} say the same; set one of them"
            )
        return self


class Sharding(Record):
    """How the trained parameters lie on the ranks."""

    ranks: PositiveInt | None = None  # ranks that share one copy, on one node say; others hold copies. None: all ranks
    cpu_offload: bool = False  # shards, gradients and optimiser in host memory; the step runs on the CPU


class Learner(Record):
    """How a batch becomes optimiser steps. Rows are trajectories."""

    optimiser: Optimiser = Optimiser()
    epochs: PositiveInt = 1
    mini_batches: PositiveInt = 1  # optimiser steps per epoch over one batch
    # Of one forward pass of one rank. With micro_batch_tokens, rows are not limited unless they are set too.
    micro_batch_rows: PositiveInt | None = 16
    micro_batch_tokens: PositiveInt | None = None
    layout: Literal["padded", "packed"] = "padded"
    sharding: Sharding = Sharding()
    compile: bool = False  # torch.compile of every block; GPUs only
    max_kl: PositiveFloat | None = None  # a step is skipped if its mean KL to the reference is above
    max_ratio: PositiveFloat | None = None  # or if the mean ratio of its probabilities to those before the update is
    max_nonfinite_steps: NonNegativeInt = 5  # steps skipped in a row, for these or not finite, before the run stops

    @property
    def micro_batches(self) -> MicroBatches:
        """The limits of one forward pass."""
        return MicroBatches(self.micro_batch_rows, self.micro_batch_tokens, packed=self.layout == "packed")

    @model_validator(mode="before")
    @classmethod
    def _tokens_instead(cls, given: Any) -> Any:
        if isinstance(given, dict) and cast("dict[str, Any]", given).get("micro_batch_tokens") is not None:
            return {"micro_batch_rows": None, **cast("dict[str, Any]", given)}
        return given

    @model_validator(mode="after")
    def _limited(self) -> Learner:
        if self.micro_batch_rows is None and self.micro_batch_tokens is None:
            raise ValueError("micro_batch_rows=null without micro_batch_tokens limits nothing; set one of them")
        return self


class Critic(Learner):
    """The value network of advantage 'gae': a backbone like the policy's with one number per token as its output.

    Type, attention, adapters and frozen parts are those of the model section; the rest is as for the learner.
    """

    path: str | None = None  # backbone to start from, same family and tokenizer; None: model.path
    optimiser: Optimiser = Optimiser(lr=1e-5)
    value_clip: PositiveFloat | None = None  # how far one batch may move a value, in units of reward; None: no bound
    pretrain_steps: NonNegativeInt = 0  # training steps in which the critic learns and the policy does not


class Validation(Record):
    """Held-out evaluation: `samples` draws per task at the sampling below, and one greedy pass."""

    every: NonNegativeInt = 0  # steps between validations; 0: only before and after
    before: bool = True
    after: bool = True
    samples: PositiveInt = 3
    sampling: Sampling = Sampling(temperature=0.6, top_p=0.95)
    greedy: bool = True
    limit: PositiveInt | None = None  # first tasks of the file only


class Checkpoint(Record):
    """When the learner's state is written and how much is kept. The best step (validation reward) is kept beside.

    It is copied to host memory and written from there while training goes on, one checkpoint at a time.
    """

    every: NonNegativeInt = 50  # steps; 0: only at the end
    keep: PositiveInt = 2
    keep_best: bool = True
    on_error: OnError = "stop"  # when one, or a replay, cannot be written (full disk); the last one must be
    # A URL that fsspec knows (s3://bucket/runs, file:///mnt/runs): complete checkpoints are copied there, and brought
    # back from there when the run folder has none as new. None: they are in the run folder alone.
    mirror: str | None = None

    @model_validator(mode="after")
    def _url(self) -> Checkpoint:
        if self.mirror is not None and not re.match(r"[a-z][a-z0-9+.-]*://.", self.mirror):
            raise ValueError(f"mirror={self.mirror!r}: give an fsspec URL such as s3://bucket/runs or file:///mnt/runs")
        return self


class Resources(Record):
    """Processes of each role and what Ray reserves for them. Threads are set for every process."""

    rollout_engines: PositiveInt = 1
    learner_ranks: PositiveInt = 1
    reference_replicas: PositiveInt = 1
    critic_ranks: PositiveInt = 1  # started only with a critic section
    cpus_per_engine: NonNegativeFloat = 1.0
    cpus_per_learner: NonNegativeFloat = 1.0
    cpus_per_reference: NonNegativeFloat = 1.0
    cpus_per_critic: NonNegativeFloat = 1.0
    gpus_per_engine: NonNegativeFloat = 0.0
    gpus_per_learner: NonNegativeFloat = 0.0
    gpus_per_reference: NonNegativeFloat = 0.0
    gpus_per_critic: NonNegativeFloat = 0.0
    threads: PositiveInt = 1
    weight_transfer: Transfer = "object_store"
    placement: Placement = Placement()
    gpu_memory_gib: PositiveFloat | None = None  # of one GPU; given, a plan that needs more is refused
    autoscaled: bool = False  # nodes come when they are asked for: do not refuse by those there are at the start
    object_store_bytes: PositiveInt | None = None
    start_timeout_s: PositiveFloat = 600.0
    call_timeout_s: PositiveFloat = 1800.0
    collective_timeout_s: PositiveFloat = 120.0
    silence_timeout_s: PositiveFloat = 60.0  # a process that gives no sign of life for so long is replaced
    max_restarts: NonNegativeInt = 10  # lost parts brought back within an hour before the run ends; 0: none

    @property
    def total_cpus(self) -> float:
        """Logical CPUs that all roles reserve together."""
        return (
            self.rollout_engines * self.cpus_per_engine
            + self.learner_ranks * self.cpus_per_learner
            + self.reference_replicas * self.cpus_per_reference
            + self.critic_ranks * self.cpus_per_critic
        )

    @model_validator(mode="after")
    def _whole_gpus(self) -> Resources:
        for role, gpus in (
            ("engine", self.gpus_per_engine),
            ("learner", self.gpus_per_learner),
            ("reference", self.gpus_per_reference),
            ("critic", self.gpus_per_critic),
        ):
            if gpus > 1 and gpus != int(gpus):
                raise ValueError(f"gpus_per_{role}={gpus}: a share is of one GPU; set a whole number, or less than 1")
        return self

    @model_validator(mode="after")
    def _transfer_fits(self) -> Resources:
        if self.weight_transfer == "nccl" and not (self.gpus_per_engine and self.gpus_per_learner):
            raise ValueError(
                "weight_transfer='nccl' needs GPUs on both sides; set gpus_per_engine and gpus_per_learner, or use "
                "'object_store'"
            )
        return self


class Trainer(Record):
    """How long to train. max_steps wins over epochs; one of them is needed."""

    max_steps: PositiveInt | None = None
    epochs: PositiveInt | None = None
    samples_to_log: NonNegativeInt = 8  # pictures written at each validation

    @model_validator(mode="after")
    def _length_known(self) -> Trainer:
        if (self.max_steps is None) == (self.epochs is None):
            raise ValueError(f"max_steps={self.max_steps}, epochs={self.epochs}: set exactly one of them")
        return self


@dataclass(frozen=True, slots=True)
class BatchPlan:
    """What one step does, in numbers; printed at start.

    >>> BatchPlan(32, 8, 2, 1, 1, MicroBatches(16)).rows_per_rank
    128
    """

    tasks: int
    samples: int
    ranks: int
    epochs: int
    mini_batches: int
    micro_batches: MicroBatches

    @property
    def trajectories(self) -> int:
        """Trajectories in one step: tasks x samples."""
        return self.tasks * self.samples

    @property
    def optimiser_steps(self) -> int:
        """Optimiser steps in one training step."""
        return self.epochs * self.mini_batches

    @property
    def rows_per_rank(self) -> int:
        """Most rows that one rank sees in one optimiser step."""
        return -(-self.trajectories // (self.mini_batches * self.ranks))

    def __str__(self) -> str:
        return (
            f"{self.tasks} tasks x {self.samples} samples = {self.trajectories} trajectories a step; "
            f"{self.optimiser_steps} optimiser step(s) of {-(-self.trajectories // self.mini_batches)} trajectories; "
            f"{self.ranks} rank(s), {self.rows_per_rank} trajectories each, in micro-batches of up to "
            f"{self.micro_batches}"
        )


def _require_float32(run: Run, types: Mapping[str, DType]) -> None:
    """Raises ValueError where run.deterministic meets a type whose sums depend on how a batch is cut."""
    for field, dtype in types.items():
        if run.deterministic and dtype != "float32":
            raise ValueError(f"run.deterministic=true needs {field}=float32, it is {dtype!r}; change one of them")


def _refuse_learner(learner: Learner, resources: Resources, role: Literal["learner", "critic"] = "learner") -> None:
    """Raises ValueError where the options of the learner, or of the critic, do not fit its ranks."""
    ranks, gpus = {
        "learner": (resources.learner_ranks, resources.gpus_per_learner),
        "critic": (resources.critic_ranks, resources.gpus_per_critic),
    }[role]
    copy = learner.sharding.ranks
    if copy is not None and ranks % copy:
        raise ValueError(
            f"resources.{role}_ranks={ranks} is no multiple of {role}.sharding.ranks={copy}; change one of them"
        )
    for name, asked in (("sharding.cpu_offload", learner.sharding.cpu_offload), ("compile", learner.compile)):
        if asked and not gpus:
            raise ValueError(f"{role}.{name} has no effect without GPUs; set resources.gpus_per_{role} or remove it")


class TrainConfig(Record):
    """Stage 2: reinforcement learning."""

    run: Run = Run()
    model: Model
    data: Data
    rollout: Rollout = Rollout()
    reward: ServiceOptions = ServiceOptions(rules=RewardRules(negative_max=10.0))
    algorithm: Algorithm = Algorithm()
    learner: Learner = Learner()
    critic: Critic | None = None  # needed by, and only by, algorithm.advantage='gae'
    validation: Validation = Validation()
    checkpoint: Checkpoint = Checkpoint()
    resources: Resources = Resources()
    trainer: Trainer

    @property
    def plan(self) -> BatchPlan:
        """The batch plan."""
        return self._plan(self.learner, self.resources.learner_ranks)

    @property
    def critic_plan(self) -> BatchPlan | None:
        """The batch plan of the critic; None without one."""
        return self._plan(self.critic, self.resources.critic_ranks) if self.critic else None

    def _plan(self, part: Learner, ranks: int) -> BatchPlan:
        return BatchPlan(
            tasks=self.rollout.tasks_per_step,
            samples=self.rollout.samples_per_task,
            ranks=ranks,
            epochs=part.epochs,
            mini_batches=part.mini_batches,
            micro_batches=part.micro_batches,
        )

    @property
    def pretrain_steps(self) -> int:
        """Steps at the start of a run in which only the critic learns."""
        return self.critic.pretrain_steps if self.critic else 0

    @property
    def uses_reference(self) -> bool:
        """True when a reference model is needed."""
        return self.algorithm.kl.coefficient > 0

    @property
    def starts_reference(self) -> bool:
        """True when reference actors score sampled tokens. The exact KL is computed by the learner."""
        return self.uses_reference and not self.algorithm.kl.exact

    @model_validator(mode="after")
    def _repeatable(self) -> TrainConfig:
        _require_float32(self.run, {"model.dtype": self.model.dtype, "rollout.engine.dtype": self.rollout.engine.dtype})
        return self

    @model_validator(mode="after")
    def _consistent(self) -> TrainConfig:
        sampling, plan = self.rollout.sampling, self.plan
        if self.learner.max_kl is not None and not self.uses_reference:
            raise ValueError(
                f"learner.max_kl={self.learner.max_kl} has no effect without a reference model; remove it, or set "
                "algorithm.kl.coefficient above 0"
            )
        if self.learner.max_ratio is not None and plan.optimiser_steps == 1:
            raise ValueError(
                f"learner.max_ratio={self.learner.max_ratio} has no effect with one optimiser step a batch, whose "
                "ratio is 1; remove it, or raise learner.mini_batches or learner.epochs"
            )
        if sampling.temperature == 0:
            raise ValueError("rollout.sampling.temperature=0 explores nothing; use a value above 0 (1.0 is usual)")
        if sampling.truncated and self.algorithm.mismatch is None:
            raise ValueError(
                f"rollout.sampling top_p={sampling.top_p}, top_k={sampling.top_k}: the sampler's distribution then "
                "differs from the learner's; set top_p=1 and top_k=0, or set algorithm.mismatch"
            )
        if self.algorithm.dynamic_sampling is not None:
            own = self.reward.function is not None
            self.algorithm.dynamic_sampling.refuse(None if own else self.reward.rules, self.rollout.samples_per_task)
        if self.algorithm.overlong is not None:
            self.algorithm.overlong.refuse(self.rollout.max_turns, self.rollout.max_tokens_per_turn)
        alone = self.algorithm.advantage in ("reinforce_plus_plus", "remax", "gae")
        if sampling.truncated and self.algorithm.kl.place == "reward":
            raise ValueError(
                f"algorithm.kl.place='reward' compares the sampler with the reference, which top_p={sampling.top_p}, "
                f"top_k={sampling.top_k} make different even where the models are equal; set top_p=1 and top_k=0, or "
                "place='loss'"
            )
        if self.rollout.samples_per_task == 1 and not alone:
            raise ValueError(
                f"rollout.samples_per_task=1 with algorithm.advantage={self.algorithm.advantage!r}: a group of one "
                "has no advantage; draw at least 2 samples, or use reinforce_plus_plus, remax or gae"
            )
        engine, gpus = self.rollout.engine, self.resources.gpus_per_engine
        if gpus and engine.tensor_parallel_size != max(1, gpus):
            raise ValueError(
                f"rollout.engine.tensor_parallel_size={engine.tensor_parallel_size} with "
                f"resources.gpus_per_engine={gpus:g}: an engine needs as many GPUs as it has parallel parts"
            )
        tokens = self.learner.micro_batch_tokens
        if tokens is not None and tokens < self.rollout.engine.max_model_len:
            raise ValueError(
                f"learner.micro_batch_tokens={tokens} is less than one trajectory may have "
                f"(rollout.engine.max_model_len={self.rollout.engine.max_model_len}); raise one or lower the other"
            )
        per_step = plan.trajectories // plan.mini_batches
        if plan.trajectories % plan.mini_batches or per_step % plan.ranks:
            raise ValueError(
                f"{plan.trajectories} trajectories do not divide into learner.mini_batches={plan.mini_batches} x "
                f"resources.learner_ranks={plan.ranks}; change rollout.tasks_per_step, samples_per_task or mini_batches"
            )
        _refuse_learner(self.learner, self.resources)
        if self.model.lora is not None and self.resources.weight_transfer == "nccl":
            raise ValueError(
                "resources.weight_transfer='nccl' sends weights as they are, and model.lora needs them merged; use "
                "'object_store'"
            )
        if self.rollout.tasks_per_step < self.resources.rollout_engines:
            raise ValueError(
                f"rollout.tasks_per_step={self.rollout.tasks_per_step} leaves some of "
                f"resources.rollout_engines={self.resources.rollout_engines} idle; lower the number of engines"
            )
        return self

    @model_validator(mode="after")
    def _critic_fits(self) -> TrainConfig:
        advantage, critic, plan = self.algorithm.advantage, self.critic, self.critic_plan
        if advantage == "gae" and critic is None:
            raise ValueError(
                "algorithm.advantage='gae' needs a critic; add a critic section (critic={} takes its defaults), or use "
                "reinforce_plus_plus, which needs none"
            )
        if critic is None or plan is None:
            return self
        if advantage != "gae":
            raise ValueError(
                f"the critic section has no effect with algorithm.advantage={advantage!r}, which reads no values; "
                "remove it, or set algorithm.advantage=gae"
            )
        _refuse_learner(critic, self.resources, "critic")
        if plan.trajectories % (plan.mini_batches * plan.ranks):
            raise ValueError(
                f"{plan.trajectories} trajectories do not divide into critic.mini_batches={plan.mini_batches} x "
                f"resources.critic_ranks={plan.ranks}; change rollout.tasks_per_step, samples_per_task or one of them"
            )
        if self.trainer.max_steps is not None and critic.pretrain_steps >= self.trainer.max_steps:
            raise ValueError(
                f"critic.pretrain_steps={critic.pretrain_steps} leaves no step of trainer.max_steps="
                f"{self.trainer.max_steps} to the policy; lower it, or train longer"
            )
        return self


class SftTrainer(Record):
    """How long to fine-tune, in samples seen."""

    samples: PositiveInt
    batch_rows: PositiveInt = 32


class SftConfig(Record):
    """Stage 1: supervised fine-tuning on transcripts (CoT-SFT)."""

    run: Run = Run()
    model: Model
    data: Data  # transcripts are written from the ground truth
    learner: Learner = Learner()
    checkpoint: Checkpoint = Checkpoint()
    resources: Resources = Resources()
    trainer: SftTrainer

    @model_validator(mode="after")
    def _consistent(self) -> SftConfig:
        _require_float32(self.run, {"model.dtype": self.model.dtype})
        if self.trainer.batch_rows % self.resources.learner_ranks:
            raise ValueError(
                f"trainer.batch_rows={self.trainer.batch_rows} does not divide by "
                f"resources.learner_ranks={self.resources.learner_ranks}; change one of them"
            )
        _refuse_learner(self.learner, self.resources)
        if self.learner.max_kl is not None or self.learner.max_ratio is not None:
            raise ValueError(
                "learner.max_kl and learner.max_ratio belong to stage 2 and have no effect here; remove them"
            )
        if self.learner.epochs != 1 or self.learner.mini_batches != 1:
            raise ValueError(
                "learner.epochs and learner.mini_batches belong to stage 2 and have no effect here; set trainer.samples"
            )
        return self


class TinyConfig(Record):
    """The small model of this project, and the grounding of its vision on synthetic scenes."""

    run: Run = Run()
    architecture: Literal["qwen2_5_vl", "qwen2_vl", "qwen3_vl"] = "qwen2_5_vl"
    samples: PositiveInt  # images seen
    batch_rows: PositiveInt = 64
    lr: PositiveFloat = 2e-3
    threads: PositiveInt = 1
