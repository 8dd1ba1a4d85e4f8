"""The order in which rows are met: a pure function of (seed, batch index), so a data position is a number.

Where rows have more than one width, a batch of rows drawn at random would nearly always be as wide as the widest. So
the shuffled rows are cut into windows of WINDOW batches, each window is sorted by length and cut into batches, and
these are shuffled. Larger windows save more padding and make the rows of a batch more alike in length, which makes
gradients noisier; which batches meet in a window is still a matter of chance. The rows of a window that reaches over
the end of an epoch are mixed with the first ones of the next.
"""

import math
from collections.abc import Iterator, Mapping
from functools import lru_cache
from typing import Any

import numpy as np

from pit_jax.data.rows import Rows, as_rows
from pit_jax.errors import UserError

WINDOW = 32  # batches
_GROUPING = 1  # tells the draws of a window from those of an epoch


class Stream:
    """Endless batches over rows, reshuffled every epoch; batch `index` needs no history."""

    def __init__(self, rows: Rows | Mapping[str, np.ndarray], *, batch_size: int, seed: int) -> None:
        """Raises UserError for a batch size below 1 or for no rows."""
        self._rows = as_rows(rows)
        self._batch_size, self._seed = batch_size, seed
        self._count = len(self._rows)
        if batch_size < 1:
            raise UserError(f"batch_size must be at least 1, found {batch_size}")
        if not self._count:
            raise UserError("a stream needs at least one row, found none")
        self._order = lru_cache(maxsize=2)(lambda epoch: np.random.default_rng((seed, epoch)).permutation(self._count))
        self._window = lru_cache(maxsize=2)(self._grouped)

    def rows(self, index: int) -> np.ndarray:
        """Row numbers [batch_size] of batch `index`; batches run on across epochs, each epoch meets every row once."""
        if self._rows.lengths_N is None:
            return self._shuffled(index * self._batch_size, self._batch_size)
        window, place = divmod(index, WINDOW)
        rows: np.ndarray = self._window(window)[place]
        return rows

    def batch(self, index: int) -> dict[str, Any]:
        """The fields of the rows at `rows(index)`."""
        return dict(self._rows.batch(self.rows(index)))

    def _shuffled(self, start: int, count: int) -> np.ndarray:
        positions = start + np.arange(count, dtype=np.int64)
        epochs, offsets = np.divmod(positions, self._count)
        rows = np.empty(count, np.int64)
        for epoch in np.unique(epochs):
            here = epochs == epoch
            rows[here] = self._order(int(epoch))[offsets[here]]
        return rows

    def _grouped(self, window: int) -> np.ndarray:
        """Row numbers [WINDOW, batch_size] of a window, rows of like length in one batch."""
        lengths_N, size = self._rows.lengths_N, WINDOW * self._batch_size
        assert lengths_N is not None
        rows = self._shuffled(window * size, size)
        by_length = rows[np.argsort(lengths_N[rows], kind="stable")].reshape(WINDOW, self._batch_size)
        return np.random.default_rng((self._seed, window, _GROUPING)).permutation(by_length)


def sequential(rows: Rows | Mapping[str, np.ndarray], batch_size: int) -> Iterator[tuple[dict[str, Any], int]]:
    """(batch, number of real rows) once over all rows in order; the last batch repeats its last row to stay whole."""
    source = as_rows(rows)
    count = len(source)
    for start in range(0, count, batch_size):
        numbers = np.minimum(np.arange(start, start + batch_size), count - 1)
        yield dict(source.batch(numbers)), min(batch_size, count - start)


def whole_batches(rows: Rows | Mapping[str, np.ndarray], batch_size: int, shards: int = 1) -> list[np.ndarray]:
    """Row numbers of as many whole batches as the first rows fill, rows of like length in one batch.

    Fewer rows than a batch are one batch of them all. Where `shards` devices cannot share that evenly, they are
    batches of `batch_size` in which every row stands equally often, so that means are those of the rows.
    """
    source = as_rows(rows)
    count = len(source)
    size = count if count < batch_size and count % shards == 0 else batch_size
    numbers = np.arange(math.lcm(count, size) if count < size else count // size * size) % count
    if source.lengths_N is not None:
        numbers = numbers[np.argsort(source.lengths_N[numbers], kind="stable")]
    return list(numbers.reshape(-1, size))
