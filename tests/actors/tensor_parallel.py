"""Run as a script in a process of its own: an engine of two workers in a Ray actor whose placement group has one bundle
for both, as the rollout role places it. Prints one JSON object.

    python tensor_parallel.py FOLDER
"""

import json
import os
import sys
from pathlib import Path

os.environ.update(TORCHDYNAMO_DISABLE="1", OMP_NUM_THREADS="1", HF_HUB_OFFLINE="1", RAY_AUTH_MODE="disabled")

import ray

from schemas.config import EngineOptions
from tests.actors.parity import Bench


class Play:
    """What the actor does."""

    def __init__(self, folder: str) -> None:
        self._bench = Bench("qwen2_5_vl", Path(folder), EngineOptions(max_model_len=768, tensor_parallel_size=2))

    def report(self) -> dict[str, float | str]:
        bench = self._bench
        backend = bench.engine._engine.vllm_config.parallel_config.distributed_executor_backend
        before = bench.difference(bench.play(1.0, samples=2), bench.path, 1.0)
        bench.swap(bench.other, 1)
        after = bench.play(1.0, samples=2)
        return {
            "backend": str(backend),
            "before": before,
            "after": bench.difference(after, bench.other, 1.0),
            "after, old weights": bench.difference(after, bench.path, 1.0),
        }


if __name__ == "__main__":
    from ray.util.placement_group import placement_group
    from ray.util.scheduling_strategies import PlacementGroupSchedulingStrategy

    ray.init(num_cpus=2, include_dashboard=False, runtime_env={"env_vars": {"PYTHONPATH": os.environ["PYTHONPATH"]}})
    group = placement_group([{"CPU": 2}])
    place = PlacementGroupSchedulingStrategy(group, 0, placement_group_capture_child_tasks=True)
    actor = ray.remote(Play).options(num_cpus=2, scheduling_strategy=place).remote(sys.argv[1])
    print(json.dumps(ray.get(actor.report.remote(), timeout=240)))
    ray.shutdown()
