"""The texts of pairs, read from disk when they are asked for."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from pit_jax.batch import Triple
from pit_jax.data.ragged import RaggedFiles

TEXTS = "texts"  # ragged UTF-8: prompt, chosen and rejected of every example
_PER_EXAMPLE = 3


@dataclass(frozen=True)
class Texts:
    """(prompt, chosen, rejected) of every example in a folder."""

    folder: Path

    @cached_property
    def _bytes(self) -> RaggedFiles:
        return RaggedFiles(self.folder, TEXTS, np.uint8)

    def __getitem__(self, example: int) -> tuple[str, str, str]:
        first = _PER_EXAMPLE * example
        prompt, chosen, rejected = (self._bytes.rows[first + i].tobytes().decode() for i in range(_PER_EXAMPLE))
        return prompt, chosen, rejected

    def read(self, start: int, stop: int) -> list[Triple]:
        """Neighbouring examples, without their margins."""
        values, offsets = self._bytes.read(_PER_EXAMPLE * start, _PER_EXAMPLE * stop)
        text, ends = values.tobytes(), offsets.tolist()
        pieces = [text[a:b].decode() for a, b in zip(ends, ends[1:], strict=False)]
        return [Triple(pieces[i], pieces[i + 1], pieces[i + 2]) for i in range(0, len(pieces), _PER_EXAMPLE)]


@dataclass(frozen=True)
class Triples(Sequence[Triple]):
    """The pairs of a fold; a slice is a list in memory."""

    texts: Texts
    margins: np.ndarray  # [examples]
    numbers: np.ndarray  # [rows], the example of each row

    def __len__(self) -> int:
        return len(self.numbers)

    def __getitem__(self, row: Any) -> Any:
        if isinstance(row, slice):
            return [self[i] for i in range(*row.indices(len(self)))]
        number = int(self.numbers[row])
        return Triple(*self.texts[number], margin=float(self.margins[number]))

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Sequence) and list(self) == list(other)
