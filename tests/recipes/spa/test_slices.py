"""Slices: which prompts keep their gold labels, and which iteration answers the others."""

from dataclasses import replace

import numpy as np
import pytest

from pit_jax.batch import Triple
from pit_jax.config import Config, SpaConfig
from pit_jax.data.folds import fold_of, point_of
from pit_jax.errors import UserError
from pit_jax.recipes.spa.slices import GOLD, prompts_of, slice_of, sliced

SPA = SpaConfig(gold_share=0.1, slices=(1.0, 3.0, 2.0))


def pairs(count: int) -> list[Triple]:
    return [Triple(f"question {i}", "yes", "no") for i in range(count)]


def test_a_slice_is_where_the_hash_of_a_prompt_lies() -> None:
    """By hand: 0.1 of [0, 1) is gold, and 1, 3 and 2 sixths of the rest end at 0.25, 0.7 and 1."""
    for triple in pairs(200):
        point = point_of(triple.prompt, salt="spa ")
        assert slice_of(triple.prompt, SPA) == int(np.searchsorted([0.1, 0.25, 0.7], point, side="right"))


def test_a_row_that_is_added_moves_no_other() -> None:
    """A prompt of two rows lies in one slice, whatever stands around it."""
    few, many = pairs(60), [*pairs(500)[::-1], Triple(" question 3\n", "a", "b")]
    found = [{many[row].prompt for row in rows} for rows in sliced(many, SPA)]
    for number, rows in enumerate(sliced(few, SPA)):
        assert {few[row].prompt for row in rows} <= found[number]
    assert slice_of(" question 3\n", SPA) == slice_of("question 3", SPA), "as folds: the stripped prompt counts"


def test_shares_come_out_and_no_row_is_in_two_slices() -> None:
    """Of 6,000 prompts, within four standard deviations."""
    rows = sliced(pairs(6000), SPA)
    assert sorted(row for numbers in rows for row in numbers) == list(range(6000))
    for numbers, share in zip(rows, (0.1, 0.15, 0.45, 0.3), strict=True):
        assert abs(len(numbers) - 6000 * share) < 4 * np.sqrt(6000 * share * (1 - share))


def test_the_fold_of_a_prompt_says_nothing_of_its_slice() -> None:
    """Prompts of one fold have hashes in a third of [0, 1); their slices have their shares all the same."""
    fold = [triple for triple in pairs(6000) if fold_of(triple.prompt, 0.1) == "rm"]
    gold = len(sliced(fold, SPA)[GOLD]) / len(fold)
    assert abs(gold - 0.1) < 4 * np.sqrt(0.1 * 0.9 / len(fold))


def test_a_slice_without_a_prompt_is_refused() -> None:
    config = replace(Config().spa, gold_share=1e-9, slices=(1.0, 1e-9))
    with pytest.raises(UserError) as error:
        sliced(pairs(40), config)
    assert str(error.value) == (
        "--spa.gold-share=1e-09 and --spa.slices leave the gold pairs and iteration 2 without a prompt of the 40 pairs "
        "in the fold rm; give more pairs, a larger share, or fewer slices"
    )


def test_a_prompt_is_asked_once() -> None:
    triples = [Triple("b", "1", "2"), Triple("a", "1", "2"), Triple("b", "3", "4"), Triple("c", "1", "2")]
    assert prompts_of(triples, [0, 1, 2]) == ["b", "a"]
