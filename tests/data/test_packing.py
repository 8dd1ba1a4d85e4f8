"""Widths by hand, and against trying all of them; packed rows: each once, none cut, nothing changed but its place."""

from itertools import combinations
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pit_jax.data.features import Example
from pit_jax.data.packing import PackedRows, packed, widths_of
from pit_jax.data.rows import count_tokens
from pit_jax.errors import UserError
from tests.world import StandInData, World

COUNT, WIDTH = 24, 40


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


@pytest.fixture(scope="module")
def examples(world: World) -> list[Example]:
    return world.examples(COUNT)


@pytest.fixture(scope="module")
def data(world: World, examples: list[Example]) -> StandInData:
    return StandInData(world, {"sft": examples})


@settings(deadline=None, max_examples=100)
@given(st.lists(st.integers(1, 12), min_size=1, max_size=60), st.integers(12, 40))
def test_every_row_is_packed_once_and_none_overflows(lengths: list[int], width: int) -> None:
    members = packed(np.array(lengths), width)
    assert sorted(number for row in members for number in row.tolist()) == list(range(len(lengths)))
    sums = [sum(lengths[number] for number in row) for row in members]
    assert max(sums) <= width
    halves = sorted(sums)[:2]
    assert len(sums) == 1 or sum(halves) > width, "no two packed rows would fit into one"


@pytest.mark.parametrize(
    ("lengths", "width", "expected"),
    [
        ([4, 3, 3, 2], 6, [[0, 3], [1, 2]]),  # 4 + 2 and 3 + 3
        ([5, 5, 5], 5, [[0], [1], [2]]),
        ([1, 1, 1, 1, 1], 2, [[0, 3], [1, 4], [2]]),
        ([2, 7, 3, 5], 10, [[1, 2], [3, 0]]),  # 3 goes where it leaves nothing, though 5 came last
    ],
)
def test_packed_by_hand(lengths: list[int], width: int, expected: list[list[int]]) -> None:
    assert [row.tolist() for row in packed(np.array(lengths), width)] == expected


def test_a_million_rows_are_packed_with_little_left() -> None:
    """Lengths as those of chats, most of them short."""
    lengths = np.minimum(np.random.default_rng(0).lognormal(5.0, 0.8, 200_000).astype(int) + 1, 1024)
    members = packed(lengths, 1024)
    assert 1 - lengths.sum() / (1024 * len(members)) < 0.01


@pytest.mark.parametrize("kind", ["sft-policy", "sft-improver"])
def test_a_packed_row_is_its_rows_one_behind_the_other(data: StandInData, world: World, kind: str) -> None:
    rows = data.rows("sft", kind)
    several, whole = PackedRows(rows, WIDTH), rows.whole()
    assert 2 < len(several) < COUNT and several.lengths_N is None
    picked = np.array([1, 0, len(several) - 1])
    batch = {name: np.asarray(column) for name, column in several.batch(picked).items()}
    assert batch.keys() == whole.keys() and {x.shape for x in batch.values()} == {(3, WIDTH)}
    for b, row in enumerate(picked.tolist()):
        start = 0
        for segment, number in enumerate(several.members[row].tolist(), 1):
            real = whole["segments_BL"][number] > 0
            stop = start + int(real.sum())
            assert (batch["segments_BL"][b, start:stop] == segment).all()
            for name in batch.keys() - {"segments_BL"}:
                np.testing.assert_array_equal(batch[name][b, start:stop], whole[name][number][real], name)
            start = stop
        assert not batch["segments_BL"][b, start:].any() and not batch["mask_BL"][b, start:].any()
        assert (batch["tokens_BL"][b, start:] == world.pad_id).all()
    assert count_tokens(several, picked) == (batch["segments_BL"] > 0).sum()
    everything = several.batch(np.arange(len(several)))
    assert several.padding == pytest.approx((np.asarray(everything["segments_BL"]) == 0).mean())
    most = int(np.asarray(everything["mask_BL"]).sum(axis=1).max())
    assert several.most(rows.tokens_of("chosen") + 1) == most, "an answer and its EOS count in the loss"


def test_a_host_reads_its_own_rows(data: StandInData) -> None:
    column: Any = PackedRows(data.rows("sft", "sft-policy"), WIDTH).batch(np.array([2, 0, 1]))["tokens_BL"]
    np.testing.assert_array_equal(column[1:3], np.asarray(column)[1:3])
    np.testing.assert_array_equal(column[1:2, 3:9], np.asarray(column)[1:2, 3:9])


def test_a_width_that_a_row_does_not_fit_is_refused(data: StandInData) -> None:
    rows = data.rows("sft", "sft-improver")
    longest = int((rows.whole()["segments_BL"] > 0).sum(axis=1).max())
    with pytest.raises(UserError, match=rf"packed-width={longest - 1}: the longest row of sft-improver has {longest}"):
        PackedRows(rows, longest - 1)
    assert len(PackedRows(rows, longest)) <= COUNT
