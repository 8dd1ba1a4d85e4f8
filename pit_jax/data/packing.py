"""How rows of many lengths fill rows of few widths: one each, padded to the widths that waste the least; or, in SFT,
several to a row of one width, which leaves next to no padding.

Both follow from the lengths alone, so they are the same in every epoch, on every host and after a kill.
"""

from collections import defaultdict
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np

from pit_jax.data.features import Arrays, Layout, row_lengths
from pit_jax.data.rows import Column, Parts, StoredRows
from pit_jax.errors import UserError

_FINE, _COARSE = 8, 128  # a width is a multiple of the second where rows are long: the lanes of a TPU
_LONG = 1024


def widths_of(lengths: np.ndarray, most: int) -> tuple[int, ...]:
    """At most `most` widths in rising order; the last holds the longest of `lengths` [rows], rounded up to 8.

    The others minimise the padded tokens of all rows, each padded to the smallest width that holds it (by dynamic
    programming over the distinct multiples).
    """
    longest = -(-int(lengths.max()) // _FINE) * _FINE
    step = _COARSE if longest >= _LONG else _FINE
    rounded = np.minimum(-(-np.asarray(lengths, np.int64) // step) * step, longest)
    candidates, counts = np.unique(rounded, return_counts=True)
    below = np.cumsum(counts)
    later = np.tri(len(candidates), k=-1, dtype=bool).T  # [i, j]: i < j
    cost = (candidates * below).astype(float)  # of the rows up to candidate j, if j is the last width; one more a turn
    choices = []
    for _ in range(min(most, len(candidates)) - 1):
        split = np.where(later, cost[:, None] + candidates * (below - below[:, None]), np.inf)
        choices.append(np.argmin(split, axis=0))
        cost = np.min(split, axis=0)
    widths, j = [longest], len(candidates) - 1
    for choice in reversed(choices):
        j = int(choice[j])
        widths.append(int(candidates[j]))
    return tuple(reversed(widths))


def packed(lengths_N: np.ndarray, width: int) -> list[np.ndarray]:
    """The numbers of the rows in each packed row of `width` tokens, the longest first: best fit, decreasing.

    All rows of one length are placed together: where they leave the least behind them, and what is left over in new
    rows, side by side.
    """
    assert lengths_N.min() > 0 and lengths_N.max() <= width, "every row fits"
    members: list[list[int]] = []
    with_room: defaultdict[int, list[int]] = defaultdict(list)  # packed rows by the tokens that they have left
    order_N = np.argsort(-lengths_N, kind="stable")
    for alike in np.split(order_N, np.flatnonzero(np.diff(lengths_N[order_N])) + 1):
        length, waiting = int(lengths_N[alike[0]]), alike.tolist()
        while waiting:
            room = min((room for room, rows in with_room.items() if rows and room >= length), default=width)
            rows = with_room.pop(room, [])
            if not rows:
                rows = list(range(len(members), len(members) + -(-len(waiting) // (width // length))))
                members += [[] for _ in rows]
            filled, left = rows[: len(waiting)], rows[len(waiting) :]
            for row, number in zip(filled, waiting, strict=False):
                members[row].append(number)
            waiting = waiting[len(filled) :]
            with_room[room - length] += filled
            with_room[room] += left
    return [np.array(row) for row in members]


@dataclass(frozen=True)
class PackedRows:
    """The rows of SFT in rows of `width` tokens, each seeing itself alone (positions and segments say which it is)."""

    rows: StoredRows
    width: int
    lengths_N: None = None

    def __post_init__(self) -> None:
        """Raises UserError for a width that the longest row does not fit."""
        if self.width < (longest := int(self._lengths_N.max())):
            raise UserError(
                f"--sft.packed-width={self.width}: the longest row of {self.kind} has {longest} tokens; give at least "
                "that many, or 0 for a row of its own for every example"
            )

    @property
    def kind(self) -> str:
        return self.rows.kind

    @cached_property
    def members(self) -> list[np.ndarray]:
        """The numbers of the rows in each packed one."""
        return packed(self._lengths_N, self.width)

    def __len__(self) -> int:
        return len(self.members)

    def batch(self, rows: np.ndarray) -> Mapping[str, Any]:
        """The fields of a batch, read where and when they are asked for."""
        parts = Parts(self, rows, self.rows.layout.narrowed(self.kind, self.width))
        return {name: Column((len(rows), *shape), dtype, parts, name) for name, shape, dtype in parts.fields}

    def built(self, rows: np.ndarray, layout: Layout) -> Arrays:
        """The arrays of packed rows: those of their rows, one behind the other, with segments from 1."""
        members = [self.members[row] for row in rows.tolist()]
        inner_N = np.concatenate(members)
        counts_B, lengths_N = np.array([len(row) for row in members]), self._lengths_N[inner_N]
        ends_N = np.cumsum(lengths_N)
        row_N = np.repeat(np.arange(len(rows)), counts_B)
        first_N = np.cumsum(counts_B)[row_N] - counts_B[row_N]
        starts_N = ends_N - lengths_N
        offset_N = row_N * self.width + starts_N - starts_N[first_N]
        fields = self.rows.built(inner_N, layout.narrowed(self.kind, int(lengths_N.max())))
        real_NW = fields["segments_BL"] > 0
        places = (offset_N[:, None] + np.arange(real_NW.shape[1]))[real_NW]
        segment_N = np.arange(len(inner_N)) - first_N + 1
        fields["segments_BL"] = (fields["segments_BL"] * segment_N[:, None]).astype(np.int32)
        empty = {"tokens_BL": layout.pad_id, "targets_BL": layout.pad_id}
        arrays: Arrays = {}
        for name, field in fields.items():
            flat = np.full(len(rows) * self.width, empty.get(name, 0), field.dtype)
            flat[places] = field[real_NW]
            arrays[name] = flat.reshape(len(rows), self.width)
        return arrays

    def count_tokens(self, rows: np.ndarray) -> int:
        """From the lengths alone: no row is read."""
        return self.rows.count_tokens(np.concatenate([self.members[row] for row in rows.tolist()]))

    def most(self, tokens_N: np.ndarray) -> int:
        """The most that a packed row has of what its rows have [rows] of."""
        return max(int(tokens_N[row].sum()) for row in self.members)

    @property
    def padding(self) -> float:
        """The share of all slots that hold no token."""
        return 1.0 - float(self._lengths_N.sum()) / (len(self) * self.width)

    @cached_property
    def _lengths_N(self) -> np.ndarray:
        return row_lengths(self.kind, self.rows.feature_lengths, len(self.rows.layout.suffix))
