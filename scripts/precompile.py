"""Imports what a run imports, once, so that Python has compiled it before many processes need it at the same time.

    python scripts/precompile.py

Set-up starts it with PYTHONDONTWRITEBYTECODE taken away: where that is set, as in many images, each process of a run
would compile the same five thousand files of torch, transformers and vLLM again, which takes 15 s of a core.
"""

from __future__ import annotations

import importlib
import os
import pkgutil
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
PACKAGES = ("files", "schemas", "pointing", "algorithms", "migration", "policy", "actors", "services", "orchestrator")
SKIPPED = ("orchestrator.__main__",)  # it is the command line itself
# What these load when a model is built or an actor starts, by name, and no module of ours imports.
LATER = (
    "ray._private.workers.default_worker",
    "ray._private.log_monitor",
    "ray._private.runtime_env.agent.main",
    "ray.dashboard.agent",
    "ray.dashboard.dashboard",
    "ray.serve._private.controller",
    "ray.serve._private.proxy",
    "ray.serve._private.replica",
    "transformers.models.qwen2_vl.modeling_qwen2_vl",
    "transformers.models.qwen2_5_vl.modeling_qwen2_5_vl",
    "transformers.models.qwen3_vl.modeling_qwen3_vl",
    "transformers.models.qwen2_vl.image_processing_qwen2_vl",
    "transformers.models.qwen2_5_vl.processing_qwen2_5_vl",
    "transformers.models.qwen3_vl.processing_qwen3_vl",
    "vllm.model_executor.models.qwen2_vl",
    "vllm.model_executor.models.qwen2_5_vl",
    "vllm.model_executor.models.qwen3_vl",
    "vllm.v1.worker.cpu_worker",
    "vllm.v1.worker.gpu_worker",
)


def ours() -> list[str]:
    """Every module of the project."""
    found = [name for package in PACKAGES for name in _inside(package)]
    return [name for name in found if name not in SKIPPED]


def _inside(package: str) -> list[str]:
    walked = pkgutil.walk_packages([str(ROOT / package)], f"{package}.", onerror=lambda _: None)
    return [package, *(module.name for module in walked)]


def main() -> None:
    """Modules that this machine cannot import are left: no run here will import them either."""
    sys.path.insert(0, str(ROOT))
    os.environ.setdefault("TORCHDYNAMO_DISABLE", "1")
    for name in (*ours(), *LATER):
        try:
            importlib.import_module(name)
        except Exception as error:
            print(f"precompile: {name}: {type(error).__name__}: {error}", file=sys.stderr)


if __name__ == "__main__":
    main()
