"""Stage 1, and the rules between its sections."""

from __future__ import annotations

from pydantic import NonNegativeInt, PositiveInt, model_validator

from schemas.config.checkpoint import Checkpoint
from schemas.config.data import Data
from schemas.config.effect import refuse_unread
from schemas.config.learner import Learner
from schemas.config.learner_rules import refuse_gpu_options_without_gpus, require_float32, require_whole_copies
from schemas.config.model import Model
from schemas.config.resources import SftResources
from schemas.config.run import Run
from schemas.task import Record


class SftTrainer(Record):
    """How long to fine-tune, in samples seen."""

    samples: PositiveInt
    batch_rows: PositiveInt = 32


class SftValidation(Record):
    """Loss of held-out transcripts, over the tasks of data.validation_files."""

    every: NonNegativeInt = 0  # steps between validations; 0: only before and after
    before: bool = True
    after: bool = True
    limit: PositiveInt | None = 256  # first tasks of the file only


class SftConfig(Record):
    """Stage 1: supervised fine-tuning on transcripts (CoT-SFT)."""

    run: Run = Run()
    model: Model
    data: Data  # transcripts are written from the ground truth
    learner: Learner = Learner()
    checkpoint: Checkpoint = Checkpoint()
    resources: SftResources = SftResources()
    validation: SftValidation = SftValidation()
    trainer: SftTrainer

    @model_validator(mode="after")
    def _validation_has_data(self) -> SftConfig:
        if not self.data.validation_files:
            fields = tuple(SftValidation.model_fields)
            refuse_unread(self.validation, "without data.validation_files", *fields, remedy="name held-out files")
        return self

    @model_validator(mode="after")
    def _repeats_in_float32(self) -> SftConfig:
        require_float32(self.run, {"model.dtype": self.model.dtype})
        return self

    @model_validator(mode="after")
    def _batch_divides(self) -> SftConfig:
        ranks = self.resources.learner.count
        if self.trainer.batch_rows % ranks:
            raise ValueError(
                f"trainer.batch_rows={self.trainer.batch_rows} does not divide by resources.learner.count={ranks}; "
                "change one of them"
            )
        return self

    @model_validator(mode="after")
    def _learner_fits_its_ranks(self) -> SftConfig:
        require_whole_copies("learner", self.learner, self.resources.learner)
        refuse_gpu_options_without_gpus("learner", self.learner, self.resources.learner)
        return self

    @model_validator(mode="after")
    def _no_options_of_stage_2(self) -> SftConfig:
        if self.learner.max_kl is not None or self.learner.max_ratio is not None:
            raise ValueError(
                "learner.max_kl and learner.max_ratio belong to stage 2 and have no effect here; remove them"
            )
        if self.learner.epochs != 1 or self.learner.mini_batches != 1:
            raise ValueError(
                "learner.epochs and learner.mini_batches belong to stage 2 and have no effect here; set trainer.samples"
            )
        return self
