"""Stage 2: the training loop.

tasks -> rollout engines -> shards -.-> reward service ----.
              ^                     |-> reference model ---+-> (refill) -> assemble -> learner
              |                     '-> critic ------------'                   '-----> critic
              '----------------- weights ---------------------------------------------- learner
"""

from __future__ import annotations

from actors.player import Order
from orchestrator.after_step import Watch
from orchestrator.batch.assemble import StageTables, assemble
from orchestrator.batch.dynamic_sampling import refill_of
from orchestrator.batch.greedy_baseline import baseline_of
from orchestrator.batch.numbers import batch_numbers, learner_numbers
from orchestrator.batch.progress import Progress
from orchestrator.roles.cluster import Cluster
from orchestrator.telemetry.stage_seconds import CLOCK
from schemas.config import TrainConfig


def train(config: TrainConfig, cluster: Cluster, progress: Progress, watch: Watch) -> None:
    """Runs every step that is left. Synchronous: all turns of a batch are sampled by the policy it then updates."""
    rollout = config.rollout
    baseline = baseline_of(config.algorithm, cluster)
    refill = refill_of(config, cluster)
    watch.before(progress)
    for step in progress.steps():
        order = Order(f"{step:06d}", progress.next_tasks(), rollout.samples_per_task, rollout.sampling)
        filled = refill.complete(order, cluster.play(order, version=step), progress)
        greedy = baseline.play(step, filled.tasks)
        shards = filled.shards
        returned = StageTables(shards.rollouts, shards.scores, shards.reference, shards.values, greedy)
        batch = assemble(returned, progress.method)
        lesson = cluster.critic.update(batch.critic, shards.images)
        learned = cluster.learner.update(batch.training, shards.images, progress.kl.coef)
        cluster.publish_weights(version=step + 1)
        numbers = batch_numbers(batch) | filled.numbers | learner_numbers(learned) | lesson.numbers()
        progress.advance(batch.adaptive, learned.means.kl)
        watch.step(step, batch, numbers | CLOCK.numbers(), progress)
    watch.after(progress)
