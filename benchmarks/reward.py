"""What scoring costs: the pure function, the deployment handle, HTTP beside a bare uvicorn, and hostile replies.

    python benchmarks/reward.py [--seconds 3] [--step-seconds 2.6]

One run on one machine, so that its numbers can be compared with one another. Pure-function times are the fastest of
several rounds of CPU time; calls and requests are percentiles of wall time. The load is 8 connections from this
process, which competes with the service for the cores. `--step-seconds` (default: the step of results/step.json, where
that exists) is what the share of a training step is taken of.
"""

from __future__ import annotations

import argparse
import http.client
import json
import os
import platform
import socket
import statistics
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa

from orchestrator.run_folder.folder import versions
from pointing import rewards
from pointing.coordinates import Frame, Size
from pointing.prompts import transcript
from schemas.batch import ROLLOUT
from schemas.config.service import ServiceOptions
from schemas.scoring import FrameSpec, ScoreItem, ScoreRequest
from schemas.task import GroundTruth, RaySegment
from services.reward.scoring import BuiltIn, score_table

ROOT = Path(__file__).resolve().parent.parent
RESULTS = ROOT / "benchmarks" / "results"
TRUTH = GroundTruth(
    stage=2,
    hand_bbox=(97, 161, 137, 225),
    pointing_keypoints=((110, 170), (120, 165)),
    pointing_ray=RaySegment(start=(120, 165), end=(200, 60)),
    obj_bbox=(136, 36, 206, 102),
    obj_name="red cup",
)
ORIGINAL, SEEN = Size(320, 273), Size(308, 280)
FRAME = Frame("pixels", ORIGINAL, SEEN)
REPLY = "\n".join(transcript(TRUTH, FRAME))
TRUTH_JSON = TRUTH.model_dump_json()
UNCLOSED = {
    "tool call": "<tool_call>",
    "tool call with a brace": "<tool_call>{",
    "tool call end": "}</tool_call",
    "box": "<|box_start|>",
    "box with numbers": "<|box_start|>[1, 2, ",
    "box of one long number": "<|box_start|>[" + "7" * 1000,
    "box of spaces": "<|box_start|>" + " " * 1000,
    "point": "<|point_start|>[1",
    "caption": "<|caption_start|>",
    "answer": "<answer>",
    "think": "<think>",
    "angle bracket": "<",
    "closed boxes": "<|box_start|>[1, 2, 3, 4]<|box_end|>",
    "closed calls": '<tool_call>{"name": "draw_ray", "start": [1, 2], "end": [3, 4], "color": "red"}</tool_call>',
    "nested JSON": "<tool_call>{" + '{"a":' * 200,
}
CONNECTIONS = 8
ROWS_A_SHARD, SHARDS = 64, 4  # a step of configs/quickstart.yaml: 256 trajectories from two engines, two shards each


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=float, default=3.0, help="of load for each HTTP measurement")
    parser.add_argument("--step-seconds", type=float, default=None)
    parser.add_argument("--out", type=Path, default=RESULTS / "reward.json")
    parser.add_argument("--bare", type=int, default=None, help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.bare is not None:
        serve_bare(given.bare)
        return
    result: dict[str, Any] = {"machine": machine(), "load_average_before": os.getloadavg()[0]}
    result["function"] = function()
    result["hostile"] = hostile()
    result |= services(given.seconds)
    step = result["training_step"]
    step["cpu_seconds"] = 1e-6 * result["function"]["score_table, 1024 rows"] * step["replies"]
    step_seconds = given.step_seconds or measured_step()
    if step_seconds is not None:
        step |= {"step_seconds": step_seconds, "share": step["seconds"] / step_seconds}
    result["load_average_after"] = os.getloadavg()[0]
    given.out.parent.mkdir(parents=True, exist_ok=True)
    given.out.write_text(json.dumps(result, indent=2) + "\n", encoding="utf-8")
    show(result)


# ---- in this process ----


def cpu_seconds(work: Callable[[], object], times: int = 1, rounds: int = 5) -> float:
    """CPU seconds of one call: the fastest round, which is the one least disturbed."""
    best = float("inf")
    for _ in range(rounds):
        began = time.process_time()
        for _ in range(times):
            work()
        best = min(best, (time.process_time() - began) / times)
    return best


def function() -> dict[str, float]:
    """Microseconds a reply."""

    def calibration() -> int:
        total = 0
        for number in range(1000):
            total += number * number
        return total

    rows = rollouts(1024)
    reward = BuiltIn()
    published = [{"response": REPLY, "ground_truth": TRUTH_JSON}] * 256
    microseconds = {
        "score, original pixels": cpu_seconds(lambda: rewards.score(REPLY, TRUTH_JSON), 500, 15),
        "score, a model's frame": cpu_seconds(lambda: rewards.score(REPLY, TRUTH_JSON, FRAME), 500, 15),
        "score, no marks": cpu_seconds(lambda: rewards.score("Nothing is pointed at.", "none"), 500, 15),
        "compute_score": cpu_seconds(lambda: rewards.compute_score(published), 5, 15) / len(published),
        "score_table, 1024 rows": cpu_seconds(lambda: score_table(rows, reward)) / rows.num_rows,
        "1000 additions in a Python loop": cpu_seconds(calibration, 100, 15),
    }
    return {name: 1e6 * value for name, value in microseconds.items()}


def hostile() -> dict[str, dict[str, float]]:
    """Milliseconds for 1 MB and 2 MB of each kind of tag, and their ratio."""
    found: dict[str, dict[str, float]] = {}
    for name, unit in UNCLOSED.items():
        short, long = (unit * (size // len(unit)) for size in (1_000_000, 2_000_000))
        one, two = (cpu_seconds(lambda text=text: rewards.score(text, TRUTH_JSON)) for text in (short, long))
        found[name] = {"1 MB": 1e3 * one, "2 MB": 1e3 * two, "ratio": two / one}
    return found


def rollouts(count: int) -> pa.Table:
    """ROLLOUT rows with the reply of a whole transcript; 120 tokens each."""
    row = {
        "group_id": "g", "task_id": "t", "sample": 0, "kind": "sample", "token_ids": [5] * 120, "mask": [1] * 120,
        "behaviour_logprobs": [-0.5] * 120, "image_digests": ["d"], "image_grids": [[1, 8, 8]], "turn_texts": [REPLY],
        "turn_lengths": [120], "turn_versions": [0], "ended_by": "answer", "reply": REPLY, "ground_truth": TRUTH_JSON,
        "frame": "pixels", "original_size": [ORIGINAL.width, ORIGINAL.height], "seen_size": [SEEN.width, SEEN.height],
    }  # fmt: skip
    return pa.Table.from_pylist([{"trajectory_id": f"t{i}", **row} for i in range(count)], schema=ROLLOUT)


# ---- through the service ----


def services(seconds: float) -> dict[str, Any]:
    """The handle, HTTP through Serve, and the same application behind a bare uvicorn."""
    import ray

    from services.reward import deployment as reward
    from services.reward.handle import HandleClient

    port, bare_port = free_port(), free_port()
    os.environ["RAY_AUTH_MODE"] = "disabled"
    ray.init(num_cpus=2, include_dashboard=False, log_to_driver=False, configure_logging=False)
    bare = subprocess.Popen([sys.executable, __file__, "--bare", str(bare_port)])
    try:
        client = HandleClient(reward.deploy(ServiceOptions(port=port)))
        handle: dict[str, dict[str, float]] = {}
        for size in (1, 64, 1024):
            shard = ray.put(rollouts(size))
            times = repeated(lambda shard=shard: client.start(shard).result(), seconds)
            handle[str(size)] = {**percentiles(times), "replies/s": size / statistics.median(times)}
        shards = [ray.put(rollouts(ROWS_A_SHARD)) for _ in range(SHARDS)]
        step = repeated(lambda: client.score(shards), seconds)
        over_http: dict[str, dict[str, dict[str, float]]] = {}
        for name, where in (("serve", port), ("bare uvicorn", bare_port)):
            await_ready(where)
            over_http[name] = {str(size): http_load(where, body(size), size, seconds) for size in (1, 256)}
        reward.shutdown()
    finally:
        bare.terminate()
        bare.wait()
        ray.shutdown()
    scored = {"replies": ROWS_A_SHARD * SHARDS, "seconds": statistics.median(step)}
    return {"handle": handle, "http": over_http, "training_step": scored}


def repeated(work: Callable[[], object], seconds: float) -> list[float]:
    """Wall seconds of each of many calls, one after another."""
    for _ in range(3):
        work()
    times: list[float] = []
    until = time.perf_counter() + seconds
    while time.perf_counter() < until or len(times) < 10:
        began = time.perf_counter()
        work()
        times.append(time.perf_counter() - began)
    return times


def percentiles(times: Sequence[float]) -> dict[str, float]:
    """In milliseconds."""
    cuts = statistics.quantiles(times, n=100, method="inclusive")
    return {"p50 ms": 1e3 * cuts[49], "p95 ms": 1e3 * cuts[94], "p99 ms": 1e3 * cuts[98], "calls": len(times)}


def body(size: int) -> bytes:
    """A request of so many items."""
    frame = FrameSpec(original_size=(ORIGINAL.width, ORIGINAL.height), seen_size=(SEEN.width, SEEN.height))
    truth = json.loads(TRUTH_JSON)
    items = tuple(ScoreItem(id=str(i), response=REPLY, ground_truth=truth, frame=frame) for i in range(size))
    return ScoreRequest(items=items).model_dump_json(exclude_none=True).encode()


def http_load(port: int, content: bytes, size: int, seconds: float) -> dict[str, float]:
    """Latency of requests from 8 connections at once, and of a single one."""
    alone = under_load(port, content, seconds / 2, 1)
    times = under_load(port, content, seconds, CONNECTIONS)
    return {
        "alone p50 ms": 1e3 * statistics.median(alone),
        **percentiles(times),
        "requests/s": len(times) / seconds,
        "replies/s": size * len(times) / seconds,
    }


def under_load(port: int, content: bytes, seconds: float, connections: int) -> list[float]:
    """Seconds of every request of `connections` threads, each sending one after another. Raises unless all succeed."""
    times: list[float] = []
    failures: list[str] = []
    until = time.perf_counter() + seconds

    def send() -> None:
        connection = http.client.HTTPConnection("127.0.0.1", port, timeout=60)
        while time.perf_counter() < until and not failures:
            began = time.perf_counter()
            connection.request("POST", "/v1/score", content, {"Content-Type": "application/json"})
            answer = connection.getresponse()
            answer.read()
            times.append(time.perf_counter() - began)
            if answer.status != 200:
                failures.append(f"{answer.status} {answer.reason}")
        connection.close()

    threads = [threading.Thread(target=send) for _ in range(connections)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    if failures or not times:
        raise RuntimeError(f"port {port}: {failures or 'no answer'}")
    return times


def await_ready(port: int) -> None:
    """Returns once /readyz answers 200."""
    deadline = time.monotonic() + 60
    while True:
        try:
            connection = http.client.HTTPConnection("127.0.0.1", port, timeout=5)
            connection.request("GET", "/readyz")
            if connection.getresponse().status == 200:
                return
        except OSError:
            pass
        if time.monotonic() > deadline:
            raise TimeoutError(f"port {port} was not ready in 60 s")
        time.sleep(0.2)


def serve_bare(port: int) -> None:
    """The same application without Ray."""
    import uvicorn

    from services.reward.routes import build_api

    uvicorn.run(build_api(ServiceOptions(port=port)), host="127.0.0.1", port=port, log_level="error", access_log=False)


def free_port() -> int:
    """A port that nothing listens on."""
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        return int(sock.getsockname()[1])


# ---- what is told ----


def machine() -> dict[str, Any]:
    """Where this ran."""
    names = [
        line.split(":", 1)[1].strip()
        for line in Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
        if line.startswith("model name")
    ]
    return {"cpu": names[0] if names else platform.processor(), "cores": os.cpu_count(), **versions()}


def measured_step() -> float | None:
    """Seconds of a training step of the quickstart, as benchmarks/step.py measured it here."""
    file = RESULTS / "step.json"
    return json.loads(file.read_text(encoding="utf-8"))["median_s"]["step"] if file.is_file() else None


def show(result: dict[str, Any]) -> None:
    """Prints the figures."""
    where = result["machine"]
    load = f"load average {result['load_average_before']:.1f} to {result['load_average_after']:.1f}"
    print(f"\n{where['cpu']}, {where['cores']} cores, {load}")
    print("\nmicroseconds of CPU")
    for name, value in result["function"].items():
        print(f"  {name:34} {value:8.1f}")
    print("\nmilliseconds of CPU for hostile replies   1 MB     2 MB    ratio")
    for name, row in result["hostile"].items():
        print(f"  {name:36} {row['1 MB']:8.1f} {row['2 MB']:8.1f} {row['ratio']:8.2f}")
    print("\ndeployment handle, one call at a time     p50 ms   p95 ms   p99 ms  replies/s")
    for size, row in result["handle"].items():
        cells = " ".join(f"{row[key]:8.1f}" for key in ("p50 ms", "p95 ms", "p99 ms"))
        print(f"  {size + ' items':36} {cells} {row['replies/s']:10.0f}")
    print("\nHTTP, 8 connections              alone   p50 ms   p95 ms   p99 ms  requests/s  replies/s")
    for name, sizes in result["http"].items():
        for size, row in sizes.items():
            cells = " ".join(f"{row[key]:8.1f}" for key in ("alone p50 ms", "p50 ms", "p95 ms", "p99 ms"))
            print(f"  {name + ', ' + size + ' items':26} {cells} {row['requests/s']:11.0f} {row['replies/s']:10.0f}")
    step = result["training_step"]
    share = f": {100 * step['share']:.2f} % of a step of {step['step_seconds']:.2f} s" if "share" in step else ""
    cost = f"{1e3 * step['seconds']:.1f} ms, {1e3 * step['cpu_seconds']:.1f} ms of CPU"
    print(f"\na step's {step['replies']} replies in {SHARDS} shards: {cost}{share}")


if __name__ == "__main__":
    main()
