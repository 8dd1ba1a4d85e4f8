"""Stop rules: hand-worked trails, and against plain loops."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pit_jax.errors import UserError
from pit_jax.inference.stopping import Rule, check_stop, chosen_round, goes_on

GAPS = st.lists(st.integers(-3, 3).map(float), max_size=6)
THRESHOLDS = st.sampled_from([-np.inf, -1.0, 0.0, 0.5, np.inf])


@given(GAPS)
def test_the_best_answer_is_never_below_the_original(gaps: list[float]) -> None:
    """Against a plain loop that moves on only when a sum is larger than every sum before it."""
    total, best, best_round = 0.0, 0.0, 0
    for k, gap in enumerate(gaps, 1):
        total += gap
        if total > best:
            best, best_round = total, k
    found = chosen_round(gaps, "best", rounds=len(gaps))
    assert found == best_round and sum(gaps[:found]) == best >= 0.0


@given(GAPS, THRESHOLDS)
def test_the_threshold_keeps_the_answer_before_the_first_small_gap(gaps: list[float], threshold: float) -> None:
    kept = 0
    for gap in gaps:
        if gap < threshold:
            break
        kept += 1
    assert chosen_round(gaps, "threshold", rounds=len(gaps), threshold=threshold) == kept


@given(GAPS, THRESHOLDS)
def test_a_trail_goes_on_until_its_rule_has_chosen(gaps: list[float], threshold: float) -> None:
    """Drawn one by one, a trail ends at the first small gap, and the answer chosen then is that of the whole trail."""
    drawn: list[float] = []
    while len(drawn) < len(gaps) and goes_on(drawn, threshold):
        drawn.append(gaps[len(drawn)])
    chosen = [chosen_round(row, "threshold", rounds=len(gaps), threshold=threshold) for row in (drawn, gaps)]
    assert chosen[0] == chosen[1]
    assert chosen[0] == len(drawn) - (not goes_on(drawn, threshold))


@given(GAPS, st.integers(0, 6), st.sampled_from(["threshold", "best"]))
def test_gaps_beyond_the_rounds_are_not_read(gaps: list[float], rounds: int, stop: Rule) -> None:
    """A trail that another comparison has drawn further."""
    found = chosen_round(gaps, stop, rounds=rounds)
    assert found == chosen_round(gaps[:rounds], stop, rounds=rounds) <= rounds


def test_hand_worked_choices() -> None:
    """Three prompts, three rounds. Sums: 0 1 0 2 -> round 3; 0 1 1 0 -> round 1 (earliest); 0 -1 -2 -1 -> original.

    The first gap below 0: the second, the third, the first.
    """
    trails = [[1.0, -1.0, 2.0], [1.0, 0.0, -1.0], [-1.0, -1.0, 1.0]]
    assert [chosen_round(gaps, "best", rounds=3) for gaps in trails] == [3, 1, 0]
    assert [chosen_round(gaps, "threshold", rounds=3) for gaps in trails] == [1, 2, 0]
    assert [chosen_round(gaps, "rounds", rounds=3) for gaps in trails] == [3, 3, 3]


def test_the_numbers_of_the_docstring() -> None:
    gaps = [0.5, -0.2, 0.1]
    assert [chosen_round(gaps, stop, rounds=3) for stop in ("rounds", "threshold", "best")] == [3, 1, 1]


def test_a_gap_at_the_threshold_goes_on() -> None:
    """A copy gains exactly 0, which is not below 0; no gap at all is no reason to stop."""
    assert goes_on([0.0, 0.0], 0.0) and chosen_round([0.0, 0.0], "threshold", rounds=2) == 2
    assert not goes_on([0.0, -1e-9], 0.0) and goes_on([], np.inf) and goes_on([-1e9], -np.inf)


@pytest.mark.parametrize(
    ("stop", "threshold", "message"),
    [
        ("best", 0.5, "no effect under --improve.stop=best; add --improve.stop=threshold"),
        ("rounds", -np.inf, "no effect under --improve.stop=rounds"),
    ],
)
def test_wrong_rules(stop: Rule, threshold: float, message: str) -> None:
    with pytest.raises(UserError, match=message):
        check_stop(stop, threshold)


@pytest.mark.parametrize(("stop", "threshold"), [("rounds", 0.0), ("best", 0.0), ("threshold", -np.inf)])
def test_right_rules(stop: Rule, threshold: float) -> None:
    check_stop(stop, threshold)
