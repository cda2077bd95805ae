"""What a plain task's worker imports."""

import subprocess
import sys
from pathlib import Path

import actors.table_files

ROOT = Path(__file__).parents[2]
SLOW = ("torch", "transformers", "vllm", "ray", "peft")


def test_a_worker_that_writes_tables_imports_nothing_slow() -> None:
    code = f"import sys, {actors.table_files.__name__}\nprint([name for name in {SLOW} if name in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout == "[]\n"
