"""The configuration tree: every knob, its default and the rules between knobs. One file a section.

Frozen; unknown keys are refused; contradictory or ineffective settings are refused at construction with the field, the
value and a remedy. Files and dotted overrides are read by schemas/config/file.py.

One default lives in one place, here. Numbers that follow from others are properties (see `TrainConfig.plan`).
"""

from schemas.config.algorithm import BY_GROUP, DISCOUNTS, NEEDS_GROUPS, Adaptive, Advantage, Algorithm
from schemas.config.batch_plan import BatchPlan
from schemas.config.checkpoint import Checkpoint
from schemas.config.data import Data
from schemas.config.kl import Kl
from schemas.config.learner import Critic, Learner, Optimiser, Sharding
from schemas.config.loss import LOSS_DEFAULTS, Loss, LossName
from schemas.config.method import DynamicSampling, Gae, Mismatch, Overlong
from schemas.config.micro_batches import MicroBatches
from schemas.config.model import Lora, Model
from schemas.config.resources import LABEL, Place, Resources, Role, SftResources, Transfer
from schemas.config.rollout import EngineOptions, Rollout, Sampling
from schemas.config.run import Run
from schemas.config.service import ServiceConfig, ServiceOptions
from schemas.config.sft import SftConfig, SftTrainer
from schemas.config.tiny import TinyConfig
from schemas.config.train import TrainConfig, Trainer
from schemas.config.types import DType, Fraction, OnError
from schemas.config.validation import Validation

__all__ = [
    "BY_GROUP",
    "DISCOUNTS",
    "NEEDS_GROUPS",
    "Adaptive",
    "Advantage",
    "Algorithm",
    "BatchPlan",
    "Checkpoint",
    "Critic",
    "DType",
    "Data",
    "DynamicSampling",
    "EngineOptions",
    "Fraction",
    "Gae",
    "Kl",
    "LABEL",
    "LOSS_DEFAULTS",
    "Learner",
    "Lora",
    "Loss",
    "LossName",
    "MicroBatches",
    "Mismatch",
    "Model",
    "OnError",
    "Optimiser",
    "Overlong",
    "Place",
    "Resources",
    "Role",
    "Rollout",
    "Run",
    "Sampling",
    "ServiceConfig",
    "ServiceOptions",
    "SftConfig",
    "SftResources",
    "SftTrainer",
    "Sharding",
    "TinyConfig",
    "TrainConfig",
    "Trainer",
    "Transfer",
    "Validation",
]
