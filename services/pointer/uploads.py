"""Reads what is asked and the photo, from JSON or a form, as strictly as every other request."""

from __future__ import annotations

import base64
import binascii
import json
from typing import NamedTuple

from fastapi import Request
from fastapi.exceptions import RequestValidationError
from PIL.Image import Image
from pydantic import ValidationError
from starlette.concurrency import run_in_threadpool
from starlette.datastructures import UploadFile
from starlette.exceptions import HTTPException

from pointing.drawing import ImageError, decode_upload
from schemas.pointer import PointQuestion, PointRequest
from services.http.error_responses import strict_json

JSON, FORM = "application/json", "multipart/form-data"


class Uploaded(NamedTuple):
    """A question and its photo, upright and RGB."""

    question: PointQuestion
    image: Image


async def read_asked(request: Request, max_pixels: int) -> Uploaded:
    """Raises RequestValidationError and HTTPException, which name the part and the reason."""
    kind = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    if kind == JSON:
        question, content = _of_json(await request.body())
    elif kind == FORM:
        question, content = await _of_form(request)
    else:
        raise HTTPException(415, f"send the photo as {JSON} (base64) or as {FORM}")
    try:
        return Uploaded(question, await run_in_threadpool(decode_upload, content, max_pixels))
    except ImageError as error:
        raise _wrong("image", str(error), "image") from None


def _of_json(body: bytes) -> tuple[PointQuestion, bytes]:
    try:
        asked = PointRequest.model_validate(strict_json(body))
    except ValidationError as error:
        raise _listed(error) from None
    except json.JSONDecodeError as error:
        raise _wrong(None, f"not JSON: {error.msg}", "json_invalid") from None
    try:
        return PointQuestion(**asked.model_dump(exclude={"image"})), base64.b64decode(asked.image, validate=True)
    except (binascii.Error, ValueError):
        words = "not base64: send the bytes of the image file in base64, without line ends"
        raise _wrong("image", words, "base64") from None


async def _of_form(request: Request) -> tuple[PointQuestion, bytes]:
    async with request.form(max_files=1, max_fields=8, max_part_size=64 * 1024) as form:
        image = form.get("image")
        if not isinstance(image, UploadFile):
            raise _wrong("image", "send the photo as the file part `image`", "missing")
        content = await image.read()
        fields = {name: value for name, value in form.items() if name != "image" and value != ""}
    try:
        return PointQuestion.model_validate(fields), content
    except ValidationError as error:
        raise _listed(error) from None


def _listed(error: ValidationError) -> RequestValidationError:
    found = error.errors(include_input=False, include_url=False)
    return RequestValidationError([{**one, "loc": ("body", *one["loc"])} for one in found])


def _wrong(part: str | None, words: str, kind: str) -> RequestValidationError:
    place = ("body",) if part is None else ("body", part)
    return RequestValidationError([{"loc": place, "msg": words, "type": kind}])
