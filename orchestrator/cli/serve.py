"""pointvg serve ...: services of the training stack on their own, for other teams."""

from __future__ import annotations

import json
import logging
import os
import signal
import socket
import threading
import time
from collections.abc import Callable, Generator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated

import typer

from orchestrator.cli.options import example
from schemas.config.file import ConfigError, load
from schemas.config.pointer import PointerConfig, PointerOptions
from schemas.config.service import Served, ServiceConfig, ServiceOptions

# Nearly twice the small requests a second. Handles then need an event loop, which a training driver does not have.
THROUGHPUT_ENV = {"RAY_SERVE_THROUGHPUT_OPTIMIZED": "1"}
# Replicas then listen themselves, and would wait 30 s for load balancers to notice that they go. Here there are none.
LOCAL_ENV = {"RAY_SERVE_DIRECT_INGRESS_MIN_DRAINING_PERIOD_S": "1"}
GRACE_S = 15.0  # beyond drain_s, for Serve to take an application down

serve_app = typer.Typer(no_args_is_help=True, help=__doc__)


@serve_app.callback()
def services() -> None:
    """Run a service of the training stack on its own."""


@serve_app.command(epilog=example("pointvg serve reward --config configs/reward.yaml"))
def reward(
    config: Annotated[Path, typer.Option("--config", help="YAML file with a `reward` section; configs/reward.yaml")],
    overrides: Annotated[list[str] | None, typer.Argument(help="such as reward.port=8200")] = None,
    metrics_port: Annotated[int | None, typer.Option(help="of Prometheus metrics; default: a free one")] = None,
) -> None:
    """Serve the reward over HTTP until stopped (Ctrl-C or SIGTERM); requests in progress are answered first."""
    try:
        options = load(ServiceConfig, config, overrides or ()).config.reward
    except ConfigError as error:
        typer.echo(f"configuration refused:\n{error}", err=True)
        raise typer.Exit(2) from None
    if options.port is None:
        typer.echo("reward.port is not set, so there would be no HTTP door: add reward.port=8100", err=True)
        raise typer.Exit(2)
    try:
        serve_reward(options, metrics_port)
    except (RuntimeError, FileNotFoundError) as error:
        typer.echo(f"refused: {error}", err=True)
        raise typer.Exit(2) from None


@serve_app.command(epilog=example("pointvg serve pointer --model runs/quickstart/export"))
def pointer(
    model: Annotated[
        str | None, typer.Option(metavar="DIR", help="an exported model: runs/NAME/export; default: the file's")
    ] = None,
    config: Annotated[Path, typer.Option("--config", help="YAML file with a `pointer` section")] = Path(
        "configs/pointer.yaml"
    ),
    overrides: Annotated[list[str] | None, typer.Argument(help="such as pointer.port=8300")] = None,
    metrics_port: Annotated[int | None, typer.Option(help="of Prometheus metrics; default: a free one")] = None,
) -> None:
    """Serve a trained model over HTTP until stopped: photos and questions in, what is pointed at out."""
    from policy.conversation.spoken import read_spoken

    given = [] if model is None else [f"pointer.model={json.dumps(model)}"]
    options = load(PointerConfig, config, [*given, *(overrides or ())]).config.pointer
    read_spoken(options.model)
    if options.port is None:
        typer.echo("pointer.port is not set, so there would be no HTTP door: add pointer.port=8200", err=True)
        raise typer.Exit(2)
    try:
        serve_pointer(options, metrics_port)
    except RuntimeError as error:
        typer.echo(f"refused: {error}", err=True)
        raise typer.Exit(2) from None


def serve_reward(options: ServiceOptions, metrics_port: int | None = None) -> None:
    """The reward service, as `_serve` runs it."""
    from services.reward.deployment import deploy, undeploy

    _serve(options, "reward", metrics_port, lambda: deploy(options), undeploy)


def serve_pointer(options: PointerOptions, metrics_port: int | None = None) -> None:
    """The pointer service, as `_serve` runs it."""
    from services.pointer.deployment import deploy, undeploy

    _serve(options, "pointer", metrics_port, lambda: deploy(options), undeploy)


def _serve(
    options: Served, section: str, metrics_port: int | None, deploy: Callable[[], object], undeploy: Callable[[], None]
) -> None:
    """Deploys a service on the cluster that RAY_ADDRESS names, or on a local one made for it, and waits for a signal.

    Then drains: no new requests, those in progress are answered within `options.drain_s`.
    """
    from services.http.proxy import PROXY_ENV
    from services.http.replicas import read_token

    read_token(options, section)
    refuse_busy(options.host, options.port, section)
    own = not os.environ.get("RAY_ADDRESS")
    for name, value in {**PROXY_ENV, **THROUGHPUT_ENV, **(LOCAL_ENV if own else {})}.items():
        os.environ.setdefault(name, value)  # inherited by a local cluster; another must have been started with it
    import ray

    from orchestrator.roles.local_ray import start_local

    logging.getLogger("ray.serve").setLevel(logging.WARNING)
    if own:
        cpus = max(os.cpu_count() or 1, int(options.most_replicas * options.cpus_per_replica) + 1)
        start_local(
            address="local",  # not one that someone else has started on this machine, or left an address file of
            num_cpus=cpus,
            include_dashboard=False,
            log_to_driver=False,
            _metrics_export_port=metrics_port,
        )
    else:
        ray.init()
    try:
        with _stop_signal() as stopped:
            deploy()
            node = ray.nodes()[0]
            typer.echo(f"serving      http://{options.host}:{options.port}  (contract: /openapi.json)")
            typer.echo(f"metrics      http://{node['NodeManagerAddress']}:{node['MetricsExportPort']}/metrics")
            stopped.wait()
            typer.echo("draining")
            _in_time(undeploy, options.drain_s + GRACE_S, own)  # a local cluster ends with this process, Serve with it
    finally:
        ray.shutdown()
    typer.echo("stopped")


def refuse_busy(host: str, port: int | None, section: str = "reward") -> None:
    """Raises RuntimeError where something listens on the address already: Serve would share it and answer at random."""
    if port is None:
        return
    family, kind, proto, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
    with socket.socket(family, kind, proto) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)  # a port that was just left is free
        try:
            probe.bind(address)
        except OSError as error:
            raise RuntimeError(
                f"{section}.port={port}: {host}:{port} cannot be listened on ({error.strerror}); end what listens "
                f"there, or set another {section}.port"
            ) from None


def _in_time(undeploy: Callable[[], None], limit_s: float, own: bool) -> None:
    """Takes the service down in bounded time; at once where the local cluster itself was stopped by the signal."""
    import psutil

    def alive() -> bool:
        names = {child.name() for child in psutil.Process().children(recursive=True)}
        return not own or {"raylet", "gcs_server"} <= names

    worker = threading.Thread(target=undeploy, name="undeploy", daemon=True)
    worker.start()
    end = time.monotonic() + limit_s
    while worker.is_alive() and alive() and time.monotonic() < end:
        worker.join(0.2)


@contextmanager
def _stop_signal() -> Generator[threading.Event]:
    """An event that SIGTERM and SIGINT set. To be entered after ray.init, which sets handlers of its own."""
    stopped = threading.Event()

    def stop(number: int, frame: object) -> None:
        stopped.set()

    handled = (signal.SIGTERM, signal.SIGINT)
    before = [signal.signal(number, stop) for number in handled]
    try:
        yield stopped
    finally:
        for number, handler in zip(handled, before, strict=True):
            signal.signal(number, handler)
