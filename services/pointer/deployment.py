"""The pointer service as a Ray Serve application.

anyone --HTTP, POST /v1/point--> PointerService: services.pointer.routes --> EngineLoop (vLLM, one a replica)
"""

from __future__ import annotations

from pathlib import Path

from fastapi import FastAPI
from ray import serve
from ray.serve.schema import LoggingConfig

from actors.environment import environment
from schemas.config.pointer import PointerOptions
from services.http.ray_counts import ServeMeter
from services.http.replicas import bound, read_token, start_proxy
from services.pointer.engine_loop import EngineLoop
from services.pointer.routes import build_api

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
    variables = environment(options.gpus_per_replica, max(1, int(options.cpus_per_replica)))
    whole = options.model_copy(update={"model": str(Path(options.model).resolve())})  # replicas work elsewhere
    return bound(PointerService, whole, {"num_gpus": options.gpus_per_replica, "runtime_env": {"env_vars": variables}})


def deploy(options: PointerOptions) -> None:
    """Starts the service on the running Ray cluster and waits until it can answer. Raises ValueError without a port."""
    if options.port is None:
        raise ValueError("pointer.port is not set: there would be no door")
    start_proxy(options)
    serve.run(
        build_app(options),
        name=APP_NAME,
        route_prefix="/",
        logging_config=LoggingConfig(enable_access_log=False),
    )


def undeploy() -> None:
    """Takes the application down, once its replicas have answered what they had begun."""
    serve.delete(APP_NAME)
