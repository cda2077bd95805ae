"""Labels and strategies as Ray itself takes them, on one labelled node."""

import pytest
import ray

from actors.group import ActorGroup, GroupError, Limits
from orchestrator.roles.local_ray import start_local
from orchestrator.roles.placement import RolePlan, nodes_of, unplaced
from schemas.config.resources import Place, Role

pytestmark = pytest.mark.cluster


class Seat:
    """An actor that knows its rank."""

    def __init__(self, rank: int) -> None:
        self._rank = rank

    def rank(self) -> int:
        return self._rank


def test_a_role_runs_on_the_nodes_with_its_label_and_on_no_others() -> None:
    start_local(num_cpus=3, labels={"pointvg.role": "learner"}, include_dashboard=False, log_to_driver=False)
    try:

        def spawn(place: Place, timeout_s: float) -> ActorGroup:
            return ActorGroup.spawn(
                "learner",
                Seat,
                Role(count=2, place=place),
                1,
                arguments=lambda rank: (rank,),
                limits=Limits(start_s=timeout_s, call_s=60, silence_s=60),
            )

        here = Place(label="learner", strategy="STRICT_PACK")
        group = spawn(here, 60)
        assert group.call(Seat.rank) == [0, 1]
        group.stop()
        elsewhere = Place(label="rollout")
        with pytest.raises(GroupError, match=r"learner rank\(s\) 0, 1: start: late: no room for 2 x"):
            spawn(elsewhere, 3)
        nodes = nodes_of(ray.nodes())
        assert unplaced([RolePlan("learner", 2, 1, 0, 1, here)], nodes) is None
        assert "room for 0 of 2" in str(unplaced([RolePlan("learner", 2, 1, 0, 1, elsewhere)], nodes))
    finally:
        ray.shutdown()
