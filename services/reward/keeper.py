"""Watches the reward service from the driver, and repairs what Ray Serve does not: Serve replaces replicas that die.

a replica without a sign of life (stopped, say)    killed: Serve itself waits for three slow health checks
the application, or all of Serve, gone             deployed again
Serve's controller raises, or cannot be reached    asked again at the next look: replicas score without it meanwhile
"""

from __future__ import annotations

import time
from typing import Any

import ray
from ray import serve
from ray.exceptions import RayError, RayTaskError
from ray.serve.exceptions import RayServeException
from ray.serve.handle import DeploymentHandle

from actors.health import Pulse
from schemas.config.service import ServiceOptions
from services.reward.deployment import deploy

NAMESPACE, CONTROLLER = "serve", "SERVE_CONTROLLER_ACTOR"
EVERY_S = 1.0
# What Serve's own calls raise: an error of the controller's, its death, an application that does not come up.
FAILED = (RayError, RayServeException, RuntimeError, TimeoutError)


class ServiceKeeper:
    """One per driver, made when the service is deployed. `silence_s` is how long a part may give no sign of life."""

    def __init__(self, options: ServiceOptions, app: str, silence_s: float) -> None:
        self._options = options
        self._app = app
        self._silence_s = silence_s
        # Replicas answer beside their work: scoring has a thread of its own.
        self._pulse = Pulse(silence_s, lambda actor: actor.__ray_ready__.remote())
        self._replicas: dict[str, Any] = {}
        self._looked = self._seen = time.monotonic()  # when the service was looked after, when replicas were there
        self._find_replicas(_names())
        self._pulse.silent(self._replicas.values())  # asks for the first time

    def look(self) -> DeploymentHandle[Any] | None:
        """Kills silent replicas and deploys a service that is gone, whose new handle it returns.

        Waits for nothing else, and does nothing when called again within a second. What Serve raises is printed, and
        left to the next look: a call that waits has its own limit.
        """
        now = time.monotonic()
        if now - self._looked < EVERY_S:
            return None
        try:
            return self._mended(now)
        except FAILED as error:
            cause = error.cause if isinstance(error, RayTaskError) else error
            print(f"reward       Ray Serve: {type(cause).__name__}: {cause}; asked again", flush=True)
            return None
        finally:
            self._looked = time.monotonic()

    def _mended(self, now: float) -> DeploymentHandle[Any] | None:
        names = _names()
        self._find_replicas(names)
        if self._replicas:
            self._seen = now
        vanished = now - self._seen > self._silence_s and self._app not in serve.status().applications
        if CONTROLLER not in names or vanished:
            handle = deploy(self._options, self._app)
            self._seen = time.monotonic()
            return handle
        for replica in self._pulse.silent(self._replicas.values()):
            ray.kill(replica)
            self._pulse.forget(replica)
        return None

    def _find_replicas(self, names: set[str]) -> None:
        mine = {name for name in names if name.startswith(f"SERVE_REPLICA::{self._app}#")}
        self._replicas = {name: replica for name, replica in self._replicas.items() if name in mine}
        for name in mine - self._replicas.keys():
            try:
                self._replicas[name] = ray.get_actor(name, NAMESPACE)
            except ValueError:  # gone since
                continue


def _names() -> set[str]:
    """Serve's actors on the cluster."""
    actors: Any = ray.util.list_named_actors(all_namespaces=True)
    return {actor["name"] for actor in actors if actor["namespace"] == NAMESPACE}
