"""The manifests of deploy/ as the API server would get them, and schemas that refuse what it would drop or refuse.

kustomization --kubectl kustomize--> documents --> strict CRD schema, or Kubernetes' own
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import yaml
from jsonschema import Draft202012Validator

ROOT = Path(__file__).resolve().parents[2]
DEPLOY = ROOT / "deploy"
FOLDERS = sorted(file.parent.relative_to(DEPLOY).as_posix() for file in DEPLOY.rglob("kustomization.yaml"))
CRD_FILES = {"RayJob": "rayjobs", "RayService": "rayservices", "RayCluster": "rayclusters"}


def tool(name: str) -> str:
    """Path of a program that the dev extra installs; the test is skipped where it is not."""
    beside = Path(sys.executable).parent / name
    found = str(beside) if beside.is_file() else shutil.which(name)
    if found is None:
        pytest.skip(f"{name} is not installed; run make setup-tools (on Linux x86-64 the dev extra has it)")
    return found


def build(folder: Path) -> tuple[dict[str, Any], ...]:
    """Every document of `kubectl apply -k FOLDER`."""
    command = [tool("kubectl"), "kustomize", str(folder)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stderr
    return tuple(yaml.safe_load_all(done.stdout))


@cache
def rendered(folder: str) -> tuple[dict[str, Any], ...]:
    """Every document of a folder of deploy/."""
    return build(DEPLOY / folder)


def only(folder: str, kind: str) -> dict[str, Any]:
    """The one document of a kind."""
    found = [one for one in rendered(folder) if one["kind"] == kind]
    assert len(found) == 1, f"{folder}: {len(found)} {kind}"
    return found[0]


def secrets() -> tuple[dict[str, Any], ...]:
    """The documents of the example."""
    return tuple(yaml.safe_load_all((DEPLOY / "secrets.example.yaml").read_text(encoding="utf-8")))


@dataclass(frozen=True, slots=True)
class Group:
    """A group of equal pods of a Ray cluster."""

    name: str
    spec: dict[str, Any]

    @property
    def pod(self) -> dict[str, Any]:
        """The pod's spec."""
        return self.spec["template"]["spec"]

    @property
    def ray(self) -> dict[str, Any]:
        """The container that runs Ray: the first."""
        return self.pod["containers"][0]


def cluster(document: dict[str, Any]) -> dict[str, Any]:
    """The Ray cluster of a RayJob or RayService."""
    return document["spec"]["rayClusterSpec" if document["kind"] == "RayJob" else "rayClusterConfig"]


def groups(document: dict[str, Any]) -> dict[str, Group]:
    """The cluster's groups by name, the head's as "head"."""
    spec = cluster(document)
    workers = {one["groupName"]: Group(one["groupName"], one) for one in spec.get("workerGroupSpecs", [])}
    return {"head": Group("head", spec["headGroupSpec"])} | workers


def pods(document: dict[str, Any]) -> list[dict[str, Any]]:
    """Every pod template that the document leads to, the job submitter's too."""
    found = [group.spec["template"] for group in groups(document).values()]
    submitter = document["spec"].get("submitterPodTemplate")
    return found + ([submitter] if submitter else [])


def containers(document: dict[str, Any]) -> Iterator[dict[str, Any]]:
    """Every container of these pods."""
    for pod in pods(document):
        yield from pod["spec"]["containers"]
        yield from pod["spec"].get("initContainers", [])


@cache
def crd_schema(kind: str) -> dict[str, Any]:
    """KubeRay's schema of a kind, closed; the test is skipped where the schemas are not at hand."""
    folder = os.environ.get("POINTVG_TEST_DATA")
    file = Path(folder or "/nonexistent") / "kuberay" / f"{CRD_FILES[kind]}.v1.schema.json"
    if not file.is_file():
        pytest.skip("KubeRay's schemas are not at hand: set POINTVG_TEST_DATA to a folder with kuberay/*.schema.json")
    return closed(json.loads(file.read_text(encoding="utf-8")))


def closed(node: Any) -> Any:
    """A CRD's schema as JSON Schema in which an object has no fields but those listed.

    >>> closed({"type": "object", "properties": {"a": {"type": "string", "nullable": True}}})
    {'type': 'object', 'properties': {'a': {'type': ['string', 'null']}}, 'additionalProperties': False}
    """
    if isinstance(node, list):
        return [closed(each) for each in node]
    if not isinstance(node, dict):
        return node
    made = {key: closed(value) for key, value in node.items() if key != "nullable"}
    if node.get("nullable") is True and "type" in node:
        made["type"] = [node["type"], "null"]
    open_ended = node.get("x-kubernetes-preserve-unknown-fields") or "additionalProperties" in node
    if isinstance(node.get("properties"), dict) and not open_ended and node.get("type") == "object":
        made["additionalProperties"] = False
    return made


def faults(document: dict[str, Any], schema: dict[str, Any]) -> list[str]:
    """What the schema refuses, each with its place; and equal keys in lists that are maps by some of their fields."""
    errors = Draft202012Validator(schema).iter_errors(document)
    found = [f"{'/'.join(str(p) for p in error.absolute_path)}: {error.message[:200]}" for error in errors]
    return found + list(_repeated(document, schema, ""))


def _repeated(value: Any, schema: dict[str, Any], at: str) -> Iterator[str]:
    if isinstance(value, dict):
        for key, each in value.items():
            inner = schema.get("properties", {}).get(key) or schema.get("additionalProperties")
            if isinstance(inner, dict):
                yield from _repeated(each, inner, f"{at}/{key}")
    if isinstance(value, list):
        keys = schema.get("x-kubernetes-list-map-keys")
        if keys:
            seen = [tuple(one.get(key, _default(schema, key)) for key in keys) for one in value]
            yield from (f"{at}: {one} twice" for one in {one for one in seen if seen.count(one) > 1})
        for index, each in enumerate(value):
            yield from _repeated(each, schema.get("items", {}), f"{at}/{index}")


def _default(schema: dict[str, Any], key: str) -> Any:
    return schema.get("items", {}).get("properties", {}).get(key, {}).get("default")
