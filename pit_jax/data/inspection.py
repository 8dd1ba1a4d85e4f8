"""What to look at before training on pairs: repeated rows, prompts on both sides of a split, where the loss counts."""

import re
import unicodedata
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from hashlib import blake2b
from typing import Any

import numpy as np

from pit_jax.batch import Triple
from pit_jax.data.features import row_lengths
from pit_jax.data.folds import TRAINING_FOLDS
from pit_jax.data.packing import widths_of
from pit_jax.data.rows import StoredRows
from pit_jax.data.stream import WINDOW, Stream
from pit_jax.data.text.contradictions import contradicted, pair_keys

_BETWEEN_WORDS = re.compile(r"[\W_]+")


@dataclass(frozen=True)
class Duplicates:
    """Rows of a fold that repeat an earlier one: in their prompt or as a whole pair; `near` counts equal words.

    And rows that contradict another, the same pair with its answers swapped: data.contradictions=keep leaves them.
    """

    fold: str
    rows: int
    prompts: int
    near_prompts: int
    pairs: int
    near_pairs: int
    contradicting: int


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
        keys = np.zeros((len(rows), 4), np.uint64)
        for number, row in enumerate(rows):
            pair = row.prompt, row.chosen, row.rejected
            near = [normalised(text) for text in pair]
            keys[number] = [_key(pair[0]), _key(near[0]), _key(*pair), _key(*near)]
        prompts, near_prompts, pairs, near_pairs = (len(rows) - len(np.unique(column)) for column in keys.T)
        against = int(contradicted(pair_keys(rows)).sum())
        counts.append(Duplicates(fold, len(rows), prompts, near_prompts, pairs, near_pairs, against))
    return counts


def overlaps(folds: Mapping[str, Sequence[Triple]]) -> list[Overlap]:
    """What each training fold shares with the held-out one; exact is 0, since the hash of a prompt names its fold."""
    heldout = _prompt_keys(folds["heldout"])
    counts = []
    for fold in TRAINING_FOLDS:
        exact_N, near_N = (np.isin(*keys) for keys in zip(heldout.T, _prompt_keys(folds[fold]).T, strict=True))
        shared = np.flatnonzero(near_N)
        example = folds["heldout"][int(shared[0])].prompt if len(shared) else ""
        counts.append(Overlap(fold, len(heldout), int((exact_N & near_N).sum()), len(shared), example))
    return counts


def _prompt_keys(rows: Sequence[Triple]) -> np.ndarray:
    """[rows, 2] the keys of each prompt and of its words."""
    keys = [(_key(row.prompt), _key(normalised(row.prompt))) for row in rows]
    return np.array(keys, np.uint64).reshape(-1, 2)


def _key(*texts: str) -> int:
    """A hash of 64 bits: among a million texts two others get the same one with a chance of 3 in 100 million."""
    return int.from_bytes(blake2b("\0".join(texts).encode(), digest_size=8).digest(), "big")


@dataclass(frozen=True)
class Padding:
    """What the rows of a training hold beside their tokens, by the most widths (data.buckets) they are padded to."""

    kind: str
    rows: int
    tokens: float  # of a row, the mean
    widths: tuple[int, ...]  # that the data were prepared for
    shares: dict[int, float]  # of the slots of an epoch that are padding, for 1, 2, .. widths


@dataclass(frozen=True)
class _Lengths:
    """Rows of which nothing is known but their lengths."""

    lengths_N: np.ndarray

    def __len__(self) -> int:
        return len(self.lengths_N)

    def batch(self, rows: np.ndarray) -> dict[str, np.ndarray]:
        return {"lengths_B": self.lengths_N[rows]}


def padding(rows: StoredRows, batch_size: int, most: Sequence[int] = (1, 2, 4, 8)) -> Padding:
    """Of about an epoch of batches, in the order of training: whole windows, so that each row counts alike."""
    kind, layout = rows.kind, rows.layout
    lengths_N = row_lengths(kind, rows.feature_lengths, len(layout.suffix))
    tokens_N = lengths_N
    if kind == "reward":  # two rows a pair, both as wide as the longer one needs
        prompt, _, chosen, rejected = rows.feature_lengths.T
        tokens_N = prompt + 1 + (chosen + rejected) / 2
    stream, count = Stream(_Lengths(lengths_N), batch_size=batch_size, seed=0), len(rows)
    batches = [stream.rows(i) for i in range(-(-count // (WINDOW * batch_size)) * WINDOW)]
    longest_N = np.array([lengths_N[batch].max() for batch in batches])
    real = sum(float(tokens_N[batch].sum()) for batch in batches)
    shares = {}
    for number in most:
        widths = np.array(widths_of(lengths_N, number))
        slots = widths[np.searchsorted(widths, longest_N)] if number > 1 else np.full(len(batches), widths[-1])
        shares[number] = 1 - real / (batch_size * float(slots.sum()))
    return Padding(kind, count, float(tokens_N.mean()), layout.widths(kind), shares)


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
