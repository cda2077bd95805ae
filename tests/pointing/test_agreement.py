"""How sure several answers are together."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pointing.agreement import SAME, Agreement, agreement
from pointing.geometry import iou

sides = st.floats(0, 100)
boxes = st.none() | st.tuples(sides, sides, sides, sides)


@pytest.mark.parametrize(
    ("answers", "expected"),
    [
        ([None], Agreement(0, 1.0)),
        ([None, (0, 0, 4, 4), None, None], Agreement(0, 0.75)),
        ([(9, 9, 10, 10), (0, 0, 4, 4), (0, 0, 4, 5)], Agreement(1, 2 / 3)),  # IoU .8
        ([(0, 0, 4, 8), (0, 0, 4, 4), (0, 0, 4, 5)], Agreement(2, 1.0)),  # .5, .625, .8: all agree with all
        ([(0, 0, 0, 0)] * 3, Agreement(0, 1 / 3)),  # boxes without area agree with none but themselves
    ],
)
def test_worked_by_hand(answers: list[tuple[float, ...] | None], expected: Agreement) -> None:
    assert agreement(answers) == expected  # pyright: ignore[reportArgumentType]


@given(st.lists(boxes, min_size=1, max_size=8))
def test_the_best_is_one_that_no_other_has_more_with_it(
    answers: list[tuple[float, float, float, float] | None],
) -> None:
    found = agreement(answers)

    def count(number: int) -> int:
        one, others = answers[number], answers[:number] + answers[number + 1 :]
        if one is None:
            return 1 + others.count(None)
        return 1 + sum(other is not None and iou(one, other) >= SAME for other in others)

    assert found.share == count(found.best) / len(answers)
    assert count(found.best) == max(count(number) for number in range(len(answers)))


def test_no_answer_is_refused() -> None:
    with pytest.raises(ValueError, match="no answer"):
        agreement([])
