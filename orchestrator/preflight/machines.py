"""Whether the roles find room on the cluster, or on this machine where there is none."""

from __future__ import annotations

import os
from collections.abc import Sequence

import ray

from orchestrator.preflight.host_resources import this_machine
from orchestrator.preflight.problem import Findings, Problem
from orchestrator.roles.cluster import connect
from orchestrator.roles.placement import REMEDY, Node, RolePlan, count_field, nodes_of, role_plans, unplaced
from schemas.config import SftConfig, SftResources, TrainConfig


def check_machines(config: TrainConfig | SftConfig, nodes: Sequence[Node], *, starts_here: bool) -> Findings:
    """Looks for room for every role on `nodes`, those of the cluster; () where there is none.

    With `starts_here` False the run is to start elsewhere: without a cluster, too small a machine is no problem.
    """
    plans = role_plans(config)
    several = ("files: each node is asked whether it sees run folder, model and images when the run starts",)
    found = Findings(notes=() if nodes else _turns(plans), unchecked=several if len(nodes) > 1 else ())
    shortage = unplaced(plans, nodes or [this_machine(config)])
    if shortage is None:
        return found
    if nodes and config.resources.autoscaled:
        later = f"machines: resources.autoscaled=true, and more nodes must come before the start ({shortage})"
        return found + Findings(unchecked=(later,))
    if not nodes and not starts_here:
        elsewhere = (
            "machines: RAY_ADDRESS names no cluster, and this machine, where the run would start, cannot hold the "
            f"roles ({shortage}). Check again with RAY_ADDRESS set"
        )
        return found + Findings(unchecked=(elsewhere,))
    return found + Findings(room_problems(plans, nodes or [this_machine(config)], "cluster" if nodes else "machine"))


def _turns(plans: Sequence[RolePlan]) -> tuple[str, ...]:
    """That what Ray counts are not cores, where the roles of a local run reserve more than there are."""
    reserved, cores = sum(plan.count * plan.cpus for plan in plans), os.cpu_count() or 1
    if reserved <= cores:
        return ()
    return (f"machine      {cores} cores for {reserved:g} logical CPUs that the roles reserve: they take turns",)


def room_problems(plans: Sequence[RolePlan], nodes: Sequence[Node], where: str = "cluster") -> tuple[Problem, ...]:
    """The role that finds no room, by the setting that says how many processes it has."""
    shortage = unplaced(plans, nodes)
    if shortage is None:
        return ()
    reason = f"the {where} cannot hold the roles: {shortage}"
    return (Problem(count_field(shortage.role), shortage.count, reason, REMEDY),)


def cluster_nodes(resources: SftResources) -> tuple[Node, ...]:
    """The machines of the cluster that this process has joined, or that RAY_ADDRESS names; () without one.

    Joins such a cluster, as the run will.
    """
    if not ray.is_initialized():
        if not os.environ.get("RAY_ADDRESS"):
            return ()
        connect(resources)
    return nodes_of(ray.nodes())
