"""Widths by hand, and against trying all of them."""

from itertools import combinations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pit_jax.data.widths import widths_of


def padded(lengths: list[int], widths: tuple[int, ...]) -> int:
    return sum(min(width for width in widths if width >= length) for length in lengths)


@pytest.mark.parametrize(
    ("lengths", "most", "expected"),
    [
        ([3, 5, 30], 1, (32,)),
        ([3, 5, 30], 2, (8, 32)),
        ([3, 5, 30], 9, (8, 32)),
        ([30], 4, (32,)),
        ([100, 900, 3610, 3610], 3, (128, 1024, 3616)),
        ([16, 16, 16, 24, 32], 2, (16, 32)),
    ],
)
def test_by_hand(lengths: list[int], most: int, expected: tuple[int, ...]) -> None:
    assert widths_of(np.array(lengths), most) == expected


@given(st.lists(st.integers(1, 80), min_size=1, max_size=12), st.integers(1, 4))
def test_no_other_widths_waste_less(lengths: list[int], most: int) -> None:
    widths = widths_of(np.array(lengths), most)
    assert len(widths) <= most and widths == tuple(sorted(set(widths)))
    assert widths[-1] == -(-max(lengths) // 8) * 8
    below = range(8, widths[-1], 8)
    best = min(padded(lengths, (*chosen, widths[-1])) for n in range(most) for chosen in combinations(below, n))
    assert padded(lengths, widths) == best
