"""One tensor of a checkpoint and the parameters it holds: torch keeps a matrix as [out, in], ours is [in, out].

`read` and `write` undo each other, move numbers and change none.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class Entry:
    """`theirs` is a name, with {layer} where every layer has such a tensor and {expert} where every expert of it has;
    `ours` are the paths of what it holds, and `rows` its rows of each, where they do not lie as ours do."""

    theirs: str
    ours: tuple[str, ...]
    read: Callable[[np.ndarray], tuple[np.ndarray, ...]]
    write: Callable[[Sequence[np.ndarray]], np.ndarray]
    rows: tuple[int, ...] = ()

    @property
    def stacks(self) -> int:
        """How many leading axes of ours count such tensors."""
        return ("{layer}" in self.theirs) + ("{expert}" in self.theirs)

    def places(self, shape: Sequence[int]) -> Iterator[tuple[str, tuple[int, ...]]]:
        """(name, index) of each tensor, and where it lies in parameters of this shape."""
        for index in np.ndindex(*shape[: self.stacks]):
            yield self.theirs.format(**dict(zip(("layer", "expert"), index, strict=False))), index


def same(theirs: str, ours: str) -> Entry:
    """An embedding, a bias or a norm."""
    return Entry(theirs, (ours,), lambda x: (x,), lambda parts: parts[0])


def row(theirs: str, ours: str) -> Entry:
    """A matrix of one row, [1, D] -> [D]."""
    return Entry(theirs, (ours,), lambda x: (x[0],), lambda parts: parts[0][None])


def linear(theirs: str, ours: str) -> Entry:
    return Entry(theirs, (ours,), lambda x: (x.T,), lambda parts: parts[0].T)


def heads(theirs: str, ours: str, count: int, size: int, *, pairs: int = 0) -> Entry:
    """[heads * size, D] -> [D, heads, size].

    Of so many pairs of neighbours that are rotated together, all first ones come before all second ones, as in `rope`.
    """
    order = _halves(pairs, size)

    def read(x: np.ndarray) -> tuple[np.ndarray, ...]:
        return (_ordered(x.T.reshape(x.shape[1], count, size), order),)

    def write(parts: Sequence[np.ndarray]) -> np.ndarray:
        return _ordered(parts[0], np.argsort(order)).reshape(-1, count * size).T

    return Entry(theirs, (ours,), read, write, (count * size,) if pairs else ())


def _halves(pairs: int, size: int) -> np.ndarray:
    """Numbers of components: the first of every pair, the second ones, and those in no pair."""
    return np.concatenate([np.arange(0, 2 * pairs, 2), np.arange(1, 2 * pairs, 2), np.arange(2 * pairs, size)])


def _ordered(x: np.ndarray, order: np.ndarray) -> np.ndarray:
    return x if np.array_equal(order, np.arange(len(order))) else x[..., order]


def heads_out(theirs: str, ours: str, count: int, size: int) -> Entry:
    """[D, heads * size] -> [heads, size, D]."""

    def read(x: np.ndarray) -> tuple[np.ndarray, ...]:
        return (x.T.reshape(count, size, x.shape[0]),)

    return Entry(theirs, (ours,), read, lambda parts: parts[0].reshape(count * size, -1).T)


def heads_bias(theirs: str, ours: str, count: int, size: int, *, pairs: int = 0) -> Entry:
    """[heads * size] -> [heads, size]; `pairs` as for `heads`."""
    order = _halves(pairs, size)

    def read(x: np.ndarray) -> tuple[np.ndarray, ...]:
        return (_ordered(x.reshape(count, size), order),)

    return Entry(theirs, (ours,), read, lambda parts: _ordered(parts[0], np.argsort(order)).reshape(-1))


def joined(theirs: str, parts: Sequence[Entry], rows: tuple[int, ...]) -> Entry:
    """Tensors below one another in one: so many rows of each."""

    def read(x: np.ndarray) -> tuple[np.ndarray, ...]:
        pieces = np.split(x, np.cumsum(rows)[:-1])
        return tuple(ours for part, piece in zip(parts, pieces, strict=True) for ours in part.read(piece))

    def write(values: Sequence[np.ndarray]) -> np.ndarray:
        return np.concatenate([part.write([value]) for part, value in zip(parts, values, strict=True)])

    return Entry(theirs, tuple(part.ours[0] for part in parts), read, write, rows)


def fused_heads(theirs: str, ours: Sequence[str], count: int, size: int) -> Entry:
    """Query, key and value of each head after one another, as in GPT-NeoX: [heads * 3 * size, D] -> 3 x [D, heads,
    size], or their biases: [heads * 3 * size] -> 3 x [heads, size]."""

    def read(x: np.ndarray) -> tuple[np.ndarray, ...]:
        split = np.moveaxis(x.reshape(count, 3, size, *x.shape[1:]), 1, 0)
        return tuple(np.moveaxis(part, 2, 0) if part.ndim == 3 else part for part in split)

    def write(parts: Sequence[np.ndarray]) -> np.ndarray:
        turned = [np.moveaxis(part, 0, 2) if part.ndim == 3 else part for part in parts]
        stacked = np.stack(turned, axis=1)
        return stacked.reshape(count * 3 * size, *stacked.shape[3:])

    return Entry(theirs, tuple(ours), read, write, (count * size,) * 3)
