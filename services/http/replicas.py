"""How a service runs on Ray Serve: its replicas, the proxy before them, and the token that they ask for."""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import Any

from ray import serve
from ray.serve.config import AutoscalingConfig, BackpressureConfig, HTTPOptions, ProxyLocation

from schemas.config.service import Served


def bound(service: type, options: Served, actor: Mapping[str, Any]) -> serve.Application:
    """The Serve application of a service: one deployment, made with `options`, which is also its HTTP ingress.

    `actor` is what Ray is told of a replica's process beside its CPUs.
    """
    scaling = options.autoscaling
    deployed = serve.deployment(
        name=service.__name__,
        num_replicas=options.replicas if scaling is None else "auto",
        autoscaling_config=None if scaling is None else AutoscalingConfig(**scaling.model_dump()),
        ray_actor_options={"num_cpus": options.cpus_per_replica, **actor},
        max_ongoing_requests=options.max_ongoing_requests,
        max_queued_requests=options.max_queued_requests,
        backpressure_config=BackpressureConfig(status_code=429, retry_after_s=options.retry_after_s),
        max_constructor_retry_count=2,
        health_check_period_s=5,
        health_check_timeout_s=30,
        graceful_shutdown_timeout_s=options.drain_s,
        graceful_shutdown_wait_loop_s=0.2,
    )
    return deployed(serve.ingress()(service)).bind(options)


def start_proxy(options: Served) -> None:
    """Starts Serve with its HTTP door, or without one where `options.port` is None.

    HTTP options belong to the whole cluster: the first call decides.
    """
    if options.port is None:
        serve.start(proxy_location=ProxyLocation.Disabled)
        return
    http = HTTPOptions(host=options.host, port=options.port, request_timeout_s=options.request_timeout_s)
    serve.start(proxy_location=ProxyLocation.HeadOnly, http_options=http)


def read_token(options: Served, section: str) -> str | None:
    """The bearer token from the environment variable that `options.token_env` names, without white space around it.

    `section` is the options' name in a configuration.

    Raises RuntimeError when it is not set, or no header could carry it.
    """
    if options.token_env is None:
        return None
    if options.token_env not in os.environ:
        raise RuntimeError(
            f"environment variable {options.token_env} ({section}.token_env) is not set in the replica's process: "
            "export it before Ray starts on every node, or set it in the pod's environment"
        )
    token = os.environ[options.token_env].strip()  # a file's last line ends with an end of line
    if not token or not all(" " <= letter <= "~" for letter in token):
        raise RuntimeError(
            f"environment variable {options.token_env} ({section}.token_env) must hold printable ASCII in one line: "
            "what an Authorization header can carry"
        )
    return token
