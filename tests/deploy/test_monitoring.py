"""Dashboard and alerts ask for metrics that exist, in PromQL that parses, of pods that are scraped."""

from __future__ import annotations

import importlib
import inspect
import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from orchestrator.telemetry.gauges import RATE, STAGE, STEP, TRAIN, VALIDATION
from tests.deploy.manifests import DEPLOY, ROOT, groups, only

DASHBOARD: dict[str, Any] = json.loads((DEPLOY / "monitoring" / "pointvg.json").read_text(encoding="utf-8"))
PANELS = [panel for panel in DASHBOARD["panels"] if panel["type"] != "row"]
# What the code exports, with the labels that it sets.
TRAINING = {f"pointvg_train_{name}": {"run"} for name, _ in TRAIN.values()}
TRAINING |= {f"pointvg_validation_{name}": {"run", "decoding"} for name in VALIDATION}
TRAINING |= {STEP: {"run"}, RATE: {"run"}, STAGE: {"run", "stage"}}
SERVICE = {
    "pointvg_reward_requests_total": {"route", "status"},
    "pointvg_reward_request_seconds_bucket": {"route", "le"},
    "pointvg_reward_items_total": {"door"},
    "pointvg_reward_batch_seconds_bucket": {"door", "le"},
    "pointvg_reward_failures_total": {"door"},
}
EXPORTED = {f"ray_{name}": labels for name, labels in (TRAINING | SERVICE).items()}


def rules() -> list[dict[str, Any]]:
    document = yaml.safe_load((DEPLOY / "monitoring" / "rules.yaml").read_text(encoding="utf-8"))
    return [rule for group in document["spec"]["groups"] for rule in group["rules"]]


def queries() -> list[str]:
    """Every PromQL expression of the dashboard and the rules."""
    return [t["expr"] for panel in PANELS for t in panel["targets"]] + [rule["expr"] for rule in rules()]


def selectors(node: Any) -> Iterator[Any]:
    """Every vector selector below a node of a parsed expression."""
    if type(node).__name__ == "VectorSelector":
        yield node
    for name in ("lhs", "rhs", "expr", "vector_selector", "vs"):
        if getattr(node, name, None) is not None:
            yield from selectors(getattr(node, name))
    for each in getattr(node, "args", None) or ():
        yield from selectors(each)


def parse(query: str) -> Any:
    promql = pytest.importorskip("promql_parser", reason="promql-parser is not installed: make setup-tools")
    return promql.parse(query)


def test_the_service_exports_these_names() -> None:
    source = (ROOT / "services" / "http" / "ray_counts.py").read_text(encoding="utf-8")
    made = {f"pointvg_reward_{name}" for name in re.findall(r'f"pointvg_\{\w+\}_(\w+)"', source)}
    assert made == {name.removesuffix("_bucket") for name in SERVICE}


@pytest.mark.parametrize("query", queries())
def test_a_query_asks_for_what_is_exported(query: str) -> None:
    asked = list(selectors(parse(query)))
    assert asked
    known_to_ray = rays_own()
    for one in asked:
        if one.name in EXPORTED:
            used = {matcher.name for matcher in one.matchers.matchers}
            assert used <= EXPORTED[one.name]
        else:
            assert one.name in known_to_ray


def rays_own() -> set[str]:
    """Metrics that Ray's own dashboards ask for."""
    folder = Path(inspect.getfile(importlib.import_module("ray.dashboard.modules.metrics.dashboards.common"))).parent
    sources = "".join(file.read_text(encoding="utf-8") for file in folder.glob("*_panels.py"))
    return set(re.findall(r"\bray_[a-z_]+", sources))


def test_a_name_that_nothing_exports_would_be_noticed() -> None:
    (wrong,) = selectors(parse("sum by (run) (rate(ray_pointvg_train_rewards[5m]))"))
    assert wrong.name not in EXPORTED
    assert wrong.name not in rays_own()
    with pytest.raises(ValueError, match="unclosed left parenthesis"):
        parse("sum by (run) (rate(ray_pointvg_train_step[5m])")


def test_every_exported_metric_is_shown_or_watched() -> None:
    asked = {one.name for query in queries() for one in selectors(parse(query))}
    assert EXPORTED.keys() - asked <= {"ray_pointvg_train_recovery_seconds"}


def test_rules_have_the_fields_that_prometheus_knows() -> None:
    names = [rule["alert"] for rule in rules()]
    assert len(set(names)) == len(names)
    for rule in rules():
        assert rule.keys() <= {"alert", "expr", "for", "labels", "annotations"}
        assert rule["labels"]["severity"] in ("critical", "warning")
        assert re.fullmatch(r"\d+m", rule.get("for", "1m"))
        named = {label for text in rule["annotations"].values() for label in re.findall(r"\$labels\.(\w+)", text)}
        of_metric = set.union(*(EXPORTED[one.name] for one in selectors(parse(rule["expr"]))))
        assert named <= of_metric
        aggregated = re.search(r"by \(([^)]*)\)", rule["expr"])
        if aggregated:
            assert named <= set(aggregated.group(1).split(", "))


def test_the_dashboard_is_whole() -> None:
    assert len({panel["id"] for panel in DASHBOARD["panels"]}) == len(DASHBOARD["panels"])
    taken: set[tuple[int, int]] = set()
    for panel in DASHBOARD["panels"]:
        at = panel["gridPos"]
        cells = {(x, y) for x in range(at["x"], at["x"] + at["w"]) for y in range(at["y"], at["y"] + at["h"])}
        assert not cells & taken
        assert at["x"] + at["w"] <= 24
        taken |= cells
    variables = {variable["name"] for variable in DASHBOARD["templating"]["list"]}
    used = set(re.findall(r"\$\{?(\w+)", json.dumps(DASHBOARD)))
    assert used == variables
    shown = only("monitoring", "ConfigMap")
    assert json.loads(shown["data"]["pointvg.json"]) == DASHBOARD
    assert shown["metadata"]["labels"] == {"grafana_dashboard": "1"}


@pytest.mark.parametrize(("folder", "kind"), [("train", "RayJob"), ("reward", "RayService"), ("kind", "RayJob")])
def test_the_pods_are_scraped_where_their_metrics_are(folder: str, kind: str) -> None:
    monitor = only("monitoring", "PodMonitor")["spec"]
    assert monitor.keys() == {"selector", "podMetricsEndpoints"}
    chosen = dict(monitor["selector"]["matchLabels"])
    assert chosen.pop("ray.io/is-ray-node") == "yes"  # set by the operator
    ports = [endpoint["port"] for endpoint in monitor["podMetricsEndpoints"]]
    for group in groups(only(folder, kind)).values():
        assert chosen.items() <= group.spec["template"]["metadata"]["labels"].items()
        named = {port["name"]: port["containerPort"] for port in group.ray["ports"]}
        assert named["metrics"] == 8080  # the operator's default for --metrics-export-port
        if group.name == "head" and folder != "kind":
            assert set(ports) <= named.keys()
