"""One tensor of a checkpoint and the parameters it holds: torch keeps a matrix as [out, in], ours is [in, out].

`read` and `write` undo each other, move numbers and change none.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class Entry:
    """`theirs` is a name with {layer} where every layer has such a tensor; `ours` the paths of what it holds."""

    theirs: str
    ours: tuple[str, ...]
    read: Callable[[np.ndarray], tuple[np.ndarray, ...]]
    write: Callable[[Sequence[np.ndarray]], np.ndarray]

    @property
    def layered(self) -> bool:
        return "{layer}" in self.theirs


def same(theirs: str, ours: str) -> Entry:
    """An embedding, a bias or a norm."""
    return Entry(theirs, (ours,), lambda x: (x,), lambda parts: parts[0])


def row(theirs: str, ours: str) -> Entry:
    """A matrix of one row, [1, D] -> [D]."""
    return Entry(theirs, (ours,), lambda x: (x[0],), lambda parts: parts[0][None])


def linear(theirs: str, ours: str) -> Entry:
    return Entry(theirs, (ours,), lambda x: (x.T,), lambda parts: parts[0].T)


def heads(theirs: str, ours: str, count: int, size: int) -> Entry:
    """[heads * size, D] -> [D, heads, size]."""

    def read(x: np.ndarray) -> tuple[np.ndarray, ...]:
        return (x.T.reshape(x.shape[1], count, size),)

    return Entry(theirs, (ours,), read, lambda parts: parts[0].reshape(-1, count * size).T)


def heads_out(theirs: str, ours: str, count: int, size: int) -> Entry:
    """[D, heads * size] -> [heads, size, D]."""

    def read(x: np.ndarray) -> tuple[np.ndarray, ...]:
        return (x.T.reshape(count, size, x.shape[0]),)

    return Entry(theirs, (ours,), read, lambda parts: parts[0].reshape(count * size, -1).T)


def heads_bias(theirs: str, ours: str, count: int, size: int) -> Entry:
    """[heads * size] -> [heads, size]."""
    return Entry(theirs, (ours,), lambda x: (x.reshape(count, size),), lambda parts: parts[0].reshape(-1))


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

    return Entry(theirs, tuple(ours), read, write)
