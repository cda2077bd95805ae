"""Every manifest against its schema, with unknown fields refused at every level."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import pytest

from tests.deploy.manifests import CRD_FILES, FOLDERS, crd_schema, faults, only, pods, rendered, secrets

Change = Callable[[dict[str, Any]], Any]
KUBERNETES = "1.34"


def check_core(document: dict[str, Any]) -> None:
    """Raises when Kubernetes' own schema refuses the document."""
    kubernetes = pytest.importorskip(
        "kubernetes_validate", reason="kubernetes-validate is not installed: make setup-tools"
    )
    kubernetes.validate(document, KUBERNETES, strict=True)


@pytest.mark.parametrize("folder", FOLDERS)
def test_the_api_server_would_take_it(folder: str) -> None:
    assert rendered(folder)
    for document in rendered(folder):
        if document["apiVersion"].startswith("ray.io/"):
            assert document["apiVersion"] == "ray.io/v1"
            assert faults(document, crd_schema(document["kind"])) == []
            assert document["metadata"].keys() <= {"name", "labels", "annotations"}  # of which a CRD says nothing
        elif not document["apiVersion"].startswith("monitoring.coreos.com/"):
            check_core(document)


@pytest.mark.parametrize("folder", FOLDERS)
def test_every_pod_template_is_one_to_kubernetes(folder: str) -> None:
    """Most of what a manifest of Ray says; needs no schema of KubeRay's."""
    for document in rendered(folder):
        if document["apiVersion"].startswith("ray.io/"):
            for pod in pods(document):
                check_core(as_template(pod))


def as_template(pod: dict[str, Any]) -> dict[str, Any]:
    return {"apiVersion": "v1", "kind": "PodTemplate", "metadata": {"name": "pod"}, "template": pod}


def test_a_misspelt_field_of_a_pod_is_refused() -> None:
    job = copy.deepcopy(only("kind", "RayJob"))
    next(iter(pods(job)))["spec"]["containers"][0]["imagePulPolicy"] = "Always"
    with pytest.raises(Exception, match="imagePulPolicy"):
        check_core(as_template(next(iter(pods(job)))))


def test_the_secrets_of_the_example_are_secrets_without_values() -> None:
    for document in secrets():
        check_core(document)
        assert set(document["stringData"].values()) == {""}


def test_every_kind_of_ray_has_its_schema() -> None:
    kinds = {d["kind"] for folder in FOLDERS for d in rendered(folder) if d["apiVersion"].startswith("ray.io/")}
    assert kinds <= CRD_FILES.keys()
    assert {"RayJob", "RayService"} <= kinds


def _head(job: dict[str, Any]) -> dict[str, Any]:
    return job["spec"]["rayClusterSpec"]["headGroupSpec"]


def _container(job: dict[str, Any]) -> dict[str, Any]:
    return _head(job)["template"]["spec"]["containers"][0]


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda job: job["spec"].update(entryPoint="x"), "entryPoint"),
        (lambda job: _head(job)["template"]["spec"].update(securitycontext={}), "securitycontext"),
        (lambda job: _container(job).update(livenessProbe={"httpGet": {"path": "/", "prot": 1}}), "prot"),
        (lambda job: _container(job)["resources"]["limits"].update(memory=[1]), "limits/memory"),
        (lambda job: _container(job)["env"].append({"value": "1"}), "'name' is a required property"),
        (lambda job: _container(job)["env"].append(dict(_container(job)["env"][0])), "twice"),
        (lambda job: _container(job)["ports"].append(dict(_container(job)["ports"][0], name="again")), "twice"),
        (lambda job: _head(job)["rayStartParams"].update({"num-cpus": 4}), "num-cpus"),
        (lambda job: job["spec"]["rayClusterSpec"]["authOptions"].update(mode="tokens"), "tokens"),
    ],
)
def test_a_slip_in_a_ray_manifest_is_refused(change: Change, words: str) -> None:
    job = copy.deepcopy(only("train", "RayJob"))
    change(job)
    assert any(words in fault for fault in faults(job, crd_schema("RayJob")))


def test_a_slip_in_a_core_manifest_is_refused() -> None:
    claim = copy.deepcopy(only("train", "PersistentVolumeClaim"))
    claim["spec"]["acessModes"] = []
    with pytest.raises(Exception, match="acessModes"):
        check_core(claim)
