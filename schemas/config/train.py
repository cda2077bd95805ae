"""Stage 2, and the rules between its sections: one method a rule, named by what it holds."""

from __future__ import annotations

from pydantic import NonNegativeInt, PositiveInt, model_validator

from schemas.config.algorithm import NEEDS_GROUPS, Algorithm
from schemas.config.batch_plan import BatchPlan
from schemas.config.checkpoint import Checkpoint
from schemas.config.data import Data
from schemas.config.effect import refuse_unread
from schemas.config.learner import Critic, Learner
from schemas.config.learner_rules import refuse_gpu_options_without_gpus, require_float32, require_whole_copies
from schemas.config.model import Model
from schemas.config.resources import Resources
from schemas.config.rollout import Rollout
from schemas.config.run import Run
from schemas.config.service import ServiceOptions
from schemas.config.validation import Validation
from schemas.scoring import RewardRules
from schemas.task import Record


class Trainer(Record):
    """How long to train. max_steps wins over epochs; one of them is needed."""

    max_steps: PositiveInt | None = None
    epochs: PositiveInt | None = None
    samples_to_log: NonNegativeInt = 8  # pictures written at each validation
    groups_to_log: NonNegativeInt = 2  # groups of a training step whose replies are kept, of 200 steps at most

    @model_validator(mode="after")
    def _length_known(self) -> Trainer:
        if (self.max_steps is None) == (self.epochs is None):
            raise ValueError(f"max_steps={self.max_steps}, epochs={self.epochs}: set exactly one of them")
        return self


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
        return self._plan(self.learner, self.resources.learner.count)

    @property
    def critic_plan(self) -> BatchPlan | None:
        """The batch plan of the critic; None without one."""
        return self._plan(self.critic, self.resources.critic.count) if self.critic else None

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
    def _transcripts_are_stage_1s(self) -> TrainConfig:
        refuse_unread(self.data, "in stage 2, which reads no transcripts", "transcript_key")
        return self

    @model_validator(mode="after")
    def _repeats_in_float32(self) -> TrainConfig:
        require_float32(self.run, {"model.dtype": self.model.dtype, "rollout.engine.dtype": self.rollout.engine.dtype})
        return self

    @model_validator(mode="after")
    def _max_kl_has_a_reference(self) -> TrainConfig:
        if self.learner.max_kl is not None and not self.uses_reference:
            raise ValueError(
                f"learner.max_kl={self.learner.max_kl} has no effect without a reference model; remove it, or set "
                "algorithm.kl.coefficient above 0"
            )
        return self

    @model_validator(mode="after")
    def _max_ratio_has_a_second_step(self) -> TrainConfig:
        if self.learner.max_ratio is not None and self.plan.optimiser_steps == 1:
            raise ValueError(
                f"learner.max_ratio={self.learner.max_ratio} has no effect with one optimiser step a batch, whose "
                "ratio is 1; remove it, or raise learner.mini_batches or learner.epochs"
            )
        return self

    @model_validator(mode="after")
    def _sampling_explores(self) -> TrainConfig:
        if self.rollout.sampling.temperature == 0:
            raise ValueError("rollout.sampling.temperature=0 explores nothing; use a value above 0 (1.0 is usual)")
        return self

    @model_validator(mode="after")
    def _truncated_sampling_is_corrected(self) -> TrainConfig:
        sampling = self.rollout.sampling
        if sampling.truncated and self.algorithm.mismatch is None:
            raise ValueError(
                f"rollout.sampling top_p={sampling.top_p}, top_k={sampling.top_k}: the sampler's distribution then "
                "differs from the learner's; set top_p=1 and top_k=0, or set algorithm.mismatch"
            )
        return self

    @model_validator(mode="after")
    def _kl_in_the_reward_compares_whole_distributions(self) -> TrainConfig:
        sampling = self.rollout.sampling
        if sampling.truncated and self.algorithm.kl.place == "reward":
            raise ValueError(
                f"algorithm.kl.place='reward' compares the sampler with the reference, which top_p={sampling.top_p}, "
                f"top_k={sampling.top_k} make different even where the models are equal; set top_p=1 and top_k=0, or "
                "place='loss'"
            )
        return self

    @model_validator(mode="after")
    def _dynamic_sampling_can_keep_a_group(self) -> TrainConfig:
        if self.algorithm.dynamic_sampling is not None:
            own = self.reward.function is not None
            self.algorithm.dynamic_sampling.refuse(None if own else self.reward.rules, self.rollout.samples_per_task)
        return self

    @model_validator(mode="after")
    def _some_reply_can_be_overlong(self) -> TrainConfig:
        if self.algorithm.overlong is not None:
            self.algorithm.overlong.refuse(self.rollout.max_turns, self.rollout.max_tokens_per_turn)
        return self

    @model_validator(mode="after")
    def _roles_that_are_reserved_are_started(self) -> TrainConfig:
        if not self.starts_reference:
            why = "the exact KL is computed by the learner" if self.uses_reference else "algorithm.kl.coefficient is 0"
            refuse_unread(self.resources, f"where no reference is started ({why})", "reference")
        if self.critic is None:
            refuse_unread(self.resources, "without a critic section", "critic")
        return self

    @model_validator(mode="after")
    def _groups_are_compared(self) -> TrainConfig:
        if self.rollout.samples_per_task == 1 and self.algorithm.advantage in NEEDS_GROUPS:
            raise ValueError(
                f"rollout.samples_per_task=1 with algorithm.advantage={self.algorithm.advantage!r}: a group of one "
                "has no advantage; draw at least 2 samples, or use reinforce_plus_plus, remax or gae"
            )
        return self

    @model_validator(mode="after")
    def _engines_have_their_gpus(self) -> TrainConfig:
        engine, gpus = self.rollout.engine, self.resources.rollout.gpus
        if gpus and engine.tensor_parallel_size != max(1, gpus):
            raise ValueError(
                f"rollout.engine.tensor_parallel_size={engine.tensor_parallel_size} with "
                f"resources.rollout.gpus={gpus:g}: an engine needs as many GPUs as it has parallel parts"
            )
        return self

    @model_validator(mode="after")
    def _engines_have_tasks(self) -> TrainConfig:
        engines = self.resources.rollout.count
        if self.rollout.tasks_per_step < engines:
            raise ValueError(
                f"rollout.tasks_per_step={self.rollout.tasks_per_step} leaves some of "
                f"resources.rollout.count={engines} idle; lower the number of engines"
            )
        return self

    @model_validator(mode="after")
    def _micro_batches_hold_a_trajectory(self) -> TrainConfig:
        tokens = self.learner.micro_batch_tokens
        if tokens is not None and tokens < self.rollout.engine.max_model_len:
            raise ValueError(
                f"learner.micro_batch_tokens={tokens} is less than one trajectory may have "
                f"(rollout.engine.max_model_len={self.rollout.engine.max_model_len}); raise one or lower the other"
            )
        return self

    @model_validator(mode="after")
    def _batch_divides(self) -> TrainConfig:
        plan = self.plan
        per_step = plan.trajectories // plan.mini_batches
        if plan.trajectories % plan.mini_batches or per_step % plan.ranks:
            raise ValueError(
                f"{plan.trajectories} trajectories do not divide into learner.mini_batches={plan.mini_batches} x "
                f"resources.learner.count={plan.ranks}; change rollout.tasks_per_step, samples_per_task or mini_batches"
            )
        return self

    @model_validator(mode="after")
    def _learner_fits_its_ranks(self) -> TrainConfig:
        require_whole_copies("learner", self.learner, self.resources.learner)
        refuse_gpu_options_without_gpus("learner", self.learner, self.resources.learner)
        return self

    @model_validator(mode="after")
    def _adapters_travel_alone(self) -> TrainConfig:
        if self.model.lora is not None and self.resources.weight_transfer == "nccl":
            raise ValueError(
                "resources.weight_transfer='nccl' sends whole weights, and of model.lora the adapters alone travel; "
                "use 'object_store'"
            )
        return self

    @model_validator(mode="after")
    def _gae_has_a_critic(self) -> TrainConfig:
        advantage = self.algorithm.advantage
        if advantage == "gae" and self.critic is None:
            raise ValueError(
                "algorithm.advantage='gae' needs a critic; add a critic section (critic={} takes its defaults), or use "
                "reinforce_plus_plus, which needs none"
            )
        if self.critic is not None and advantage != "gae":
            raise ValueError(
                f"the critic section has no effect with algorithm.advantage={advantage!r}, which reads no values; "
                "remove it, or set algorithm.advantage=gae"
            )
        return self

    @model_validator(mode="after")
    def _critic_fits_its_ranks(self) -> TrainConfig:
        if self.critic is not None:
            require_whole_copies("critic", self.critic, self.resources.critic)
            refuse_gpu_options_without_gpus("critic", self.critic, self.resources.critic)
        return self

    @model_validator(mode="after")
    def _critic_batch_divides(self) -> TrainConfig:
        plan = self.critic_plan
        if plan is not None and plan.trajectories % (plan.mini_batches * plan.ranks):
            raise ValueError(
                f"{plan.trajectories} trajectories do not divide into critic.mini_batches={plan.mini_batches} x "
                f"resources.critic.count={plan.ranks}; change rollout.tasks_per_step, samples_per_task or one of them"
            )
        return self

    @model_validator(mode="after")
    def _policy_learns_too(self) -> TrainConfig:
        if self.trainer.max_steps is not None and self.pretrain_steps >= self.trainer.max_steps:
            raise ValueError(
                f"critic.pretrain_steps={self.pretrain_steps} leaves no step of trainer.max_steps="
                f"{self.trainer.max_steps} to the policy; lower it, or train longer"
            )
        return self
