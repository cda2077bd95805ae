"""The pointer service as a Ray Serve application.

anyone --HTTP, POST /v1/point--> PointerService: services.pointer.routes --> EngineLoop (vLLM, one a replica)
"""

from __future__ import annotations

from pathlib import Path

from fastapi import FastAPI
from ray import serve
from ray.serve.config import AutoscalingConfig, BackpressureConfig, HTTPOptions, ProxyLocation
from ray.serve.schema import LoggingConfig

from actors.environment import environment
from schemas.config.pointer import PointerOptions
from services.http.ray_counts import ServeMeter
from services.pointer.engine_loop import EngineLoop
from services.pointer.routes import build_api
from services.reward.deployment import read_token

APP_NAME = "pointer"


class PointerService:
    """One replica, with an engine of its own. Any request may be repeated, on any replica."""

    def __init__(self, options: PointerOptions) -> None:
        self._options = options
        self._token = read_token(options, "pointer")
        self._meter = ServeMeter("pointer")
        self._engine = EngineLoop(options.model)

    def check_health(self) -> None:
        """Called by Serve: a replica whose engine has failed is replaced."""
        self._engine.check()

    def __serve_build_asgi_app__(self) -> FastAPI:
        return build_api(self._options, self._token, self._engine, self._meter)

    def __del__(self) -> None:
        """Called by Serve when the replica has drained."""
        if hasattr(self, "_engine"):  # not where the constructor failed
            self._engine.close()


def build_app(options: PointerOptions) -> serve.Application:
    """The Serve application: one deployment, which is also its HTTP ingress."""
    scaling = options.autoscaling
    variables = environment(options.gpus_per_replica, max(1, int(options.cpus_per_replica)))
    deployed = serve.deployment(
        name="PointerService",
        num_replicas=options.replicas if scaling is None else "auto",
        autoscaling_config=None if scaling is None else AutoscalingConfig(**scaling.model_dump()),
        ray_actor_options={
            "num_cpus": options.cpus_per_replica,
            "num_gpus": options.gpus_per_replica,
            "runtime_env": {"env_vars": variables},
        },
        max_ongoing_requests=options.max_ongoing_requests,
        max_queued_requests=options.max_queued_requests,
        backpressure_config=BackpressureConfig(status_code=429, retry_after_s=options.retry_after_s),
        max_constructor_retry_count=2,
        health_check_period_s=5,
        health_check_timeout_s=30,
        graceful_shutdown_timeout_s=options.drain_s,
        graceful_shutdown_wait_loop_s=0.2,
    )
    whole = options.model_copy(update={"model": str(Path(options.model).resolve())})  # replicas work elsewhere
    return deployed(serve.ingress()(PointerService)).bind(whole)


def deploy(options: PointerOptions) -> None:
    """Starts the service on the running Ray cluster and waits until it can answer. Raises ValueError without a port."""
    if options.port is None:
        raise ValueError("pointer.port is not set: there would be no door")
    http = HTTPOptions(host=options.host, port=options.port, request_timeout_s=options.request_timeout_s)
    serve.start(proxy_location=ProxyLocation.HeadOnly, http_options=http)
    serve.run(
        build_app(options),
        name=APP_NAME,
        route_prefix="/",
        logging_config=LoggingConfig(enable_access_log=False),
    )


def undeploy() -> None:
    """Takes the application down, once its replicas have answered what they had begun."""
    serve.delete(APP_NAME)
