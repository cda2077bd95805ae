"""What roles ask for and whether nodes hold it: by hand, against every arrangement, and as printed."""

from itertools import product
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from actors.group import node_by_node
from orchestrator.preflight.machines import room_problems
from orchestrator.roles.placement import Node, RolePlan, nodes_of, plan_table, role_plans, unplaced
from schemas.config import TrainConfig
from schemas.config.resources import Place, Strategy


def config(coefficient: float = 0.01, **resources: Any) -> TrainConfig:
    return TrainConfig.model_validate(
        {
            "model": {"path": "m"},
            "data": {"train_files": "a"},
            "algorithm": {"kl": {"coefficient": coefficient}},
            "trainer": {"max_steps": 1},
            "resources": resources,
        }
    )


def node(name: str = "a", cpus: float = 8, gpus: int = 0, label: str | None = None) -> Node:
    return Node(name, cpus, (1.0,) * gpus, label)


def test_the_plan_of_a_node_of_eight() -> None:
    asked = config(
        rollout={"count": 3, "cpus": 8, "gpus": 1},
        learner={"count": 4, "gpus": 1, "place": {"strategy": "STRICT_PACK", "label": "learner"}},
        reference={"gpus": 1},
        threads=4,
    )
    assert plan_table(role_plans(asked)).splitlines() == [
        "role       count  each          strategy     nodes    threads",
        "rollout    3      8 CPU, 1 GPU  PACK         any      4",
        "learner    4      1 CPU, 1 GPU  STRICT_PACK  learner  4",
        "reference  1      1 CPU, 1 GPU  PACK         any      4",
        "reward     1      0.1 CPU       PACK         any      1",
    ]
    assert unplaced(role_plans(asked), [node(cpus=30, gpus=8, label="learner")]) is None
    found = unplaced(role_plans(asked), [node(cpus=30, gpus=8)])
    assert str(found) == (
        "learner: room for 0 of 4 processes of 1 CPU, 1 GPU on nodes labelled pointvg.role=learner on one node; "
        "free then: no such node"
    )


def test_a_role_without_use_is_not_planned_for() -> None:
    assert [plan.role for plan in role_plans(config(coefficient=0))] == ["rollout", "learner", "reward"]


def test_a_critic_is_planned_for() -> None:
    asked = config().model_dump() | {"critic": {}}
    asked["algorithm"] |= {"advantage": "gae"}
    assert [plan.role for plan in role_plans(TrainConfig.model_validate(asked))][-2:] == ["critic", "reward"]


def test_a_missing_gpu_is_named() -> None:
    plans = [RolePlan("rollout", 2, 1, 1, 1), RolePlan("learner", 2, 1, 1, 1)]
    found = unplaced(plans, [node(gpus=3)])
    assert found is not None
    assert (found.placed, found.count, found.each) == (1, 2, "1 CPU, 1 GPU")
    assert str(found).endswith("room for 1 of 2 processes of 1 CPU, 1 GPU; free then: a (5 CPU, 0 GPU)")
    [problem] = room_problems(plans, [])
    assert problem.field in ("resources.rollout.count", "resources.learner.count")
    assert problem.reason.startswith("the cluster cannot hold the roles: ")
    assert problem.remedy.endswith("set resources.autoscaled=true")


def test_cpus_of_a_local_cluster_are_not_taken_for_cores() -> None:
    local = Node("this machine", 48.9, cores=2)
    [problem] = room_problems([RolePlan("learner", 1, 2, 1, 1)], [local], "machine")
    assert "free then: this machine (48.9 CPU logical, on 2 cores)" in problem.reason


def test_one_gpu_is_shared_but_not_split() -> None:
    shares = [RolePlan("rollout", 1, 1, 0.5, 1), RolePlan("learner", 1, 1, 0.3, 1), RolePlan("reference", 1, 1, 0.2, 1)]
    assert unplaced(shares, [node(gpus=1)]) is None
    assert unplaced([RolePlan("learner", 3, 1, 0.6, 1)], [node(gpus=2)]) is not None  # 1.8 of 2, but no GPU has room
    assert unplaced([RolePlan("learner", 3, 1, 0.6, 1)], [node(gpus=3)]) is None


def test_strategies() -> None:
    two = [node("a", 4), node("b", 4)]

    def holds(count: int, strategy: Strategy) -> bool:
        return unplaced([RolePlan("learner", count, 2, 0, 1, Place(strategy=strategy))], two) is None

    assert [holds(count, "PACK") for count in (2, 4, 5)] == [True, True, False]
    assert [holds(count, "SPREAD") for count in (2, 4, 5)] == [True, True, False]
    assert [holds(count, "STRICT_PACK") for count in (2, 3)] == [True, False]
    assert [holds(count, "STRICT_SPREAD") for count in (2, 3)] == [True, False]


def test_tensor_parallel_engines_need_whole_gpus_of_one_node() -> None:
    plans = [RolePlan("rollout", 1, 1, 2, 1)]
    assert unplaced(plans, [node("a", gpus=1), node("b", gpus=1)]) is not None
    assert unplaced(plans, [node("a", gpus=2)]) is None


def test_roles_go_where_they_fit_in_any_order() -> None:
    """The learner must leave the large node to the engine, although it may come first."""
    plans = [RolePlan("learner", 1, 2, 0, 1), RolePlan("rollout", 1, 8, 0, 1)]
    assert unplaced(plans, [node("large", 8), node("small", 2)]) is None


@settings(max_examples=60, deadline=None)
@given(
    plans=st.lists(st.tuples(st.integers(1, 2), st.integers(1, 4)), min_size=1, max_size=3),
    sizes=st.lists(st.integers(1, 8), min_size=1, max_size=3),
)
def test_what_is_said_to_fit_fits_and_what_is_refused_fits_nowhere(
    plans: list[tuple[int, int]], sizes: list[int]
) -> None:
    """Against every assignment of processes to nodes."""
    roles = [RolePlan(f"role{n}", count, cpus, 0, 1) for n, (count, cpus) in enumerate(plans)]
    each = [role.cpus for role in roles for _ in range(role.count)]

    def fits(assignment: tuple[int, ...]) -> bool:
        return all(
            sum(cpus for cpus, at in zip(each, assignment, strict=True) if at == number) <= size
            for number, size in enumerate(sizes)
        )

    possible = any(fits(assignment) for assignment in product(range(len(sizes)), repeat=len(each)))
    assert (unplaced(roles, [node(str(n), size) for n, size in enumerate(sizes)]) is None) == possible


def test_nodes_as_ray_lists_them() -> None:
    listed: list[dict[str, Any]] = [
        {
            "Alive": True,
            "NodeManagerAddress": "10.0.0.1",
            "Resources": {"CPU": 8.0, "GPU": 2.0, "memory": 1e9},
            "Labels": {"pointvg.role": "learner", "ray.io/node-id": "x"},
        },
        {"Alive": False, "NodeManagerAddress": "10.0.0.2", "Resources": {"CPU": 64.0}},
        {"Alive": True, "NodeManagerAddress": "10.0.0.3", "Resources": {}},
    ]
    assert nodes_of(listed) == (Node("10.0.0.1", 8, (1.0, 1.0), "learner"), Node("10.0.0.3", 0))


def test_ranks_are_dealt_node_by_node() -> None:
    assert node_by_node({0: "b", 1: "a", 2: "b", 3: "a"}) == [0, 2, 1, 3]
    assert node_by_node({0: "a"}) == [0]


def test_gpus_and_labels_that_make_no_sense_are_refused() -> None:
    with pytest.raises(ValueError, match=r"gpus=1\.5: a share is of one GPU"):
        config(learner={"gpus": 1.5})
    with pytest.raises(ValueError, match=r"tensor_parallel_size=1 with resources\.rollout\.gpus=2"):
        config(rollout={"gpus": 2})
    with pytest.raises(ValueError, match="label"):
        config(rollout={"place": {"label": "no spaces"}})
