"""Repeated n-grams: worked out by hand, and counted again with a set."""

from functools import partial

import jax
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pit_jax.inference.repetition import repeated_ngrams

SLOT = 9
shares = jax.jit(repeated_ngrams, static_argnames="n")


def padded(rows: list[list[int]], junk: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Tokens and mask; slots after a row's end hold `junk`."""
    mask_BT = np.arange(SLOT) < np.array([len(row) for row in rows])[:, None]
    tokens_BT = np.array([row + [junk] * (SLOT - len(row)) for row in rows], np.int32)
    return tokens_BT, mask_BT


@pytest.mark.parametrize(
    ("row", "n", "share"),
    [
        ([5, 6, 5, 6, 5, 6], 2, 3 / 5),  # 56 65 56 65 56: two distinct of five
        ([5, 6, 5, 6, 5, 6], 3, 2 / 4),  # 565 656 565 656
        ([7, 7, 7, 7], 2, 2 / 3),
        ([7, 7, 7, 7], 1, 3 / 4),
        ([5, 6, 7, 8, 5, 6, 7], 3, 1 / 5),  # 567 678 785 856 567
        ([5, 6, 7, 8, 9], 2, 0.0),
        ([1, 23, 12, 3], 2, 0.0),  # 1-23 and 12-3 are not the same, however they are written together
        ([5, 5], 3, 0.0),  # shorter than an n-gram
        ([], 2, 0.0),
    ],
)
def test_shares_worked_out_by_hand(row: list[int], n: int, share: float) -> None:
    np.testing.assert_allclose(shares(*padded([row]), n=n), [share], rtol=1e-6)


@settings(deadline=None, max_examples=50)
@given(
    st.lists(st.lists(st.integers(0, 2), max_size=SLOT), min_size=4, max_size=4), st.integers(0, 2), st.integers(1, 4)
)
def test_it_counts_as_a_set_does_whatever_lies_in_the_padding(rows: list[list[int]], junk: int, n: int) -> None:
    found_B = shares(*padded(rows, junk), n=n)
    for found, row in zip(found_B, rows, strict=True):
        grams = [tuple(row[i : i + n]) for i in range(len(row) - n + 1)]
        np.testing.assert_allclose(found, 1 - len(set(grams)) / len(grams) if grams else 0.0, rtol=1e-6)


def test_left_padding_and_a_slot_shorter_than_an_ngram() -> None:
    tokens_BT, mask_BT = padded([[5, 6, 5, 6, 5, 6]])
    np.testing.assert_array_equal(
        shares(tokens_BT[:, ::-1], mask_BT[:, ::-1], n=2), shares(tokens_BT, mask_BT, n=2), strict=True
    )
    short = partial(shares, tokens_BT[:, :2], mask_BT[:, :2])
    np.testing.assert_array_equal(short(n=3), np.zeros(1, np.float32))
