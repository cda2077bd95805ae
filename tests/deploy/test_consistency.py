"""The manifests agree with the code, the configurations, the image and one another."""

from __future__ import annotations

import importlib
import inspect
import os
import re
import shlex
import textwrap
import tomllib
from pathlib import Path
from typing import Any

import pytest
import yaml

from schemas.config import TrainConfig
from schemas.config.file import load
from schemas.config.service import ServiceConfig, ServiceOptions
from tests.deploy.manifests import (
    DEPLOY,
    FOLDERS,
    ROOT,
    build,
    cluster,
    containers,
    groups,
    only,
    pods,
    rendered,
    secrets,
)

JOBS = ["train", "train-kueue", "train-object-storage", "kind"]
RAY = [*((folder, "RayJob") for folder in JOBS), ("reward", "RayService")]
each_cluster = pytest.mark.parametrize(("folder", "kind"), RAY, ids=[folder for folder, _ in RAY])
each_job = pytest.mark.parametrize("folder", JOBS)

PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
RAY_SOURCES = Path(inspect.getfile(importlib.import_module("ray"))).parent
# Which file reads an environment variable that the manifests set. Ray's are named in its installed sources.
READ_BY = {
    "RAY_JOB_STOP_WAIT_TIME_S": RAY_SOURCES / "dashboard/modules/job/job_supervisor.py",
    "RAY_SERVE_HTTP_PROXY_CALLBACK_IMPORT_PATH": RAY_SOURCES / "serve/_private/constants.py",
    "RAY_SERVE_THROUGHPUT_OPTIMIZED": RAY_SOURCES / "serve/_private/constants.py",
}
AWS = {"AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_REGION"}  # read by Arrow's S3 client


def entrypoint(job: dict[str, Any]) -> list[str]:
    return shlex.split(job["spec"]["entrypoint"])


def configured(job: dict[str, Any]) -> TrainConfig:
    """The training configuration that a job's command line gives."""
    words = entrypoint(job)
    assert words[:4] == ["python", "-m", "orchestrator", "train"]
    assert words[4] == "--config"
    return load(TrainConfig, ROOT / words[5], words[6:]).config


def quantity(text: str) -> float:
    """A Kubernetes quantity of CPUs, GPUs or bytes."""
    number, unit = re.fullmatch(r"([0-9.]+)(m|Mi|Gi|)", text).groups()  # type: ignore[union-attr]
    return float(number) * {"": 1, "m": 1e-3, "Mi": 2**20, "Gi": 2**30}[unit]


def options_of_service() -> ServiceOptions:
    serve = yaml.safe_load(only("reward", "RayService")["spec"]["serveConfigV2"])
    return ServiceOptions.model_validate(serve["applications"][0]["args"])


def test_every_folder_is_looked_at() -> None:
    found = {folder for folder in FOLDERS if any(d["apiVersion"].startswith("ray.io/") for d in rendered(folder))}
    assert found == {folder for folder, _ in RAY}


@each_job
def test_the_entrypoint_is_one_plain_command(folder: str) -> None:
    text = only(folder, "RayJob")["spec"]["entrypoint"]
    assert not set(text) & set("&|;<>$`\"'\\\n*?()[]{}~#!")  # the operator pastes it into a shell
    configured(only(folder, "RayJob"))


@pytest.mark.parametrize("folder", [f for f in JOBS if f != "kind"])
def test_each_role_has_its_group_and_fits_it(folder: str) -> None:
    job = only(folder, "RayJob")
    resources = configured(job).resources
    needs = {
        "rollout": (resources.rollout.count, resources.rollout.cpus, resources.rollout.gpus),
        "learner": (resources.learner.count, resources.learner.cpus, resources.learner.gpus),
        "reference": (resources.reference.count, resources.reference.cpus, resources.reference.gpus),
        "reward": (1, configured(job).reward.cpus_per_replica, 0),
    }
    found = groups(job)
    assert found.keys() == needs.keys() | {"head"}
    for name, (actors, cpus, gpus) in needs.items():
        group = found[name]
        assert group.spec["labels"] == {"pointvg.role": name}
        limits = group.ray["resources"]["limits"]
        per_pod = quantity(limits["cpu"]) // cpus
        if gpus:
            per_pod = min(per_pod, quantity(limits["nvidia.com/gpu"]) // gpus)
            assert group.spec["replicas"] * quantity(limits["nvidia.com/gpu"]) == actors * gpus  # none is left idle
        assert group.spec["replicas"] * per_pod >= actors
        assert group.spec["minReplicas"] <= group.spec["replicas"] <= group.spec["maxReplicas"]
        if name != "reward":
            assert group.spec["minReplicas"] == group.spec["maxReplicas"]  # the run's size is that of the configuration
    assert found["head"].spec["rayStartParams"] == {"num-cpus": "0"}


def test_the_quickstart_fits_the_one_pod() -> None:
    job = only("kind", "RayJob")
    config, found = configured(job), groups(job)
    given = found["head"].spec["rayStartParams"]
    assert list(found) == ["head"]
    assert config.resources.total_cpus + config.reward.replicas * config.reward.cpus_per_replica <= int(
        given["num-cpus"]
    )
    assert int(given["object-store-memory"]) == config.resources.object_store_bytes
    scenes = found["head"].pod["initContainers"][0]["args"]
    assert " ".join(scenes[3:]) in (ROOT / "Makefile").read_text(encoding="utf-8")
    mounts = {mount["mountPath"] for mount in found["head"].ray["volumeMounts"]}
    assert mounts == {f"/app/{Path(str(config.data.train_files)).parts[0]}", f"/app/{config.run.folder}"}


@each_cluster
def test_versions_are_those_of_the_project(folder: str, kind: str) -> None:
    document = only(folder, kind)
    pinned = next(d for d in PROJECT["dependencies"] if d.startswith("ray["))
    assert pinned.endswith(f"=={cluster(document)['rayVersion']}")
    images = {container["image"] for container in containers(document)}
    assert len(images) == 1
    name, _, tag = images.pop().rpartition(":")
    assert name.split("/")[-1] == "pointvg-r"
    uses_gpus = any("nvidia.com/gpu" in c["resources"]["limits"] for c in containers(document))
    assert tag == f"{PROJECT['version']}-{'gpu' if uses_gpus else 'cpu'}"


@each_cluster
def test_secrets_claims_and_volumes_exist(folder: str, kind: str) -> None:
    document = only(folder, kind)
    keys = {secret["metadata"]["name"]: secret["stringData"].keys() for secret in secrets()}
    auth = cluster(document)["authOptions"]
    assert auth["mode"] == "token"
    assert "auth_token" in keys[auth["secretName"]]  # the key that the operator reads
    claims = {d["metadata"]["name"] for d in rendered(folder) if d["kind"] == "PersistentVolumeClaim"}
    for pod in pods(document):
        volumes = {volume["name"]: volume for volume in pod["spec"].get("volumes", [])}
        for volume in volumes.values():
            assert volume.get("persistentVolumeClaim", {}).get("claimName") in claims | {None}
        for container in pod["spec"]["containers"] + pod["spec"].get("initContainers", []):
            assert {mount["name"] for mount in container.get("volumeMounts", [])} <= volumes.keys()
            for source in container.get("envFrom", []):
                assert source["secretRef"]["name"] in keys
            for variable in container.get("env", []):
                if "valueFrom" in variable:
                    wanted = variable["valueFrom"]["secretKeyRef"]
                    assert wanted["key"] in keys[wanted["name"]]


@each_cluster
def test_every_variable_is_read_by_something(folder: str, kind: str) -> None:
    document = only(folder, kind)
    by_secret = {secret["metadata"]["name"]: set(secret["stringData"]) for secret in secrets()}
    service = options_of_service().token_env
    for container in containers(document):
        in_arguments = set(re.findall(r"\$\((\w+)\)", " ".join(container.get("args", []))))
        from_secrets = {name for s in container.get("envFrom", []) for name in by_secret[s["secretRef"]["name"]]}
        assert in_arguments <= from_secrets
        assert from_secrets <= in_arguments | AWS
        for variable in container.get("env", []):
            name = variable["name"]
            assert name == service or name in READ_BY[name].read_text(encoding="utf-8")


@each_cluster
def test_probes_ask_what_answers_without_a_token(folder: str, kind: str) -> None:
    agent = importlib.import_module("ray.dashboard.http_server_agent")
    port = importlib.import_module("ray._private.ray_constants").DEFAULT_DASHBOARD_AGENT_LISTEN_PORT
    for group in groups(only(folder, kind)).values():
        live, ready = group.ray["livenessProbe"]["httpGet"], group.ray["readinessProbe"]["httpGet"]
        assert live["path"] in agent.PUBLIC_EXACT_PATHS
        assert live["port"] == port
        if kind == "RayService" and group.name != "head":
            assert ready == {"path": "/-/healthz", "port": options_of_service().port}
        else:
            assert ready == live


@each_cluster
def test_pods_run_without_privileges_and_only_the_head_may_ask_kubernetes(folder: str, kind: str) -> None:
    document = only(folder, kind)
    for container in containers(document):
        security = container["securityContext"]
        assert security == {"allowPrivilegeEscalation": False, "capabilities": {"drop": ["ALL"]}}
        assert container["resources"]["limits"]["memory"]
    scales = cluster(document).get("enableInTreeAutoscaling", False)
    head = groups(document)["head"].spec["template"]
    for pod in pods(document):
        assert pod["spec"]["securityContext"]["runAsNonRoot"] is True
        asks = pod["spec"].get("automountServiceAccountToken", True)
        assert asks is False or (pod is head and (scales or folder == "train-kueue"))


@each_cluster
def test_the_operators_own_rules_hold(folder: str, kind: str) -> None:
    """What KubeRay refuses beyond its schema, or forbids by the length of the names that it makes."""
    document = only(folder, kind)
    assert re.fullmatch(r"[a-z]([-a-z0-9]*[a-z0-9])?", document["metadata"]["name"])
    assert len(document["metadata"]["name"]) <= 41
    for group in groups(document).values():
        assert "labels" not in group.spec["rayStartParams"]
        assert not group.spec.get("resources")
        assert group.pod.get("restartPolicy") is None  # autoscaler v2 wants none of its own
        assert group.ray["workingDir"] == "/app"
    if kind == "RayJob":
        assert document["spec"]["shutdownAfterJobFinishes"] is True  # Kueue admits no other
    if "kueue.x-k8s.io/queue-name" in document["metadata"]["labels"]:
        assert cluster(document)["enableInTreeAutoscaling"] is False


@each_job
def test_a_stopped_job_has_time_to_write_its_checkpoint(folder: str) -> None:
    head = groups(only(folder, "RayJob"))["head"]
    wait = {v["name"]: v["value"] for v in head.ray["env"]}["RAY_JOB_STOP_WAIT_TIME_S"]
    assert 60 <= int(wait) < head.pod["terminationGracePeriodSeconds"]


@each_cluster
def test_the_network_policies_meet_the_pods(folder: str, kind: str) -> None:
    document = only(folder, kind)
    policies = [d for d in rendered(folder) if d["kind"] == "NetworkPolicy"]
    open_ports = {port["containerPort"] for container in containers(document) for port in container.get("ports", [])}
    allowed = {p["port"] for d in policies for rule in d["spec"].get("ingress", []) for p in rule.get("ports", [])}
    by_name = {d["metadata"]["name"]: d["spec"] for d in policies}
    for pod in pods(document):
        wanted = by_name["pointvg-ingress"]["podSelector"]["matchLabels"]
        assert wanted.items() <= pod["metadata"]["labels"].items()
    if kind == "RayService":
        wanted = by_name["pointvg-reward-clients"]["podSelector"]["matchLabels"]
        assert all(wanted.items() <= pod["metadata"]["labels"].items() for pod in pods(document))
        assert allowed <= open_ports
    assert by_name["pointvg-worker-egress"]["podSelector"]["matchLabels"]["ray.io/node-type"] == "worker"


@each_cluster
def test_priority_classes_exist(folder: str, kind: str) -> None:
    classes = {d["metadata"]["name"] for d in rendered(folder) if d["kind"] == "PriorityClass"}
    assert {group.pod["priorityClassName"] for group in groups(only(folder, kind)).values()} <= classes


def test_the_reward_service_is_configured_as_the_shipped_file() -> None:
    schema = importlib.import_module("ray.serve.schema").ServeDeploySchema
    document = only("reward", "RayService")
    serve = yaml.safe_load(document["spec"]["serveConfigV2"])
    parsed = schema.model_validate(serve)
    module, _, name = parsed.applications[0].import_path.partition(":")
    builder = getattr(importlib.import_module(module), name)
    application = builder(serve["applications"][0]["args"])
    options, shipped = options_of_service(), load(ServiceConfig, ROOT / "configs" / "reward.yaml").config.reward
    assert application._bound_deployment.name == "RewardService"
    assert (options.host, options.port) == (serve["http_options"]["host"], serve["http_options"]["port"])
    assert options.request_timeout_s == serve["http_options"]["request_timeout_s"]
    assert options.rules == shipped.rules
    assert not options.loopback
    assert options.token_env is not None
    assert options.autoscaling is not None
    for group in groups(document).values():
        assert {"name": "serve", "containerPort": options.port, "protocol": "TCP"}.items() >= group.ray["ports"][
            -1
        ].items()
    workers = groups(document)["reward"]
    room = workers.spec["maxReplicas"] * quantity(workers.ray["resources"]["limits"]["cpu"])
    assert options.autoscaling.max_replicas * options.cpus_per_replica <= room
    assert options.drain_s < workers.pod["terminationGracePeriodSeconds"]


def test_a_service_that_others_can_reach_needs_its_token_and_port() -> None:
    from services.reward.serve_app import reward

    with pytest.raises(ValueError, match="token_env is not set"):
        reward({"host": "0.0.0.0", "port": 8100})
    with pytest.raises(ValueError, match="has no effect without port"):
        reward({"host": "0.0.0.0", "token_env": "POINTVG_REWARD_TOKEN"})


def test_the_guide_names_what_there_is() -> None:
    guide = (ROOT / "docs" / "clusters.md").read_text(encoding="utf-8")
    tabled = set(re.findall(r"^\| `([a-z-]+)` \|", guide, re.MULTILINE))
    assert tabled == set(FOLDERS)
    for path in re.findall(r"`((?:deploy|docker|scripts|configs|orchestrator)/[\w./*-]+)`", guide):
        assert list(ROOT.glob(path)), path
    for name in re.findall(r"kubectl create secret generic ([\w-]+)", guide):
        assert name in {secret["metadata"]["name"] for secret in secrets()}
    version = PROJECT["version"]
    assert set(re.findall(r"pointvg-r:(\d[\w.-]*)", guide)) == {f"{version}-cpu"}


def test_the_guides_overlay_moves_everything_to_its_namespace_and_registry(tmp_path: Path) -> None:
    guide = (ROOT / "docs" / "clusters.md").read_text(encoding="utf-8")
    (block,) = re.findall(r"# my-overlay/kustomization.yaml\n((?:    .+\n)+)", guide)
    text = textwrap.dedent(block).replace("../deploy/train", os.path.relpath(DEPLOY / "train", tmp_path.resolve()))
    (tmp_path / "kustomization.yaml").write_text(text)
    found = build(tmp_path)
    (job,) = [d for d in found if d["kind"] == "RayJob"]
    assert {container["image"] for container in containers(job)} == {"my.registry/pointvg-r:0.1.0-gpu"}
    assert {d["metadata"].get("namespace") for d in found if d["kind"] != "PriorityClass"} == {"my-team"}
