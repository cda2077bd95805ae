"""How services are deployed: where they listen, who may call them, how much at once; and what the reward scores."""

from __future__ import annotations

from ipaddress import ip_address
from typing import Annotated, Any

from pydantic import ConfigDict, Field, NonNegativeFloat, NonNegativeInt, PositiveFloat, PositiveInt, model_validator

from schemas.config.effect import refuse_unread
from schemas.scoring import RewardRules
from schemas.task import Record

MIB = 1024 * 1024


class Autoscaling(Record):
    """Replicas follow the load: one for every `target_ongoing_requests` in progress, between the two bounds."""

    min_replicas: PositiveInt = 1
    max_replicas: PositiveInt = 4
    target_ongoing_requests: PositiveFloat = 4.0
    upscale_delay_s: NonNegativeFloat = 10.0
    downscale_delay_s: NonNegativeFloat = 120.0

    @model_validator(mode="after")
    def _bounds(self) -> Autoscaling:
        if self.min_replicas > self.max_replicas:
            raise ValueError(
                f"min_replicas={self.min_replicas} is above max_replicas={self.max_replicas}; swap them or raise the "
                "second"
            )
        return self


class Served(Record):
    """What every service over HTTP is told: where it listens, who may call it, how much at once, on how many replicas.

    `token_env` names the environment variable that holds the bearer token. Without one a service listens on this
    machine alone (a loopback `host`). Bytes are counted as they arrive, so a body of undeclared length is limited too.
    A replica works on `max_ongoing_requests` at a time; `max_queued_requests` more may wait at each caller, and whoever
    comes then is told to return after `retry_after_s` (429). A replica that is stopped gets `drain_s` to finish what it
    has begun.
    """

    host: str = "127.0.0.1"
    port: Annotated[int, Field(ge=1, le=65535)] | None = None
    token_env: Annotated[str, Field(pattern=r"^[A-Za-z_][A-Za-z0-9_]*$")] | None = None
    max_body_bytes: PositiveInt = 8 * MIB
    request_timeout_s: PositiveFloat = 60.0
    max_ongoing_requests: PositiveInt = 32
    max_queued_requests: NonNegativeInt = 1024
    retry_after_s: PositiveInt = 1
    drain_s: NonNegativeFloat = 20.0
    replicas: PositiveInt = 1
    autoscaling: Autoscaling | None = None
    cpus_per_replica: Annotated[float, Field(ge=0.0)] = 0.1

    @property
    def loopback(self) -> bool:
        """True when only this machine can reach `host`."""
        if self.host == "localhost":
            return True
        try:
            return ip_address(self.host).is_loopback
        except ValueError:
            return False

    @property
    def most_replicas(self) -> int:
        """How many replicas there may be at once."""
        return self.autoscaling.max_replicas if self.autoscaling else self.replicas

    @model_validator(mode="after")
    def _token_beyond_loopback(self) -> Served:
        if self.port is not None and not self.loopback and self.token_env is None:
            raise ValueError(
                f"host={self.host!r} is reachable from other machines and token_env is not set: anyone could use the "
                "service; name the environment variable that holds a token, or bind 127.0.0.1"
            )
        return self

    @model_validator(mode="after")
    def _one_way_to_scale(self) -> Served:
        if self.autoscaling is not None and self.replicas != 1:
            raise ValueError(
                f"replicas={self.replicas} has no effect with autoscaling; set autoscaling.min_replicas instead"
            )
        return self


class ServiceOptions(Served):
    """The reward service. `port` None starts no HTTP door: the driver scores through a deployment handle either way.

    `function` ("path.py:name") replaces the built-in reward by one's own: a list of dictionaries in, a list of
    dictionaries out.

    >>> ServiceOptions(port=8100).host
    '127.0.0.1'
    """

    rules: RewardRules = RewardRules()
    function: Annotated[str, Field(pattern=r"^.+\.py:[A-Za-z_][A-Za-z0-9_]*$")] | None = None
    function_kwargs: dict[str, Any] = Field(default_factory=dict)
    function_timeout_s: PositiveFloat = 30.0  # for one batch; a function that takes longer is stopped
    max_items: PositiveInt = 1024
    max_evaluation_bytes: PositiveInt = 64 * MIB
    max_evaluation_items: PositiveInt = 100_000

    @model_validator(mode="after")
    def _effective(self) -> ServiceOptions:
        if self.port is None:
            of_http = ("host", "token_env", "max_body_bytes", "max_items", "max_evaluation_bytes")
            because = "without port, which opens the HTTP door"
            refuse_unread(self, because, *of_http, "max_evaluation_items", remedy="set port, or remove it")
        if self.function is None:
            refuse_unread(self, "without function", "function_timeout_s", remedy="set function='path.py:name'")
        if self.function is not None and self.rules != RewardRules():
            raise ValueError(
                f"rules are those of the built-in reward and have no effect with function={self.function!r}; remove "
                "them (rules={}) and pass function_kwargs"
            )
        if self.function is None and self.function_kwargs:
            raise ValueError("function_kwargs have no effect without function; set function='path.py:name' or rules")
        return self


class ServiceConfig(Record):
    """The `reward` section of a configuration file, of a training run too: other sections are left aside."""

    model_config = ConfigDict(frozen=True, extra="ignore")

    reward: ServiceOptions
