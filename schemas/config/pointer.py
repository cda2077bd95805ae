"""How the pointer service is deployed: which model answers, and how much one request may ask of it."""

from __future__ import annotations

from typing import Annotated

from pydantic import ConfigDict, Field, PositiveInt

from schemas.config.service import MIB, Served
from schemas.task import Record


class PointerOptions(Served):
    """The pointer service. `model` is the folder of an exported model, which every node must see.

    An image may have `max_image_pixels` at most, and a request ask for `max_samples` draws. Every replica holds a vLLM
    engine of its own, on `cpus_per_replica` and, where there are some, `gpus_per_replica`.

    >>> PointerOptions(model="runs/quickstart/export").port
    8200
    """

    model: Annotated[str, Field(min_length=1)]
    port: Annotated[int, Field(ge=1, le=65535)] | None = 8200
    max_body_bytes: PositiveInt = 32 * MIB
    max_image_pixels: PositiveInt = 64_000_000
    max_samples: PositiveInt = 32
    request_timeout_s: Annotated[float, Field(gt=0.0)] = 120.0
    max_ongoing_requests: PositiveInt = 16
    max_queued_requests: Annotated[int, Field(ge=0)] = 64
    drain_s: Annotated[float, Field(ge=0.0)] = 30.0
    cpus_per_replica: Annotated[float, Field(ge=0.0)] = 1.0
    gpus_per_replica: Annotated[float, Field(ge=0.0)] = 0.0


class PointerConfig(Record):
    """The `pointer` section of a configuration file; other sections are left aside."""

    model_config = ConfigDict(frozen=True, extra="ignore")

    pointer: PointerOptions
