"""Stage 2: the training loop.

tasks -> rollout engines -> shards -.-> reward service ----.
              ^                     '-> reference model ---+-> assemble -> learner
              '----------------- weights --------------------------------------'
"""

from __future__ import annotations

from actors.player import Order
from orchestrator.assemble import assemble
from orchestrator.baseline import baseline_of
from orchestrator.clock import CLOCK
from orchestrator.cluster import Cluster, Pending
from orchestrator.metrics import batch_numbers, learner_numbers
from orchestrator.progress import Progress
from orchestrator.watch import Watch
from schemas.config import TrainConfig


def train(config: TrainConfig, cluster: Cluster, progress: Progress, watch: Watch) -> None:
    """Runs every step that is left. Synchronous: all turns of a batch are sampled by the policy it then updates."""
    baseline = baseline_of(config.algorithm, cluster)
    watch.before(progress)
    for step in progress.steps():
        tasks = progress.next_tasks()
        order = Order(f"{step:06d}", tasks, config.rollout.samples_per_task, config.rollout.sampling)
        pending = [
            Pending(shard, cluster.reward.score(shard), cluster.reference.logprobs(shard))
            for shard in cluster.rollout.generate(order, version=step)
        ]
        greedy = baseline.play(step, tasks)
        shards = cluster.collect(pending)
        batch = assemble(
            shards.rollouts,
            shards.scores,
            shards.reference,
            greedy,
            config.algorithm,
            config.plan,
            progress.position.adaptive,
            progress.kl.coef,
        )
        learned = cluster.learner.update(batch.training, shards.images, progress.kl.coef)
        cluster.publish_weights(version=step + 1)
        progress.advance(batch.adaptive, learned.kl if config.uses_reference else None)
        watch.step(step, batch_numbers(batch) | learner_numbers(learned) | CLOCK.numbers(), progress)
    watch.after(progress)
