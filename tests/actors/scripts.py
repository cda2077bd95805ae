"""Scripts of these tests, each run in a process of its own, since an engine stays in its process for good."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

HERE = Path(__file__).parent


def report_of(script: str, *arguments: object, timeout_s: float = 300, **environment: str) -> dict[str, Any]:
    """The JSON object in the last line that a script of this folder prints; fails with its errors."""
    done = subprocess.run(
        [sys.executable, str(HERE / script), *map(str, arguments)],
        capture_output=True,
        text=True,
        timeout=timeout_s,
        check=False,
        env={**os.environ, "PYTHONPATH": str(HERE.parent.parent), **environment},
    )
    assert done.returncode == 0, done.stderr[-3000:]
    return json.loads(done.stdout.splitlines()[-1])
