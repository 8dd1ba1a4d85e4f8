"""The order in which rows are met: a pure function of (seed, batch index), so a data position is a number."""

from collections.abc import Iterator, Mapping
from functools import lru_cache

import numpy as np

from pit_jax.errors import UserError


class Stream:
    """Endless batches over row-aligned arrays [rows, ...], reshuffled every epoch; batch `index` needs no history."""

    def __init__(self, arrays: Mapping[str, np.ndarray], *, batch_size: int, seed: int) -> None:
        """Raises UserError for a batch size below 1 or for no rows."""
        self._arrays = dict(arrays)
        self._batch_size = batch_size
        self._count = _row_count(self._arrays)
        if batch_size < 1:
            raise UserError(f"batch_size must be at least 1, found {batch_size}")
        if not self._count:
            raise UserError("a stream needs at least one row, found none")
        self._order = lru_cache(maxsize=2)(lambda epoch: np.random.default_rng((seed, epoch)).permutation(self._count))

    def rows(self, index: int) -> np.ndarray:
        """Row numbers [batch_size] of batch `index`; batches run on across epochs, each epoch meets every row once."""
        positions = index * self._batch_size + np.arange(self._batch_size, dtype=np.int64)
        epochs, offsets = np.divmod(positions, self._count)
        rows = np.empty(self._batch_size, np.int64)
        for epoch in np.unique(epochs):
            here = epochs == epoch
            rows[here] = self._order(int(epoch))[offsets[here]]
        return rows

    def batch(self, index: int) -> dict[str, np.ndarray]:
        """The arrays at `rows(index)`."""
        rows = self.rows(index)
        return {name: array[rows] for name, array in self._arrays.items()}


def sequential(arrays: Mapping[str, np.ndarray], batch_size: int) -> Iterator[tuple[dict[str, np.ndarray], int]]:
    """(batch, number of real rows) once over all rows in order; the last batch repeats its last row to stay whole."""
    count = _row_count(arrays)
    for start in range(0, count, batch_size):
        rows = np.minimum(np.arange(start, start + batch_size), count - 1)
        yield {name: array[rows] for name, array in arrays.items()}, min(batch_size, count - start)


def _row_count(arrays: Mapping[str, np.ndarray]) -> int:
    counts = {len(array) for array in arrays.values()}
    assert len(counts) == 1, f"arrays of one stream need equal numbers of rows, found {sorted(counts)}"
    return counts.pop()
