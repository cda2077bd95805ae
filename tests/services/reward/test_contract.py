"""The OpenAPI document against the service: whatever a client makes of the contract, the answer is never a 5xx."""

from __future__ import annotations

import json

import pytest
import schemathesis
from fastapi.testclient import TestClient
from hypothesis import HealthCheck, Phase, settings
from schemathesis.specs.openapi.checks import (
    content_type_conformance,
    response_schema_conformance,
    status_code_conformance,
)

from schemas.config.service import ServiceOptions
from services.reward.routes import build_api
from services.reward.uploads import LINES

APP = build_api(ServiceOptions(port=1, token_env="T", max_items=50), "right")
AUTH = {"Authorization": "Bearer right"}
CLIENT = TestClient(APP, headers=AUTH, raise_server_exceptions=False)
schema = schemathesis.openapi.from_asgi("/openapi.json", APP, headers=AUTH)
PHASES = (Phase.explicit, Phase.generate)


@schemathesis.serializer(*LINES)
def lines(context: object, value: object) -> bytes:
    return value if isinstance(value, bytes) else str(value).encode("utf-8", "surrogatepass")


def check(case: schemathesis.Case) -> None:
    response = case.call(headers=AUTH)
    assert response.status_code < 500, response.text
    checks = [content_type_conformance, response_schema_conformance, status_code_conformance]
    if response.status_code != 405:  # a method that the contract does not have
        case.validate_response(response, checks=checks)


@schema.parametrize()
@settings(max_examples=60, deadline=None, phases=PHASES, suppress_health_check=list(HealthCheck))
def test_no_request_makes_the_service_fail(case: schemathesis.Case) -> None:
    check(case)


@pytest.mark.slow
@schema.parametrize()
@settings(max_examples=1500, deadline=None, phases=PHASES, suppress_health_check=list(HealthCheck))
def test_no_request_makes_the_service_fail_at_length(case: schemathesis.Case) -> None:
    check(case)


def test_every_operation_is_locked_in_the_contract_or_a_probe() -> None:
    contract = json.loads(CLIENT.get("/openapi.json").text)
    locked = {path for path, verbs in contract["paths"].items() for verb in verbs.values() if verb.get("security")}
    assert set(contract["paths"]) - locked == {"/healthz", "/readyz"}
    for path in ("/v1/score", "/v1/evaluate"):
        operation = contract["paths"][path]["post"]
        assert operation["responses"]["200"]["content"]["application/json"]["example"]
        assert {"401", "413", "422", "429", "500", "503"} <= operation["responses"].keys()
