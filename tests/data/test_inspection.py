"""Counts by hand, and rows whose loss mask can be read."""

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pit_jax.batch import Triple
from pit_jax.data.features import FEATURES, Example, Layout, build
from pit_jax.data.inspection import Duplicates, Overlap, Span, duplicates, normalised, overlaps, padding, spans, spread
from pit_jax.data.rows import StoredRows
from tests.world import ragged

HI, HI_AGAIN, LOUD = Triple("say hi", "hi", "no"), Triple("say hi", "hello", "no"), Triple("Say HI!", "Hi.", "no")


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("  Say\tHI, you!\n", "say hi you"),
        ("ﬁne_print", "fine print"),
        ("?!", "?!"),
        (" ? ", "?"),
        ("日本、語", "日本 語"),
    ],
)
def test_normalised(text: str, expected: str) -> None:
    assert normalised(text) == expected


@given(st.text())
def test_normalising_twice_changes_nothing_in_plain_text(text: str) -> None:
    once = normalised(text.encode("ascii", "ignore").decode())
    assert normalised(once) == once


def test_duplicates_by_hand() -> None:
    folds = {
        "sft": [HI, HI, HI_AGAIN, LOUD],
        "rm": [HI, LOUD],
        "rl": [HI, replace(HI, chosen=HI.rejected, rejected=HI.chosen)],
        "heldout": [Triple("?", "a", "b")],
    }
    assert duplicates(folds) == [
        Duplicates("sft", 4, 2, 3, 1, 2, 0),
        Duplicates("rm", 2, 0, 1, 0, 1, 0),
        Duplicates("rl", 2, 1, 1, 0, 0, 2),
        Duplicates("heldout", 1, 0, 0, 0, 0, 0),
    ]


def test_overlaps_by_hand() -> None:
    folds = {"sft": [LOUD], "rm": [HI], "rl": [Triple("?", "a", "b")], "heldout": [HI_AGAIN, Triple("!", "a", "b")]}
    assert overlaps(folds) == [
        Overlap("sft", 2, 0, 1, "say hi"),
        Overlap("rm", 2, 1, 1, "say hi"),
        Overlap("rl", 2, 0, 0, ""),
    ]


@pytest.mark.parametrize(("kind", "context"), [("sft-policy", [9, 8, 7]), ("sft-improver", [3, 9, 8, 50, 51, 4, 5])])
def test_the_marked_text_is_the_answer_and_its_eos(kind: str, context: list[int]) -> None:
    layout = Layout(0, 1, (4, 5), {"sft-policy": 16, "sft-improver": 16}, 8, 8)
    arrays = build(kind, [Example([9, 8, 7], [3, 9, 8], [40, 41], [50, 51])], layout)
    row = {name: array[0] for name, array in arrays.items()}
    found = spans(row, lambda ids: " ".join(map(str, ids)))
    assert found == [Span(" ".join(map(str, context)), False), Span("40 41 1", True)]


def test_an_empty_answer_leaves_its_eos() -> None:
    arrays = build("sft-policy", [Example([9], [3], [], [7])], Layout(0, 1, (), {"sft-policy": 8}, 4, 4))
    assert [span.counts for span in spans({k: v[0] for k, v in arrays.items()}, str)] == [False, True]


def test_spread() -> None:
    assert spread(100, 4) == [0, 25, 50, 75]
    assert spread(3, 10) == [0, 1, 2]
    assert spread(0, 10) == []
    assert np.diff(spread(997, 10)).min() >= 99


def padded(kind: str, answers: list[tuple[int, int]], batch_size: int) -> tuple[float, dict[int, float]]:
    """Of rows with a prompt of one token and answers (chosen, rejected) of these lengths."""
    rows = [Example([9], [3], [7] * chosen, [8] * rejected) for chosen, rejected in answers]
    layout = Layout(0, 1, (), {kind: 32}, 4, 32)
    tokens = ragged([getattr(row, name) for row in rows for name in FEATURES])
    stored = StoredRows(kind, layout, tokens, np.zeros(len(rows), np.float32), np.arange(len(rows)))
    found = padding(stored, batch_size, most=(1, 2))
    assert (found.rows, found.widths) == (len(rows), (32,))
    return found.tokens, found.shares


def test_padding_by_hand() -> None:
    """Half the rows hold 8 tokens, half 32; with two widths the short ones meet in batches without padding."""
    tokens, shares = padded("sft-policy", [(7, 0), (31, 0)] * 32, 2)
    assert tokens == 20.0
    assert shares == {1: pytest.approx(1 - 20 / 32), 2: pytest.approx(0.0)}


def test_both_rows_of_a_pair_are_padded() -> None:
    tokens, shares = padded("reward", [(6, 2), (30, 10)] * 32, 2)
    assert tokens == (8 + 4 + 32 + 12) / 4
    assert shares == {1: pytest.approx(1 - 14 / 32), 2: pytest.approx(1 - 14 / 20)}
