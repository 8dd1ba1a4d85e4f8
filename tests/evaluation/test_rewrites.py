"""What rewriting did: words, flaws and the gap by hand, copies and empty answers, and what changes with the order."""

from collections.abc import Sequence

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pit_jax.config import Config, EvaluateConfig
from pit_jax.evaluation.rewrites import FlawCounts, RewriteRow, check_gap, count_flaws, rewrite_row
from pit_jax.evaluation.stats.means import Estimate
from pit_jax.evaluation.systems import pit

CONFIG = Config(evaluate=EvaluateConfig(tie_margin=0.0, resamples=200))
NAMES = st.lists(st.sampled_from(["topic", "kind", "closing"]), max_size=5).map(" ".join)


def row(rewrites: Sequence[str], references: Sequence[str]) -> RewriteRow:
    return rewrite_row(CONFIG, pit(1), 0.8, rewrites, references, flaws=None, gap=None)


def counted(rewrites: Sequence[str], references: Sequence[str]) -> FlawCounts:
    """Texts whose words are their flaws."""
    return count_flaws(lambda prompt, answer: answer.split(), [""] * len(rewrites), rewrites, references)


def test_known_shares() -> None:
    """A copy, and one of three words kept and three of four new."""
    found = row(["bring a cake", "please bring two cakes"], ["bring a cake", "bring a cake"])
    assert (found.system, found.temperature, found.flaws, found.gap) == (pit(1), 0.8, None, None)
    assert (found.kept.mean, found.new.mean, found.copied.mean) == pytest.approx((2 / 3, 3 / 8, 1 / 2))
    assert (found.kept.low, found.kept.high) == pytest.approx((1 / 3, 1.0)), "a quarter of the resamples is either"
    assert (found.copied.low, found.copied.high) == (0.0, 1.0)


def test_a_copy_keeps_all_and_adds_nothing_and_an_empty_rewrite_keeps_nothing() -> None:
    everything, nothing = Estimate(1.0, 1.0, 1.0), Estimate(0.0, 0.0, 0.0)
    copied, empty = row(["a b", ""], ["a b", ""]), row(["", ""], ["a b", "c"])
    assert (copied.kept, copied.new, copied.copied) == (everything, nothing, everything)
    assert (empty.kept, empty.new, empty.copied) == (nothing, nothing, nothing)


def test_other_white_space_is_no_copy_but_keeps_every_word() -> None:
    found = row(["a  b"], ["a b"])
    assert (found.kept.mean, found.new.mean, found.copied.mean) == (1.0, 0.0, 0.0)


def test_known_flaws() -> None:
    """A topic and the kind are mended and the closing is made; of the second pair nothing changes."""
    assert counted(["topic closing", "kind"], ["topic topic kind", "kind"]) == FlawCounts(of=4, mended=2, made=1)


def test_flaws_of_one_prompt_do_not_make_up_for_those_of_another() -> None:
    assert counted(["", "topic"], ["topic", ""]) == FlawCounts(of=1, mended=1, made=1)


def test_flaws_are_asked_of_each_answer_to_its_own_prompt() -> None:
    def wanting(prompt: str, answer: str) -> list[str]:
        return [word for word in prompt.split() if word not in answer.split()]

    assert count_flaws(wanting, ["a b", "c"], ["a", "c"], ["", "c"]) == FlawCounts(of=2, mended=1, made=0)


@given(st.lists(st.tuples(NAMES, NAMES), max_size=4))
def test_what_is_mended_one_way_is_made_the_other(pairs: list[tuple[str, str]]) -> None:
    rewrites, references = [pair[0] for pair in pairs], [pair[1] for pair in pairs]
    there, back = counted(rewrites, references), counted(references, rewrites)
    assert (there.mended, there.made) == (back.made, back.mended)
    assert there.of - there.mended + there.made == back.of


def test_a_known_gap() -> None:
    found = check_gap(CONFIG, np.array([2.0, -1.0, 1.0, 3.0]), np.array([1.0, -2.0, -1.0, 0.0]))
    assert (found.pairs, found.taken) == (3, 3 / 4) and found.accuracy == pytest.approx(2 / 3)
    # The gaps 2, -1, 1 and the truth 1, -2, -1 less their means 2 / 3 and -2 / 3.
    assert found.correlation == pytest.approx((20 + 20 - 1) / np.sqrt((16 + 25 + 1) * (25 + 16 + 1)))
    above = found.above_zero
    assert (above.win, above.lose, above.tie, above.delta, above.n) == (25.0, 25.0, 50.0, 0.0, 4)
    assert above.low < 0 < above.high


def test_a_gap_that_is_the_truth_takes_every_win_and_no_loss() -> None:
    truth_N = np.array([2.0, 1.0, 0.0, -1.0, -3.0])
    found = check_gap(CONFIG, truth_N, truth_N)
    assert found.accuracy == 1.0 and found.correlation == pytest.approx(1.0)
    assert (found.above_zero.win, found.above_zero.lose) == (40.0, 0.0)
    opposite = check_gap(CONFIG, -truth_N, truth_N)
    assert opposite.accuracy == 0.0 and opposite.correlation == pytest.approx(-1.0)
    assert (opposite.above_zero.win, opposite.above_zero.lose) == (0.0, 40.0)


def test_a_gap_of_0_is_half_right_and_keeps_the_reference() -> None:
    found = check_gap(CONFIG, np.zeros(2), np.array([1.0, -1.0]))
    assert (found.accuracy, found.correlation, found.taken, found.above_zero.tie) == (0.5, 0.0, 0.0, 100.0)


def test_the_margin_of_ties_is_that_of_every_comparison() -> None:
    """Yet any true difference counts for the sign."""
    config = Config(evaluate=EvaluateConfig(tie_margin=1.0, resamples=200))
    found = check_gap(config, np.ones(2), np.array([1.0, 2.0]))
    assert (found.pairs, found.above_zero.win, found.above_zero.tie) == (2, 50.0, 50.0)


def test_nothing_that_differs_in_truth_leaves_nothing_to_be_right_about() -> None:
    found = check_gap(CONFIG, np.array([1.0, -1.0]), np.zeros(2))
    assert (found.pairs, found.accuracy, found.correlation, found.above_zero.delta) == (0, None, None, 0.0)
