"""Stage 1: supervised fine-tuning on transcripts, a Ray Train TorchTrainer round the plain policy learner.

driver --SftConfig--> TorchTrainer --> every rank: tasks -> transcripts -> PolicyLearner.update -> report
"""

from __future__ import annotations

import itertools
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future
from dataclasses import astuple
from pathlib import Path
from typing import Any

import ray.train
import torch
import torch.distributed as dist
from ray.train import RunConfig, ScalingConfig, WorkerGroupError
from ray.train.torch import TorchTrainer

from orchestrator.batch.numbers import learner_numbers
from orchestrator.batch.pace import Counted, Pace, figures
from orchestrator.batch.tasks import read_split
from orchestrator.evaluation.overlays import plot_curves
from orchestrator.export_run import complete
from orchestrator.preflight.check import check
from orchestrator.preflight.job_paths import unshared_paths
from orchestrator.preflight.problem import refuse
from orchestrator.recovery.stop import STOP, GraceOver, Stopped
from orchestrator.report.page import report_at_end
from orchestrator.roles.cluster import connect
from orchestrator.roles.placement import nodes_of
from orchestrator.run_folder.checkpoints import Checkpoints, continue_from
from orchestrator.run_folder.folder import RunFolder, open_run, run_folder
from orchestrator.run_folder.lock import locked
from orchestrator.run_folder.mirror import bring_back, mirror_of
from orchestrator.run_folder.resumable_settings import digest
from orchestrator.telemetry.follow import followed
from orchestrator.telemetry.metrics import MetricsLog, screen
from pointing.sampler import Cursor, Sampler
from policy.conversation.chat_format import ChatFormat
from policy.conversation.model_info import model_tokenizer, read_info
from policy.conversation.transcripts import Supervised, supervised, to_tables
from policy.learning.learner import PolicyLearner
from policy.network.operations import Passes, Work
from policy.state.determinism import be_deterministic
from policy.state.sharding import default_device
from schemas.config import SftConfig
from schemas.task import Task

STOP_FILE = "stop"  # in the run folder, from the driver to the ranks: save and end


def run_sft(config: SftConfig) -> RunFolder:
    """Fine-tunes as configured and exports the model; continues from the last checkpoint if there is one.

    Raises Stopped when a signal ended the run.
    """
    check(config).raise_if_any()
    tasks = read_split(config, "train")
    held_out = read_split(config, "validation")[: config.validation.limit]
    with locked(run_folder(config.run).root):
        folder = open_run(config.run, config)
        bring_back(folder, config.run, config.checkpoint, print)
        found = continue_from(folder, config.run, print)
        steps = -(-config.trainer.samples // config.trainer.batch_rows)
        print(f"run folder   {folder.root}" + ("" if found is None else f" (continuing from step {found} of {steps})"))
        print(f"data         {len(tasks)} tasks; {config.trainer.samples} samples in {steps} steps")
        print(f"starting     {config.resources.learner.count} learner rank(s)", flush=True)
        (folder.root / STOP_FILE).unlink(missing_ok=True)
        connect(config.resources)
        refuse(unshared_paths(folder, config, tasks))
        shown = followed(folder.metrics, screen(steps, found or 0))
        try:
            with shown, STOP.heeded(config.run.grace_s, (folder.root / STOP_FILE).touch):
                _fit(config, lambda step: _trainer(config, tasks, held_out, folder, step), folder, found)
                STOP.check()
        except GraceOver:
            raise
        except Stopped as stopped:
            last = folder.checkpoint(folder.steps()[-1])
            raise stopped.after(f"{last} is written, and the same command continues from it") from None
        finally:
            ray.shutdown()
        complete(folder.export, config, folder, steps)
        plot_curves(folder.metrics, folder.root / "curves.png")
        report_at_end(folder, config)
    return folder


def _fit(
    config: SftConfig, trainer: Callable[[int | None], TorchTrainer], folder: RunFolder, found: int | None
) -> None:
    """Trains to the end from the checkpoint that was found. Lost ranks come back with the whole group, from the last.

    Raises WorkerGroupError after resources.max_restarts losses, and for an error that comes twice at one step: it would
    come again.
    """
    before: tuple[str, int] | None = None
    for losses in itertools.count(1):
        try:
            _apart(trainer(found).fit)
            return
        except WorkerGroupError as error:
            STOP.check()
            now = _reason(error), folder.metrics.read_bytes().count(b"\n") if folder.metrics.is_file() else 0
            if losses > config.resources.max_restarts or now == before:
                raise
            before = now
            found = continue_from(folder, config.run.model_copy(update={"resume_step": None}), print)
            print(f"lost         {now[0]}; the run continues from step {found or 0}", flush=True)


def _reason(error: WorkerGroupError) -> str:
    """Which ranks failed, and the last line of what each said."""
    said = (
        f"rank {rank}: {type(failure).__name__} {(str(failure).strip().splitlines() or [''])[-1]}"
        for rank, failure in sorted(error.worker_failures.items())
    )
    return "; ".join(said)


def _apart(call: Callable[[], Any]) -> Any:
    """Calls off the main thread, where Train would take Ctrl-C for itself, and waits."""
    done: Future[Any] = Future()

    def run() -> None:
        try:
            done.set_result(call())
        except Exception as error:
            done.set_exception(error)

    threading.Thread(target=run, name="train", daemon=True).start()
    return done.result()


def _trainer(
    config: SftConfig, tasks: tuple[Task, ...], held_out: tuple[Task, ...], folder: RunFolder, found: int | None
) -> TorchTrainer:
    ranks = config.resources.learner
    return TorchTrainer(
        _worker,
        train_loop_config={
            "config": _with_whole_paths(config),
            "tasks": ray.put(tasks),
            "held_out": held_out,
            "found": found,
            "folder": str(folder.root.resolve()),
        },
        scaling_config=ScalingConfig(
            num_workers=ranks.count,
            use_gpu=ranks.gpus > 0,
            resources_per_worker={"CPU": ranks.cpus} | ({"GPU": ranks.gpus} if ranks.gpus else {}),
            placement_strategy=ranks.place.strategy,
            label_selector=ranks.place.selector or None,
        ),
        run_config=RunConfig(name="train", storage_path=str((folder.root / "ray").resolve())),
    )


def _with_whole_paths(config: SftConfig) -> SftConfig:
    """Train's workers run in a folder of their own, where a relative path means something else."""
    model, data = config.model, config.data
    files = {"path": str(Path(model.path).resolve())}
    if model.chat_template is not None:
        files["chat_template"] = str(Path(model.chat_template).resolve())
    style = data.prompt_style if data.prompt_style in ("short", "detailed") else str(Path(data.prompt_style).resolve())
    return config.model_copy(
        update={"model": model.model_copy(update=files), "data": data.model_copy(update={"prompt_style": style})}
    )


def _worker(given: dict[str, Any]) -> None:
    """One rank: the same code at any number of ranks."""
    config: SftConfig = given["config"]
    tasks: tuple[Task, ...] = ray.get(given["tasks"])
    folder = RunFolder(Path(given["folder"]))
    context = ray.train.get_context()
    rank, world = context.get_world_rank(), context.get_world_size()
    torch.set_num_threads(config.resources.threads)
    if config.run.deterministic:
        be_deterministic()
    steps = -(-config.trainer.samples // config.trainer.batch_rows)
    learner = PolicyLearner(
        config.model, config.learner, None, total_steps=steps, temperature=1.0, seed=config.run.seed
    )
    found: int | None = given["found"]
    saved = {} if found is None else learner.load(str(folder.checkpoint(found)))
    checkpoints = Checkpoints(
        learner,
        folder,
        config.checkpoint,
        settings=digest(config),
        say=print,
        last=found,
        mirror=mirror_of(config.run, config.checkpoint),
        prunes=rank == 0,
    )
    done = saved.get("step", 0)
    log = MetricsLog(folder.root, done, config.run.trackers) if rank == 0 else None
    start = Cursor(**saved["cursor"]) if saved else Cursor(0, 0)
    stopped = False
    pace = Pace(config, nodes_of(ray.nodes()))
    validate = _HeldOut(config, given["held_out"], learner, log, steps)
    validate.due(done)
    for step, rows, after in _batches(config, tasks, done, steps, start, rank, world):
        started = time.perf_counter()
        training, images = _tables(rows, rank, config)
        report = learner.update(training, images, 0.0)
        tokens = _sum_over_ranks(sum(row.ledger.n_sampled for row in rows))
        seconds = time.perf_counter() - started
        numbers = learner_numbers(report) | {"time/step": seconds, "reply/trained_tokens": tokens}
        numbers |= figures(_of_all_ranks(pace.counted(training, training)), seconds, seconds, pace.fleet)
        if log is not None:
            log.write("train", step, numbers)
        due = config.checkpoint.every and (step + 1) % config.checkpoint.every == 0
        stopped = _sum_over_ranks((folder.root / STOP_FILE).exists()) > 0
        if not stopped:
            validate.due(step + 1)
        if due or stopped or step + 1 == steps:
            checkpoints.save(step + 1, {"step": step + 1, "cursor": after.to_json()})
            ray.train.report({"step": step, **numbers})  # waits for Train's controller: too slow for every step
        if stopped:
            break
    checkpoints.finish_last()
    if not stopped:
        learner.export(str(folder.export))
    if log is not None:
        log.close()


class _HeldOut:
    """Measures the loss of held-out transcripts where it is due; every rank takes part. Changes no state."""

    def __init__(
        self, config: SftConfig, tasks: tuple[Task, ...], learner: PolicyLearner, log: MetricsLog | None, steps: int
    ) -> None:
        self._config, self._tasks, self._learner, self._log, self._steps = config, tasks, learner, log, steps
        self._context = ray.train.get_context()

    def due(self, step: int) -> None:
        """Measures after `step` steps if that is asked for and was not done before the run was stopped."""
        options = self._config.validation
        between = 0 < step < self._steps and bool(options.every) and step % options.every == 0
        asked = (options.before and step == 0) or (options.after and step == self._steps) or between
        known = self._log is not None and self._log.has("validation", step)
        if not self._tasks or not asked or _sum_over_ranks(known) > 0:
            return
        loss = self._loss()
        if self._log is not None:
            self._log.write("validation", step, {"loss": loss})

    def _loss(self) -> float:
        """Negative log-probability of a target token, in nats, over all ranks."""
        rank, world = self._context.get_world_rank(), self._context.get_world_size()
        info = read_info(self._config.model.path)
        chat = ChatFormat(model_tokenizer(self._config.model), self._config.data.system_prompt)
        total, tokens, size = 0.0, 0.0, self._config.trainer.batch_rows
        for first in range(0, len(self._tasks), size):
            mine = self._tasks[first : first + size][rank::world]
            rows = [supervised(task, info, chat, self._config.data) for task in mine]
            table, images = to_tables(
                rows, rank=rank, micro_batches=self._config.learner.micro_batches, denominator=1.0
            )
            total -= sum(float(each.sum(dtype="float64")) for each in self._learner.logprobs(table, [images]))
            tokens += sum(row.ledger.n_sampled for row in rows)
        return _sum_over_ranks(total) / _sum_over_ranks(tokens)


def _batches(
    config: SftConfig, tasks: tuple[Task, ...], first: int, steps: int, position: Cursor, rank: int, world: int
) -> Iterator[tuple[int, list[Supervised], Cursor]]:
    """Every step's rows of this rank, with the place in the data after it."""
    info = read_info(config.model.path)
    chat = ChatFormat(model_tokenizer(config.model), config.data.system_prompt)
    sampler = Sampler(len(tasks), config.run.seed, config.data.shuffle)
    for step in range(first, steps):
        chosen, position = sampler.take(position, config.trainer.batch_rows)
        yield step, [supervised(tasks[i], info, chat, config.data) for i in chosen[rank::world]], position


def _tables(rows: list[Supervised], rank: int, config: SftConfig) -> tuple[Any, list[Any]]:
    """The rank's TRAINING rows and images, with target tokens counted over all ranks."""
    targets = _sum_over_ranks(sum(row.ledger.n_sampled for row in rows))
    training, images = to_tables(rows, rank=rank, micro_batches=config.learner.micro_batches, denominator=targets)
    return training, [images]


def _of_all_ranks(done: Counted) -> Counted:
    """What all ranks did in a step, from what each did."""
    parts = (done.work.text, done.work.vision)
    mine = [done.samples, done.tokens, *(value for part in parts for value in astuple(part))]
    samples, tokens, *passes = _sums_over_ranks(mine)
    return Counted(int(samples), int(tokens), Work(Passes(*passes[:3]), Passes(*passes[3:])))


def _sum_over_ranks(value: float) -> float:
    return _sums_over_ranks([value])[0]


def _sums_over_ranks(values: Sequence[float]) -> list[float]:
    # Where the ranks compute: NCCL takes no tensors of the CPU.
    totals = torch.tensor([float(value) for value in values], dtype=torch.float64, device=default_device())
    if dist.is_initialized():
        dist.all_reduce(totals)
    return totals.tolist()
