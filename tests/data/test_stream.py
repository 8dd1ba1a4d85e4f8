"""Batches by their index: every epoch meets every row once."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pit_jax.data.stream import Stream, sequential
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
