"""How far texts are from the texts they were made of: exact copies, edit distance over words, words kept and new."""

from collections.abc import Sequence

import numpy as np

from pit_jax.data.text.segments import WORDS
from pit_jax.errors import UserError


def copy_rate(texts: Sequence[str], references: Sequence[str]) -> float:
    """Share of texts that repeat their reference character by character. UserError as in `edit_distances`."""
    _check(texts, references)
    return float(np.mean([text == reference for text, reference in zip(texts, references, strict=True)]))


def edit_distances(texts: Sequence[str], references: Sequence[str]) -> np.ndarray:
    """[N] Levenshtein distance of every text to its reference over words, divided by the longer one's words.

    0 is the same words, 1 nothing in common. Words are those of data/text/segments.py; each is put in, taken out or
    replaced at a cost of 1. "bring a cake" to "please bring two cakes": put in "please", replace "a" and "cake": 3 / 4.

    Raises:
        UserError: no texts, or not one reference a text.
    """
    distances_N, lengths_N, other_lengths_N = _distances(texts, references, replacing=1)
    return distances_N / np.maximum(np.maximum(lengths_N, other_lengths_N), 1)


def kept_and_new(texts: Sequence[str], references: Sequence[str]) -> tuple[np.ndarray, np.ndarray]:
    """([N] share of each reference's words that its text keeps, [N] share of each text's words that are new).

    Kept are the words of the longest sequence that stands in both in the same order: a word that moves behind another
    counts as new, and one said twice is kept once. It is what an edit distance without replacing leaves, words of both
    less the distance, halved. "bring a cake" to "please bring two cakes" keeps "bring": kept 1 / 3, new 3 / 4. No words
    at all are kept whole and hold nothing new, so that a copy always has (1, 0).

    Raises:
        UserError: as `edit_distances`.
    """
    distances_N, lengths_N, other_lengths_N = _distances(texts, references, replacing=2)
    same_N = (lengths_N + other_lengths_N - distances_N) / 2
    kept_N = np.where(other_lengths_N > 0, same_N / np.maximum(other_lengths_N, 1), 1.0)
    return kept_N, (lengths_N - same_N) / np.maximum(lengths_N, 1)


def _distances(
    texts: Sequence[str], references: Sequence[str], *, replacing: int
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """([N] edit distance where replacing a word costs so much, [N] words of each text, [N] words of each reference).

    The dynamic programme runs over one row of all pairs at a time (W the most words of a text, plus 1):
    D[i, j] = min(D[i-1, j] + 1, D[i-1, j-1] + replacing (word_i != word_j), D[i, j-1] + 1), where the last term along
    a row is a running minimum of D[i, j] - j.
    """
    _check(texts, references)
    vocabulary: dict[str, int] = {}
    words_NW, lengths_N = _numbered(texts, vocabulary)
    others_NW, other_lengths_N = _numbered(references, vocabulary)
    columns = np.arange(others_NW.shape[1] + 1)
    row_NW = np.broadcast_to(columns, (len(texts), columns.size))
    distances_N = other_lengths_N.copy()
    for i in range(1, words_NW.shape[1] + 1):
        replaced_NW = row_NW[:, :-1] + replacing * (others_NW != words_NW[:, i - 1 : i])
        stepped_NW = np.concatenate([row_NW[:, :1] + 1, np.minimum(row_NW[:, 1:] + 1, replaced_NW)], axis=1)
        row_NW = np.minimum.accumulate(stepped_NW - columns, axis=1) + columns
        done_N = lengths_N == i
        distances_N[done_N] = row_NW[done_N, other_lengths_N[done_N]]
    return distances_N, lengths_N, other_lengths_N


def _numbered(texts: Sequence[str], vocabulary: dict[str, int]) -> tuple[np.ndarray, np.ndarray]:
    """(words [N, W] as numbers, right-padded; how many words each text has). New words join the vocabulary."""
    rows = [[vocabulary.setdefault(word, len(vocabulary)) for word in WORDS.findall(text)] for text in texts]
    lengths_N = np.array([len(row) for row in rows])
    words_NW = np.full((len(rows), int(lengths_N.max())), -1)
    for padded_W, row in zip(words_NW, rows, strict=True):
        padded_W[: len(row)] = row
    return words_NW, lengths_N


def _check(texts: Sequence[str], references: Sequence[str]) -> None:
    if not len(texts) == len(references) > 0:
        raise UserError(
            f"found {len(texts)} texts and {len(references)} references; pass one of each per prompt, and at least one"
        )
