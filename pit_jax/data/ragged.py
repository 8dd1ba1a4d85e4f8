"""Rows of unequal length: values end to end, and where each row begins. On disk written in one pass, read as a map."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import pairwise
from pathlib import Path
from types import TracebackType
from typing import Any

import numpy as np

VALUES, OFFSETS = ".bin", ".offsets"


class RaggedWriter:
    """Appends rows to <name>.bin and <name>.offsets in a folder; memory does not grow with what was written."""

    def __init__(self, folder: Path, name: str, dtype: Any) -> None:
        self._dtype, self._end = np.dtype(dtype), 0
        self._values = (folder / f"{name}{VALUES}").open("wb")
        self._offsets = (folder / f"{name}{OFFSETS}").open("wb")
        self._offsets.write(np.zeros(1, np.int64).tobytes())

    def append(self, values: np.ndarray, lengths: np.ndarray) -> None:
        """Rows of `lengths` [rows] values each, end to end in `values`."""
        ends = self._end + np.cumsum(lengths, dtype=np.int64)
        assert int(lengths.sum()) == len(values), "lengths must add up to the values"
        self._end += len(values)
        values.astype(self._dtype, copy=False).tofile(self._values)
        ends.tofile(self._offsets)

    def __enter__(self) -> "RaggedWriter":
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self._values.close()
        self._offsets.close()


def mapped(path: Path, dtype: Any) -> np.ndarray:
    """The values of a file, mapped; an empty one cannot be.

    As a plain array: reading rows of an `np.memmap` takes more than twice as long, for every slice becomes one.
    """
    return np.asarray(np.memmap(path, dtype, mode="r")) if path.stat().st_size else np.zeros(0, dtype)


@dataclass(frozen=True)
class Ragged:
    """Rows of values, in memory or mapped."""

    values: np.ndarray  # end to end
    offsets: np.ndarray  # [rows + 1] int64, where each begins

    @staticmethod
    def of(values: np.ndarray, lengths: np.ndarray) -> "Ragged":
        """Rows of `lengths` [rows] values each."""
        return Ragged(values, np.concatenate([np.zeros(1, np.int64), np.cumsum(lengths, dtype=np.int64)]))

    def __len__(self) -> int:
        return len(self.offsets) - 1

    def __getitem__(self, row: int) -> np.ndarray:
        return self.values[self.offsets[row] : self.offsets[row + 1]]

    def joined(self, other: "Ragged") -> "Ragged":
        """These rows, then the other ones, whose values fit the dtype of these: a copy of both."""
        values = np.concatenate([self.values, other.values.astype(self.values.dtype)])
        return Ragged(values, np.concatenate([self.offsets, self.offsets[-1] + other.offsets[1:]]))

    def neighbours(self, firsts: np.ndarray, count: int) -> list[list[np.ndarray]]:
        """The `count` rows from each of `firsts` on; all are looked up at once."""
        ends = self.offsets[np.asarray(firsts, np.int64)[:, None] + np.arange(count + 1)].tolist()
        return [[self.values[start:stop] for start, stop in pairwise(row)] for row in ends]

    def lengths(self, rows: np.ndarray) -> np.ndarray:
        """[rows] int64."""
        lengths: np.ndarray = self.offsets[rows + 1] - self.offsets[rows]
        return lengths


@dataclass(frozen=True)
class RaggedFiles:
    """What a RaggedWriter wrote."""

    folder: Path
    name: str
    dtype: Any

    @cached_property
    def rows(self) -> Ragged:
        """All rows, mapped: nothing is read before it is asked for."""
        values = mapped(self.folder / f"{self.name}{VALUES}", self.dtype)
        return Ragged(values, mapped(self.folder / f"{self.name}{OFFSETS}", np.int64))

    def read(self, start: int, stop: int) -> tuple[np.ndarray, np.ndarray]:
        """(values, offsets from 0) of neighbouring rows, read into memory: no page of the map stays resident."""
        offsets = self._part(OFFSETS, np.int64, start, stop + 1)
        return self._part(VALUES, self.dtype, int(offsets[0]), int(offsets[-1])), offsets - offsets[0]

    def _part(self, suffix: str, dtype: Any, start: int, stop: int) -> np.ndarray:
        size = np.dtype(dtype).itemsize
        return np.fromfile(self.folder / f"{self.name}{suffix}", dtype, count=stop - start, offset=start * size)


def utf8(texts: Sequence[str]) -> tuple[np.ndarray, np.ndarray]:
    """(bytes [total] uint8, lengths [texts]) of texts as UTF-8."""
    encoded = [text.encode() for text in texts]
    return np.frombuffer(b"".join(encoded), np.uint8), np.array([len(piece) for piece in encoded], np.int64)
