"""The reward as a Ray Serve application with two doors.

driver --deployment handle, one Arrow shard per call--> RewardService --> services.reward.scoring
anyone --HTTP, POST /v1/score, /v1/evaluate-----------> services.reward.routes  ----^
                                                              '--> Ray's metrics port (Prometheus)
"""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import pyarrow as pa
from fastapi import FastAPI
from ray import serve
from ray.serve._private.router import SharedRouterLongPollClient
from ray.serve.handle import DeploymentHandle
from ray.serve.schema import LoggingConfig

from schemas.config.service import ServiceOptions
from services.http.ray_counts import ServeMeter
from services.http.replicas import bound, read_token, start_proxy
from services.reward.custom import open_reward
from services.reward.routes import build_api
from services.reward.scoring import ScoringError, score_table

APP_NAME = "reward"


class RewardService:
    """One replica. Stateless: any call may be repeated, on any replica."""

    def __init__(self, options: ServiceOptions) -> None:
        self._options = options
        self._token = read_token(options, "reward")
        self._meter = ServeMeter()
        self._reward = open_reward(options)
        self._reward.check()

    def score_table(self, rollouts: pa.Table) -> pa.Table:
        """ROLLOUT rows in, SCORES rows out. Pass the table's ObjectRef as the argument: it is resolved here."""
        started = time.perf_counter()
        try:
            scores = score_table(rollouts, self._reward)
        except ScoringError:
            self._meter.failed("handle")
            raise
        self._meter.scored("handle", scores.num_rows, time.perf_counter() - started)
        return scores

    def check_health(self) -> None:
        """Called by Serve: a replica that cannot score is replaced."""
        self._reward.check()

    def __serve_build_asgi_app__(self) -> FastAPI:
        return build_api(self._options, self._token, self._reward, self._meter)

    def __del__(self) -> None:
        """Called by Serve when the replica has drained."""
        if hasattr(self, "_reward"):  # not where the constructor failed
            self._reward.close()


def build_app(options: ServiceOptions) -> serve.Application:
    """The Serve application: one deployment, which is also its HTTP ingress."""
    return bound(RewardService, _with_whole_path(options), {})


def _with_whole_path(options: ServiceOptions) -> ServiceOptions:
    """A function's file by its whole path: replicas have another working directory."""
    if options.function is None:
        return options
    path, _, name = options.function.rpartition(":")
    if not Path(path).is_file():
        raise FileNotFoundError(f"reward.function={options.function!r}: no such file: {Path(path).resolve()}")
    return options.model_copy(update={"function": f"{Path(path).resolve()}:{name}"})


def deploy(options: ServiceOptions, name: str = APP_NAME) -> DeploymentHandle[Any]:
    """Starts the service on the running Ray cluster and waits until it can score. Returns the driver's door.

    With `options.port` None no HTTP proxy is started. HTTP options belong to the whole cluster: the first call decides.
    """
    _forget_earlier_clusters()
    start_proxy(options)
    return serve.run(
        build_app(options),
        name=name,
        route_prefix=None if options.port is None else "/",
        logging_config=LoggingConfig(enable_access_log=False),
    )


def _forget_earlier_clusters() -> None:
    """Lets handles of this process learn of replicas on the cluster that it is connected to now.

    Serve keeps one listener for each controller, by the actor's id, for as long as the process lives (Ray 2.60). The
    controller of a later cluster may get the id of an earlier one; a handle then listened to the dead one for ever.
    """
    cached: Any = SharedRouterLongPollClient.get_or_create
    cached.cache_clear()


def undeploy() -> None:
    """Takes the application down, once its replicas have answered what they had begun."""
    serve.delete(APP_NAME)


def shutdown() -> None:
    """Stops Serve and everything deployed on it."""
    serve.shutdown()
