"""Batches by their index: every epoch meets every row once."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pit_jax.data.stream import WINDOW, Stream, sequential, whole_batches
from pit_jax.errors import UserError

sizes = st.integers(1, 40)


@given(sizes, sizes, st.integers(0, 5), st.integers(0, 30))
def test_a_batch_needs_no_history(count: int, batch_size: int, seed: int, index: int) -> None:
    arrays = {"x": np.arange(count)}
    walked = Stream(arrays, batch_size=batch_size, seed=seed)
    for step in range(index):
        walked.batch(step)
    resumed = Stream(arrays, batch_size=batch_size, seed=seed)
    np.testing.assert_array_equal(walked.batch(index)["x"], resumed.batch(index)["x"])
    np.testing.assert_array_equal(resumed.rows(index), resumed.batch(index)["x"])


@given(sizes, sizes, st.integers(0, 5))
def test_every_epoch_meets_every_row_once(count: int, batch_size: int, seed: int) -> None:
    stream = Stream({"x": np.arange(count)}, batch_size=batch_size, seed=seed)
    met = np.concatenate([stream.rows(i) for i in range(-(-3 * count // batch_size))])[: 3 * count]
    for epoch in met.reshape(3, count):
        assert sorted(epoch) == list(range(count))


def test_epochs_and_seeds_differ_and_rows_stay_aligned() -> None:
    arrays = {"x": np.arange(100), "y": np.arange(100)[:, None] * np.ones((1, 3), np.int64)}
    stream = Stream(arrays, batch_size=100, seed=0)
    assert stream.rows(0).tolist() != stream.rows(1).tolist()
    assert stream.rows(0).tolist() != Stream(arrays, batch_size=100, seed=1).rows(0).tolist()
    batch = stream.batch(7)
    np.testing.assert_array_equal(batch["x"][:, None] * np.ones((1, 3), np.int64), batch["y"])


@given(sizes, sizes)
def test_sequential_gives_every_row_once_in_whole_batches(count: int, batch_size: int) -> None:
    batches = list(sequential({"x": np.arange(count)}, batch_size))
    assert all(batch["x"].shape == (batch_size,) for batch, _ in batches)
    assert [row for batch, real in batches for row in batch["x"][:real]] == list(range(count))


def test_unusable_input() -> None:
    with pytest.raises(UserError, match="at least one row"):
        Stream({"x": np.zeros(0)}, batch_size=1, seed=0)
    with pytest.raises(UserError, match="batch_size must be at least 1, found 0"):
        Stream({"x": np.zeros(3)}, batch_size=0, seed=0)
    with pytest.raises(AssertionError, match="equal numbers of rows"):
        Stream({"x": np.zeros(3), "y": np.zeros(2)}, batch_size=1, seed=0)


class Lengthy:
    """Rows that know how long they are."""

    def __init__(self, count: int) -> None:
        self.lengths_N = np.random.default_rng(0).integers(1, 100, count)

    def __len__(self) -> int:
        return len(self.lengths_N)

    def batch(self, rows: np.ndarray) -> dict[str, np.ndarray]:
        return {"x": rows}


@given(sizes, st.integers(1, 4), st.integers(0, 5))
def test_grouped_batches_meet_every_row_as_often_as_shuffled_ones(count: int, batch_size: int, seed: int) -> None:
    """Window by window; and each needs no history."""
    grouped, shuffled = (
        Stream(rows, batch_size=batch_size, seed=seed) for rows in (Lengthy(count), {"x": np.arange(count)})
    )
    for window in (2, 0):
        batches = range(window * WINDOW, (window + 1) * WINDOW)
        found, expected = (np.sort(np.concatenate([s.rows(i) for i in batches])) for s in (grouped, shuffled))
        np.testing.assert_array_equal(found, expected)
        np.testing.assert_array_equal(grouped.batch(batches[0])["x"], grouped.rows(batches[0]))


def test_a_grouped_batch_holds_rows_of_like_length_in_no_order_of_batches() -> None:
    rows = Lengthy(8 * WINDOW)
    stream = Stream(rows, batch_size=8, seed=0)
    longest = [int(rows.lengths_N[stream.rows(i)].max()) for i in range(WINDOW)]
    spread = [int(np.ptp(rows.lengths_N[stream.rows(i)])) for i in range(WINDOW)]
    assert max(spread) < 15 and longest != sorted(longest)
    assert stream.rows(0).tolist() != Stream(rows, batch_size=8, seed=1).rows(0).tolist()
    assert stream.rows(0).tolist() != stream.rows(WINDOW).tolist()


def test_whole_batches_hold_the_first_rows() -> None:
    """The longest rows are not the ones that are left out."""
    rows = Lengthy(22)
    assert np.sort(np.concatenate(whole_batches(rows, 5))).tolist() == list(range(20))
    longest = [rows.lengths_N[batch].max() for batch in whole_batches(rows, 5)]
    assert longest == sorted(longest)
    assert np.array(whole_batches({"x": np.arange(22)}, 5)).tolist() == np.arange(20).reshape(4, 5).tolist()


def test_fewer_rows_than_a_batch_are_one_batch_that_all_devices_share_or_stand_equally_often() -> None:
    assert np.array(whole_batches({"x": np.arange(6)}, 8, shards=3)).tolist() == [list(range(6))]
    batches = np.array(whole_batches(Lengthy(6), 8, shards=4))
    assert batches.shape == (3, 8) and np.bincount(batches.ravel()).tolist() == 6 * [4]
