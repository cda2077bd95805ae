"""Types that several sections share."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

Fraction = Annotated[float, Field(ge=0.0, le=1.0)]


DType = Literal["float32", "bfloat16"]


OnError = Literal["stop", "continue"]
