"""evaluation/ratings.py where all pairs answer the same prompts: by hand, against plain bootstraps, and coverage."""

import itertools
import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pit_jax.evaluation.stats.ratings import Spread, bradley_terry, games_of, rate_prompts

ELO = {"scale": 400.0, "base": 10.0}
NATURAL = {"scale": 1.0, "base": math.e}
THREES = {"scale": 1.0, "base": 3.0}
PAIRS = list(itertools.combinations("abcd", 2))

tables = st.integers(1, 12).flatmap(
    lambda prompts: st.lists(
        st.lists(st.sampled_from([0.0, 0.5, 1.0]), min_size=prompts, max_size=prompts), min_size=6, max_size=6
    )
)


def numbers(spread: Spread) -> tuple[float, float, float]:
    return spread.rating, spread.low, spread.high


def reversed_on(prompts: int) -> dict[tuple[str, str], np.ndarray]:
    """40 prompts: a over b over c, but the other way round on `prompts` of them."""
    scores_N = np.array([0.0] * prompts + [1.0] * (40 - prompts))
    return dict.fromkeys([("a", "b"), ("b", "c"), ("a", "c")], scores_N)


def connected(table: list[list[float]]) -> dict[tuple[str, str], np.ndarray]:
    """A round robin of four in which a draw on a last prompt links every pair."""
    return {pair: np.array([*row, 0.5]) for pair, row in zip(PAIRS, table, strict=True)}


def play(strengths: np.ndarray, prompts: int, rng: np.random.Generator, *, draws: bool) -> dict:
    """Round robin of natural log-strengths s: an answer's grade is s + Gumbel noise, so that P(i over j) is exactly
    sigmoid(s_i - s_j), while all pairs of a prompt share its grades. With draws a score is the mean of two such."""
    noise = rng.gumbel(size=(1 + draws, len(strengths), prompts))
    grades = strengths[None, :, None] + noise
    return {
        (f"{i:02}", f"{j:02}"): (grades[:, i] > grades[:, j]).mean(axis=0)
        for i, j in itertools.combinations(range(len(strengths)), 2)
    }


def test_the_numbers_of_the_docstring() -> None:
    spreads = rate_prompts(reversed_on(7), resamples=20_000, seed=0, **THREES)
    rated = {k: bradley_terry(games_of(reversed_on(k)), **THREES)["a"] for k in (3, 7, 12)}
    assert rated == pytest.approx({3: 1.74, 7: 1.0, 12: 0.52}, abs=0.005)
    assert numbers(spreads["a"]) == pytest.approx((1.0, rated[12], rated[3]))
    assert numbers(spreads["c"]) == pytest.approx((-1.0, -rated[3], -rated[12]))
    assert numbers(spreads["b"]) == pytest.approx((0.0, 0.0, 0.0), abs=1e-12)


def test_games_come_prompt_by_prompt() -> None:
    outcomes = {("a", "b"): np.array([1, 0]), ("c", "a"): np.array([0.5, 1.0])}
    assert games_of(outcomes) == [("a", "b", 1), ("c", "a", 0.5), ("a", "b", 0), ("c", "a", 1)]


@settings(max_examples=40)
@given(table=tables)
def test_the_ratings_are_bradley_terry_of_the_games(table: list[list[float]]) -> None:
    outcomes = connected(table)
    spreads = rate_prompts(outcomes, resamples=1, seed=0, **ELO)
    found = {name: spread.rating for name, spread in spreads.items()}
    assert found == pytest.approx(bradley_terry(games_of(outcomes), **ELO), abs=1e-7)


@settings(max_examples=40)
@given(table=tables, turned=st.sets(st.sampled_from(PAIRS)))
def test_neither_side_nor_order_of_the_pairs_counts(table: list[list[float]], turned: set[tuple[str, str]]) -> None:
    outcomes = connected(table)
    moved = {pair[::-1] if pair in turned else pair: 1 - x if pair in turned else x for pair, x in outcomes.items()}
    shuffled = dict(reversed(moved.items()))
    first, second = (rate_prompts(found, resamples=30, seed=0, **ELO) for found in (outcomes, shuffled))
    for name, spread in first.items():
        assert vars(second[name]) == pytest.approx(vars(spread), abs=1e-6)


def test_a_pair_given_from_both_sides_is_twice_the_games() -> None:
    both = {("a", "b"): np.array([1.0, 1.0, 0.0]), ("b", "a"): np.array([0.0, 1.0, 0.0])}
    spread = rate_prompts(both, resamples=1, seed=0, **ELO)["a"]
    assert spread.rating == pytest.approx(200 * math.log10(4 / 2))


@pytest.mark.parametrize("draws", [False, True])
def test_drawing_counts_is_the_bootstrap_over_prompts(draws: bool) -> None:
    outcomes = play(np.array([0.5, 0.0, -0.5]), 60, np.random.default_rng(2), draws=draws)
    spreads = rate_prompts(outcomes, resamples=4000, seed=0, **ELO)
    rng, drawn = np.random.default_rng(3), []
    for rows in rng.integers(60, size=(1000, 60)):
        drawn.append(bradley_terry(games_of({pair: x[rows] for pair, x in outcomes.items()}), **ELO))
    for name, spread in spreads.items():
        values = [ratings[name] for ratings in drawn]
        assert (spread.low, spread.high) == pytest.approx(
            np.percentile(values, [2.5, 97.5]), abs=0.3 * float(np.std(values))
        )


@pytest.mark.parametrize("draws", [False, True])
def test_the_interval_covers_the_truth_95_times_in_100(draws: bool) -> None:
    """Five systems; 700 trials of correlated coverage leave a standard error under 0.8%."""
    strengths, rng, trials = np.array([0.6, 0.3, 0.0, -0.3, -0.6]), np.random.default_rng(1), 700
    truth = dict(zip(("00", "01", "02", "03", "04"), strengths.tolist(), strict=True))
    covered = 0
    for trial in range(trials):
        outcomes = play(strengths, 150, rng, draws=draws)
        spreads = rate_prompts(outcomes, scale=1.0, base=math.e, resamples=200, seed=trial)
        covered += sum(spread.low <= truth[system] <= spread.high for system, spread in spreads.items())
    assert 0.93 <= covered / (5 * trials) <= 0.97


def versus(won: int, lost: int) -> dict[tuple[str, str], np.ndarray]:
    """a against b on won + lost prompts."""
    return {("a", "b"): np.array([1.0] * won + [0.0] * lost)}


def test_resamples_without_a_maximum_can_only_widen() -> None:
    """20 wins to 5: losses in a resample are binomial(25, 1/5). P(0) = 0.4%, P(0 or 1) = 2.7%, so the 2.5% point is
    one loss, (ln 24) / 2 (it would be two if resamples without a loss were left out); P(<= 8) = 95.3% and
    P(<= 9) = 98.3%, so the other end is nine, (ln 16/9) / 2."""
    spread = rate_prompts(versus(20, 5), resamples=40_000, seed=0, **NATURAL)["a"]
    assert (spread.rating, spread.low, spread.high) == pytest.approx(
        (math.log(4) / 2, math.log(16 / 9) / 2, math.log(24) / 2), abs=1e-9
    )


def test_too_few_losses_leave_the_interval_open() -> None:
    """97 wins to 3: 0.97^100 = 4.8% of the resamples have no loss, more than the 2.5% outside an end."""
    intervals = rate_prompts(versus(97, 3), resamples=2000, seed=0, **NATURAL)
    half = math.log(97 / 3) / 2
    assert numbers(intervals["a"]) == pytest.approx((half, -math.inf, math.inf))
    assert numbers(intervals["b"]) == pytest.approx((-half, -math.inf, math.inf))


def test_a_single_resample_by_hand() -> None:
    """One win each: a resample of two has both in half of the cases (0, 0) and is open in the others."""
    spreads = {rate_prompts(versus(1, 1), resamples=1, seed=seed, **ELO)["a"] for seed in range(20)}
    assert spreads == {Spread(0.0, 0.0, 0.0), Spread(0.0, -math.inf, math.inf)}


def test_prompts_that_may_leave_no_maximum_open_the_interval() -> None:
    """a loses on 2 of 60 prompts: (58/60)^60 = 13% of the resamples hold neither."""
    spread = rate_prompts({("a", "b"): np.array([0.0] * 2 + [1.0] * 58)}, resamples=2000, seed=0, **ELO)["a"]
    assert numbers(spread) == pytest.approx((200 * math.log10(29), -math.inf, math.inf))


def test_the_same_seed_gives_the_same_spreads() -> None:
    outcomes = play(np.zeros(4), 50, np.random.default_rng(4), draws=True)
    first, second, third = (rate_prompts(outcomes, resamples=100, seed=seed, **ELO) for seed in (7, 7, 8))
    assert first == second != third


@pytest.mark.parametrize(
    ("outcomes", "message"),
    [
        ({}, "no pairs to rate"),
        ({("a", "b"): [1.0, 0.0], ("b", "c"): [1.0]}, r"over the same prompts; found shapes .*\(2,\).*\(1,\)"),
        ({("a", "b"): []}, "one outcome a prompt"),
        ({("a", "b"): [[1.0]]}, "one outcome a prompt"),
        ({("a", "b"): [1.0, 0.7]}, r"\('a', 'b'\) has 0.7 on prompt 1; pass 1 \(left won\), 0.5 \(draw\) or 0"),
        ({("a", "b"): [float("nan")]}, r"\('a', 'b'\) has nan on prompt 0"),
        ({("a", "a"): [0.5]}, "'a' plays itself"),
    ],
)
def test_outcomes_that_are_none_are_named(outcomes: dict, message: str) -> None:
    arrays = {pair: np.array(scores) for pair, scores in outcomes.items()}
    with pytest.raises(ValueError, match=message):
        rate_prompts(arrays, resamples=2, seed=0, **ELO)
    with pytest.raises(ValueError, match=message):
        games_of(arrays)


def test_what_cannot_be_rated_is_named() -> None:
    with pytest.raises(ValueError, match=r"\['a'\] won every game against \['b'\]"):
        rate_prompts({("a", "b"): np.ones(3)}, resamples=2, seed=0, **ELO)
    with pytest.raises(ValueError, match="resamples=0: pass at least 1"):
        rate_prompts(reversed_on(7), resamples=0, seed=0, **ELO)
    with pytest.raises(ValueError, match="scale=0.0, base=10.0"):
        rate_prompts(reversed_on(7), scale=0.0, base=10.0, resamples=2, seed=0)
