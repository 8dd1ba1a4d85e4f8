"""The fold of a prompt is a function of its text alone."""

import unicodedata
from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pit_jax.data.folds import FOLDS, fold_of
from pit_jax.errors import UserError


@given(st.text(), st.floats(0.0, 1.0))
def test_a_prompt_has_one_fold_however_it_is_written(prompt: str, fraction: float) -> None:
    fold = fold_of(prompt, fraction)
    assert fold in FOLDS
    assert fold_of(f"  {prompt}\n", fraction) == fold
    assert fold_of(unicodedata.normalize("NFD", prompt), fraction) == fold


@given(st.text(alphabet="abc ", min_size=1), st.floats(0.0, 0.5), st.floats(0.0, 0.5))
def test_raising_the_held_out_share_only_adds_to_it(prompt: str, a: float, b: float) -> None:
    low, high = sorted((a, b))
    if fold_of(prompt, low) == "heldout":
        assert fold_of(prompt, high) == "heldout"


def test_shares_are_as_asked() -> None:
    counts = Counter(fold_of(f"prompt {i}", 0.1) for i in range(20_000))
    assert abs(counts["heldout"] / 20_000 - 0.1) < 0.01
    for fold in ("sft", "rm", "rl"):
        assert abs(counts[fold] / 20_000 - 0.3) < 0.015


def test_folds_are_pinned() -> None:
    """Changing these moves prompts between the folds of every finished run."""
    prompts = ("", "a", "b", "caf\u00e9", "write a note")
    assert [fold_of(p, 0.05) for p in prompts] == ["rl", "rl", "sft", "rm", "sft"]


def test_extremes_and_bad_fraction() -> None:
    assert fold_of("x", 1.0) == "heldout"
    assert fold_of("x", 0.0) != "heldout"
    with pytest.raises(UserError, match=r"must lie in \[0, 1\], found 1.5"):
        fold_of("x", 1.5)
