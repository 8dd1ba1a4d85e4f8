"""Who sees whom in each kind of row, where positions start, and what a window leaves visible."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pit_jax.batch import NODE_PARENTS
from pit_jax.model.rows import NO_TOKEN, Continuation, Rows, Sequences, Tree, near, visible

SLOTS = 6


def table(seen: jax.Array) -> list[list[list[bool]]]:
    return np.asarray(seen).tolist()


def marks(largest: int, slots: int) -> st.SearchStrategy[list[list[int]]]:
    """Two rows of segments or nodes, in any order."""
    return st.lists(st.lists(st.integers(0, largest), min_size=slots, max_size=slots), min_size=2, max_size=2)


@settings(deadline=None, max_examples=30)
@given(marks(3, SLOTS))
def test_a_token_sees_its_own_segment_up_to_itself(rows: list[list[int]]) -> None:
    segments_BL = jnp.asarray(rows, jnp.int32)
    visible_BLS = np.asarray(visible(Sequences(jnp.zeros_like(segments_BL), segments_BL)))
    for b, row in enumerate(rows):
        for i in range(SLOTS):
            for j in range(SLOTS):
                assert visible_BLS[b, i, j] == (j <= i and row[i] == row[j] != 0)


@settings(deadline=None, max_examples=30)
@given(marks(7, 8))
def test_a_tree_token_sees_its_ancestors_only(rows: list[list[int]]) -> None:
    nodes_BL = jnp.asarray(rows, jnp.int32)
    visible_BLS = np.asarray(visible(Tree(jnp.zeros_like(nodes_BL), nodes_BL)))
    for b, row in enumerate(rows):
        for i in range(8):
            for j in range(8):
                assert visible_BLS[b, i, j] == (j <= i and row[j] in NODE_PARENTS.get(row[i], ()))


@settings(deadline=None, max_examples=30)
@given(st.lists(st.permutations(range(NO_TOKEN, SLOTS - 1)), min_size=2, max_size=2), st.integers(0, 3))
def test_a_continuation_sees_the_positions_up_to_its_own(held: list[list[int]], first: int) -> None:
    """Three tokens, over a cache whose slots hold positions in any order, and one no token."""
    own_L = [first, first + 1, first + 2]
    rows = Continuation(jnp.asarray([own_L, own_L], jnp.int32), jnp.asarray(held, jnp.int32), jnp.int32(0))
    visible_BLS = np.asarray(visible(rows))
    assert visible_BLS.shape == (2, 3, SLOTS)
    for b in range(2):
        for i in range(3):
            assert visible_BLS[b, i].tolist() == [0 <= position <= own_L[i] for position in held[b]]


def test_positions_count_real_tokens_whatever_the_padding_side() -> None:
    segments_BL = jnp.asarray([[1, 1, 1, 0, 0], [0, 0, 1, 1, 1], [0, 1, 1, 0, 1], [0, 0, 0, 0, 0]], jnp.int32)
    rows = Sequences.alone(segments_BL)
    positions_BL = np.asarray(rows.positions_BL)
    assert [row[mask].tolist() for row, mask in zip(positions_BL, np.asarray(segments_BL) > 0, strict=True)] == [
        [0, 1, 2],
        [0, 1, 2],
        [0, 1, 2],
        [],
    ]
    assert (positions_BL >= 0).all() and positions_BL.dtype == np.int32
    assert rows.segments_BL is segments_BL


def test_a_window_counts_positions() -> None:
    """Window 2: a token and the one before it. In a tree the one before lies along the branch, not in the row."""
    positions_BL = jnp.asarray([[0, 1, 2, 1, 2]], jnp.int32)
    expected = [[p - q < 2 for q in (0, 1, 2, 1, 2)] for p in (0, 1, 2, 1, 2)]
    nodes_BL = jnp.asarray([[1, 2, 2, 3, 3]], jnp.int32)
    either: list[Rows] = [Sequences(positions_BL, jnp.ones_like(nodes_BL)), Tree(positions_BL, nodes_BL)]
    assert [table(near(rows, 2))[0] for rows in either] == [expected, expected]
    seen = near(Tree(positions_BL, nodes_BL), 2) & visible(Tree(positions_BL, nodes_BL))
    assert table(seen)[0][4] == [False, False, False, True, True], "beside the trunk, two deep in the other branch"
    held = [7, 8, 4, 5, 6]  # a ring that has come round
    piece = Continuation(jnp.asarray([[7, 8]], jnp.int32), jnp.asarray([held], jnp.int32), jnp.int32(2))
    assert table(near(piece, 2))[0] == [
        [7 - position < 2 for position in held],
        [8 - position < 2 for position in held],
    ]


@pytest.mark.parametrize("prefilled", [1, 4])
def test_a_continuation_of_left_padded_rows_is_the_end_of_the_whole(prefilled: int) -> None:
    """Cut after any slot, the pieces see what the tokens of the whole row see."""
    segments_BL = jnp.asarray([[0, 0, 1, 1, 1], [1, 1, 1, 1, 1]], jnp.int32)
    whole, real_BS = Sequences.alone(segments_BL), segments_BL > 0
    held_BS = jnp.where(real_BS, whole.positions_BL, NO_TOKEN)
    piece = Continuation(whole.positions_BL[:, prefilled:], held_BS, jnp.int32(prefilled))
    own_BL = np.asarray(real_BS)[:, prefilled:]
    for of_rows in (visible, lambda rows: near(rows, 2) & visible(rows)):
        found, expected = np.asarray(of_rows(piece)), np.asarray(of_rows(whole))[:, prefilled:]
        np.testing.assert_array_equal(found[own_BL], expected[own_BL])


def test_rows_of_every_kind_pass_through_jit() -> None:
    """They are pytrees: the kind decides the program, and what they hold is traced."""
    shape = (2, 3)
    kinds: list[Rows] = [
        Sequences(jnp.zeros(shape, jnp.int32), jnp.ones(shape, jnp.int32)),
        Tree(jnp.zeros(shape, jnp.int32), jnp.ones(shape, jnp.int32)),
        Continuation(jnp.zeros(shape, jnp.int32), jnp.ones((2, 5), jnp.int32), jnp.int32(1)),
    ]
    compiled: Any = jax.jit(visible)
    for rows in kinds:
        np.testing.assert_array_equal(compiled(rows), visible(rows))
    compiled(Continuation(jnp.ones(shape, jnp.int32), jnp.zeros((2, 5), jnp.int32), jnp.int32(2)))
    assert compiled._cache_size() == 3
