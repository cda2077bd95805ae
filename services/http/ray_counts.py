"""A service's counts as Ray metrics: one Prometheus page on Ray's metrics port of each node, for all replicas.

    pointvg_reward_requests_total{route, status}     pointvg_reward_request_seconds{route}
    pointvg_reward_items_total{door}                 pointvg_reward_batch_seconds{door}
    pointvg_reward_failures_total{door}

Those of the pointer service have "pointer" for "reward"; its items are episodes.

Ray adds "ray_" in front, and its own tags: application, deployment, replica.
"""

from __future__ import annotations

from typing import Any

from ray.serve import metrics

from services.http.counts import Door

ROUTE_STATUS: Any = ("route", "status")  # ray types this as a tuple of one
SECONDS = [0.001, 0.003, 0.01, 0.03, 0.1, 0.3, 1.0, 3.0, 10.0, 30.0]


class ServeMeter:
    """Sends counts to Ray. To be made inside a replica, whose tags it carries."""

    def __init__(self, service: str = "reward") -> None:
        self._requests = metrics.Counter(
            f"pointvg_{service}_requests_total", "HTTP requests answered, by route and status", ROUTE_STATUS
        )
        self._request_seconds = metrics.Histogram(
            f"pointvg_{service}_request_seconds", "Time to answer an HTTP request", SECONDS, ("route",)
        )
        self._items = metrics.Counter(f"pointvg_{service}_items_total", "Replies scored, or episodes played", ("door",))
        self._batch_seconds = metrics.Histogram(
            f"pointvg_{service}_batch_seconds", "Time to work on a batch", SECONDS, ("door",)
        )
        self._failures = metrics.Counter(f"pointvg_{service}_failures_total", "Batches without an answer", ("door",))

    def request(self, route: str, status: int, seconds: float) -> None:
        """See Meter."""
        self._requests.inc(tags={"route": route, "status": str(status)})
        self._request_seconds.observe(seconds, tags={"route": route})

    def scored(self, door: Door, items: int, seconds: float) -> None:
        """See Meter."""
        if items:
            self._items.inc(items, tags={"door": door})
        self._batch_seconds.observe(seconds, tags={"door": door})

    def failed(self, door: Door) -> None:
        """See Meter."""
        self._failures.inc(tags={"door": door})
