"""What to look at before training on pairs: repeated rows, prompts on both sides of a split, where the loss counts."""

import re
import unicodedata
from collections.abc import Callable, Hashable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from pit_jax.batch import Triple
from pit_jax.data.folds import TRAINING_FOLDS

_BETWEEN_WORDS = re.compile(r"[\W_]+")


@dataclass(frozen=True)
class Duplicates:
    """Rows of a fold that repeat an earlier one: in their prompt or as a whole pair; `near` counts equal words."""

    fold: str
    rows: int
    prompts: int
    near_prompts: int
    pairs: int
    near_pairs: int


@dataclass(frozen=True)
class Overlap:
    """Held-out rows whose prompt a training fold holds too; `near` counts prompts of equal words."""

    fold: str
    heldout: int
    exact: int
    near: int
    example: str  # a held-out prompt of `near`, or nothing


@dataclass(frozen=True)
class Span:
    """A piece of a row as text; `counts`: its tokens are in the loss."""

    text: str
    counts: bool


def normalised(text: str) -> str:
    """The words of a text in small letters, without marks: what differs in case, space or punctuation becomes equal.

    A text without any word stays as it is, but for case and space.
    """
    folded = unicodedata.normalize("NFKC", text).casefold()
    return _BETWEEN_WORDS.sub(" ", folded).strip() or " ".join(folded.split())


def duplicates(folds: Mapping[str, Sequence[Triple]]) -> list[Duplicates]:
    """Repeated rows of each fold."""
    counts = []
    for fold, rows in folds.items():
        pairs = [(row.prompt, row.chosen, row.rejected) for row in rows]
        near = [tuple(normalised(text) for text in pair) for pair in pairs]
        repeated = (_repeated(keys) for keys in ((p[0] for p in pairs), (p[0] for p in near), pairs, near))
        counts.append(Duplicates(fold, len(rows), *repeated))
    return counts


def overlaps(folds: Mapping[str, Sequence[Triple]]) -> list[Overlap]:
    """What each training fold shares with the held-out one; exact is 0, since the hash of a prompt names its fold."""
    heldout = [(row.prompt, normalised(row.prompt)) for row in folds["heldout"]]
    counts = []
    for fold in TRAINING_FOLDS:
        exact = {row.prompt for row in folds[fold]}
        near = {normalised(prompt) for prompt in exact}
        shared = [prompt for prompt, words in heldout if words in near]
        same = sum(prompt in exact for prompt in shared)
        counts.append(Overlap(fold, len(heldout), same, len(shared), shared[0] if shared else ""))
    return counts


def spans(row: Mapping[str, Any], decode: Callable[[list[int]], str]) -> list[Span]:
    """One unpacked row of SftBatch fields [L] as text, cut where the loss begins or ends; padding is left out."""
    real = int(np.count_nonzero(row["segments_BL"]))
    ids = [int(row["tokens_BL"][0]), *row["targets_BL"][:real].tolist()]
    counts = [False, *row["mask_BL"][:real].tolist()]
    cuts = [0, *(i for i in range(1, len(ids)) if counts[i] != counts[i - 1]), len(ids)]
    return [Span(decode(ids[a:b]), counts[a]) for a, b in zip(cuts, cuts[1:], strict=False)]


def spread(count: int, most: int) -> list[int]:
    """At most `most` of `count` row numbers, from the first on at even distances."""
    return sorted({i * count // most for i in range(most)}) if count else []


def _repeated(keys: Iterable[Hashable]) -> int:
    everything = list(keys)
    return len(everything) - len(set(everything))
