"""How the reward service is deployed: where it listens, who may call it, and what one request may hold."""

from __future__ import annotations

from ipaddress import ip_address
from typing import Annotated

from pydantic import Field, PositiveFloat, PositiveInt, model_validator

from schemas.scoring import RewardRules
from schemas.task import Record


class ServiceOptions(Record):
    """The reward service. `port` None starts no HTTP door: the driver scores through a deployment handle either way.

    `token_env` names the environment variable that holds the bearer token. Without one the service listens on this
    machine alone (a loopback `host`). Bytes are counted as they arrive, so a body of undeclared length is limited too.

    >>> ServiceOptions(port=8100).host
    '127.0.0.1'
    """

    rules: RewardRules = RewardRules()
    host: str = "127.0.0.1"
    port: Annotated[int, Field(ge=1, le=65535)] | None = None
    token_env: Annotated[str, Field(pattern=r"^[A-Za-z_][A-Za-z0-9_]*$")] | None = None
    max_body_bytes: PositiveInt = 8 * 1024 * 1024
    max_items: PositiveInt = 1024
    replicas: PositiveInt = 1
    cpus_per_replica: Annotated[float, Field(ge=0.0)] = 0.1
    request_timeout_s: PositiveFloat = 60.0

    @property
    def loopback(self) -> bool:
        """True when only this machine can reach `host`."""
        if self.host == "localhost":
            return True
        try:
            return ip_address(self.host).is_loopback
        except ValueError:
            return False

    @model_validator(mode="after")
    def _token_beyond_loopback(self) -> ServiceOptions:
        if self.port is not None and not self.loopback and self.token_env is None:
            raise ValueError(
                f"host={self.host!r} is reachable from other machines and token_env is not set: anyone could use the "
                "service; name the environment variable that holds a token, or bind 127.0.0.1"
            )
        return self
