"""A node that dies while it starts is started again, in a process of its own: this one may have a cluster."""

import subprocess
import sys

import pytest

SCRIPT = """
import threading, time
import psutil, ray
from orchestrator.roles.local_ray import start_local

def kill_first_raylet():
    while True:
        for child in psutil.Process().children():
            if child.name() == "raylet":
                child.kill()
                print("killed", child.pid, flush=True)
                return
        time.sleep(0.001)

threading.Thread(target=kill_first_raylet, daemon=True).start()
start_local(address="local", num_cpus=1, include_dashboard=False, log_to_driver=False)
raylets = [c.pid for c in psutil.Process().children() if c.name() == "raylet" and c.status() != "zombie"]
servers = [c.pid for c in psutil.Process().children() if c.name() == "gcs_server" and c.status() != "zombie"]
print("answer", ray.get(ray.remote(lambda: 6 * 7).remote()), len(raylets), len(servers), flush=True)
"""


@pytest.mark.slow  # Ray waits 30 s for the node
def test_a_node_that_dies_on_its_way_up_is_started_again() -> None:
    done = subprocess.run([sys.executable, "-c", SCRIPT], capture_output=True, text=True, timeout=180)
    assert done.returncode == 0, done.stderr
    assert "killed" in done.stdout
    assert "answer 42 1 1" in done.stdout
    assert "starting it again" in done.stderr
