"""The punishment of long replies."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from algorithms.overlong import overlong_penalty


def test_the_paper_s_numbers_by_hand() -> None:
    """16384 tokens and 4096 of buffer (section 3.4): nothing up to 16384, half at 18432, all at 20480 and beyond."""
    lengths = torch.tensor([1, 16384, 17408, 18432, 20480, 30000])
    assert overlong_penalty(lengths, 20480, 4096, 1.0).tolist() == [0.0, 0.0, 0.25, 0.5, 1.0, 1.0]
    assert overlong_penalty(lengths, 20480, 4096, 10.0)[3].item() == 5.0


@given(st.integers(0, 300), st.integers(1, 200), st.integers(1, 200), st.floats(0.1, 10))
def test_against_the_equation(length: int, limit: int, buffer: int, penalty: float) -> None:
    if buffer > limit:
        with pytest.raises(ValueError, match=f"buffer {buffer} and limit {limit}"):
            overlong_penalty(torch.tensor([length]), limit, buffer, penalty)
        return
    if length <= limit - buffer:
        reward = 0.0
    elif length <= limit:
        reward = ((limit - buffer) - length) / buffer
    else:
        reward = -1.0
    assert overlong_penalty(torch.tensor([length]), limit, buffer, penalty).item() == pytest.approx(-penalty * reward)
