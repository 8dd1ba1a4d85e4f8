"""Rows of one kind, padded when a batch is asked for, to the smallest width that holds it.

A batch names its rows and says their shapes; a shard's rows are read when the shard is, so that a host reads its own.
The width of a batch is a function of the lengths of its rows alone: every host finds the same.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property, lru_cache
from typing import Any, Protocol, runtime_checkable

import numpy as np

from pit_jax.data.features import FEATURES, Arrays, Example, Layout, build, real_tokens, row_lengths
from pit_jax.data.ragged import Ragged


class Rows(Protocol):
    """What batches are drawn from."""

    @property
    def lengths_N(self) -> np.ndarray | None:
        """Tokens of each row where batches are to be grouped by them; None where all rows are equally wide."""

    def __len__(self) -> int: ...

    def batch(self, rows: np.ndarray) -> Mapping[str, Any]:
        """The fields of a batch of these row numbers: arrays, or what gives them when a part is asked for."""


@dataclass(frozen=True)
class ArrayRows:
    """Rows of arrays [rows, ..] in memory."""

    arrays: Mapping[str, np.ndarray]
    lengths_N: None = None

    def __len__(self) -> int:
        counts = {len(array) for array in self.arrays.values()}
        assert len(counts) == 1, f"arrays of one stream need equal numbers of rows, found {sorted(counts)}"
        return counts.pop()

    def batch(self, rows: np.ndarray) -> Arrays:
        """The arrays at `rows`."""
        return {name: array[rows] for name, array in self.arrays.items()}


def as_rows(rows: Rows | Mapping[str, np.ndarray]) -> Rows:
    """Arrays by name, [rows, ..] each, as rows; rows as they are."""
    return ArrayRows(rows) if isinstance(rows, Mapping) else rows


@dataclass(frozen=True)
class StoredRows:
    """The rows of a kind in a fold of prepared data."""

    kind: str
    layout: Layout
    tokens: Ragged  # a row for each of the FEATURES of every example
    margins: np.ndarray  # [examples] f32
    numbers: np.ndarray  # [rows], the example of each row

    def __len__(self) -> int:
        return len(self.numbers)

    def first(self, count: int) -> "StoredRows":
        """The first `count` rows, or all where there are fewer."""
        return replace(self, numbers=self.numbers[:count])

    def picked(self, rows: np.ndarray) -> "StoredRows":
        """These rows alone."""
        return replace(self, numbers=self.numbers[rows])

    def fitting(self) -> "StoredRows":
        """Those that the layout holds: the width of its rows, and its slot for an answer and its EOS."""
        lengths, layout = self.feature_lengths, self.layout
        lengths_N = row_lengths(self.kind, lengths, len(layout.suffix))
        answers_N = lengths[:, FEATURES.index("chosen") :].max(axis=1)
        fits_N = (lengths_N <= layout.row_lengths[self.kind]) & (answers_N < layout.response_slot)
        return self.picked(np.flatnonzero(fits_N))

    def joined(self, other: "StoredRows") -> "StoredRows":
        """These rows, then others of their kind that fit their layout: a copy of both in memory."""
        numbers = np.concatenate([self.numbers, len(self.margins) + other.numbers])
        margins = np.concatenate([self.margins, other.margins])
        return replace(self, tokens=self.tokens.joined(other.tokens), margins=margins, numbers=numbers)

    def tokens_of(self, name: str) -> np.ndarray:
        """[rows] tokens of one of the FEATURES."""
        lengths: np.ndarray = self.feature_lengths[:, FEATURES.index(name)]
        return lengths

    def longest(self, name: str) -> int:
        """Most tokens of one of the FEATURES."""
        return int(self.tokens_of(name).max())

    @cached_property
    def feature_lengths(self) -> np.ndarray:
        """[rows, 4] tokens of each of the FEATURES."""
        return self._lengths(slice(None))

    @cached_property
    def lengths_N(self) -> np.ndarray | None:
        if len(self._widths) == 1:
            return None
        return row_lengths(self.kind, self.feature_lengths, len(self.layout.suffix))

    def batch(self, rows: np.ndarray) -> Mapping[str, Any]:
        """The fields of a batch, read where and when they are asked for."""
        layout = self.layout
        if len(self._widths) > 1:
            longest = int(row_lengths(self.kind, self._lengths(rows), len(layout.suffix)).max())
            layout = layout.narrowed(self.kind, next(width for width in self._widths if width >= longest))
        parts = Parts(self, rows, layout)
        return {name: Column((len(rows), *shape), dtype, parts, name) for name, shape, dtype in parts.fields}

    def count_tokens(self, rows: np.ndarray) -> int:
        """From the lengths alone: no row is read."""
        return real_tokens(self.kind, self._lengths(rows), len(self.layout.suffix))

    def whole(self) -> Arrays:
        """All rows in memory, in one width: for the little that a person or a test looks at."""
        return self.built(np.arange(len(self)), self.layout)

    def built(self, rows: np.ndarray, layout: Layout) -> Arrays:
        """The arrays of `rows`, padded as `layout` says."""
        numbers = np.asarray(self.numbers[rows], np.int64)
        tokens = self.tokens.neighbours(len(FEATURES) * numbers, len(FEATURES))
        margins = self.margins[numbers].tolist()
        examples = [
            Example(prompt, prefix, chosen, rejected, margin)
            for (prompt, prefix, chosen, rejected), margin in zip(tokens, margins, strict=True)
        ]
        return build(self.kind, examples, layout)

    @property
    def _widths(self) -> tuple[int, ...]:
        return (0,) if self.kind == "prompts" else self.layout.widths(self.kind)

    def _lengths(self, rows: Any) -> np.ndarray:
        firsts = len(FEATURES) * np.asarray(self.numbers[rows], np.int64)
        return np.stack([self.tokens.lengths(firsts + i) for i in range(len(FEATURES))], axis=1)


@dataclass(frozen=True)
class JoinedRows:
    """Rows with further columns [rows] beside their own, and without some of these."""

    rows: Rows
    columns: Mapping[str, np.ndarray]
    without: tuple[str, ...] = ()

    def __len__(self) -> int:
        return len(self.rows)

    @property
    def lengths_N(self) -> np.ndarray | None:
        return self.rows.lengths_N

    def batch(self, rows: np.ndarray) -> dict[str, Any]:
        """The fields of both."""
        before = {name: column for name, column in self.rows.batch(rows).items() if name not in self.without}
        return before | {name: column[rows] for name, column in self.columns.items()}


@runtime_checkable
class BuiltRows(Protocol):
    """Rows of prepared data, whose lengths are known and whose arrays are built when they are asked for."""

    @property
    def kind(self) -> str: ...

    def built(self, rows: np.ndarray, layout: Layout) -> Arrays:
        """The arrays of `rows`, padded as `layout` says."""

    def count_tokens(self, rows: np.ndarray) -> int:
        """Tokens of these rows, padding left out."""


def count_tokens(rows: Rows, numbers: np.ndarray) -> int:
    """Tokens of the rows of these numbers, padding left out; 0 for rows that are not prepared data's: nobody knows."""
    if isinstance(rows, JoinedRows):
        return count_tokens(rows.rows, numbers)
    return rows.count_tokens(numbers) if isinstance(rows, BuiltRows) else 0


@dataclass(frozen=True)
class Column:
    """One field of a batch: its shape, and any part of it. `np.asarray` gives the whole."""

    shape: tuple[int, ...]
    dtype: np.dtype[Any]
    parts: "Parts"
    name: str

    def __getitem__(self, index: Any) -> np.ndarray:
        """As of an array; the first of the index is a slice of rows."""
        rows, *others = index if isinstance(index, tuple) else (index,)
        start, stop, _ = rows.indices(self.shape[0])
        part: np.ndarray = self.parts.read(start, stop)[self.name][(slice(None), *others)]
        return part

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> np.ndarray:
        return np.asarray(self[:], dtype)


@dataclass(frozen=True)
class Parts:
    """The rows of a batch; all fields of neighbouring ones are built together, and once."""

    source: BuiltRows
    rows: np.ndarray
    layout: Layout
    _built: dict[tuple[int, int], Arrays] = field(default_factory=dict)

    def read(self, start: int, stop: int) -> Arrays:
        if (start, stop) not in self._built:
            self._built[start, stop] = self.source.built(self.rows[start:stop], self.layout)
        return self._built[start, stop]

    @property
    def fields(self) -> tuple[tuple[str, tuple[int, ...], np.dtype[Any]], ...]:
        """(name, shape of a row, dtype) of each field."""
        layout, kind = self.layout, self.source.kind
        return _fields(kind, layout.row_lengths.get(kind, 0), layout.prompt_slot, layout.response_slot)


@lru_cache
def _fields(
    kind: str, width: int, prompt: int, response: int
) -> tuple[tuple[str, tuple[int, ...], np.dtype[Any]], ...]:
    layout = Layout(0, 0, (), {kind: width}, prompt, response)
    arrays = build(kind, [Example([0], [0], [], [])], layout)
    return tuple((name, array.shape[1:], array.dtype) for name, array in arrays.items())
