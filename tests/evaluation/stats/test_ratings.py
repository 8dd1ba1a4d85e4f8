"""evaluation/ratings.py: ratings by hand, the likelihood equations, what order does, and coverage by simulation."""

import itertools
import math
import random
from collections.abc import Sequence

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pit_jax.evaluation.stats.ratings import Game, Spread, bradley_terry, elo, shuffled_elo

ELO = {"scale": 400.0, "base": 10.0}
NATURAL = {"scale": 1.0, "base": math.e}
SEQUENCE: list[Game] = [("a", "b", 1), ("c", "a", 0.5), ("b", "c", 0), ("a", "b", 0), ("c", "b", 1), ("a", "c", 0)]

results = st.sampled_from([0.0, 0.5, 1.0])
pairs = st.sampled_from([pair for pair in itertools.permutations("abcd", 2)])
game_lists = st.lists(st.tuples(pairs, results).map(lambda g: (*g[0], g[1])), min_size=1, max_size=25)


def numbers(spread: Spread) -> tuple[float, float, float]:
    return spread.rating, spread.low, spread.high


def series(left: str, right: str, wins: int, losses: int, draws: int = 0) -> list[Game]:
    return [(left, right, 1.0)] * wins + [(left, right, 0.0)] * losses + [(left, right, 0.5)] * draws


def connected(games: Sequence[Game]) -> list[Game]:
    """The games and a round of draws, so that everyone took half a point from a neighbour."""
    return [*games, ("a", "b", 0.5), ("b", "c", 0.5), ("c", "d", 0.5)]


def chance(left: float, right: float) -> float:
    """That left beats right at ratings in Elo's units."""
    return 1 / (1 + 10 ** ((right - left) / 400))


def surplus(games: Sequence[Game], ratings: dict[str, float]) -> dict[str, float]:
    """Everyone's points less what the ratings expect."""
    points = dict.fromkeys(ratings, 0.0)
    for left, right, score in games:
        points[left] += score - chance(ratings[left], ratings[right])
        points[right] -= score - chance(ratings[left], ratings[right])
    return points


def simulate(ratings: dict[str, float], per_pair: int, rng: np.random.Generator, *, draws: bool = False) -> list[Game]:
    """A round robin. With draws a score is the mean of two coins, which leaves its expectation alone."""
    games: list[Game] = []
    for left, right in itertools.combinations(ratings, 2):
        coins = rng.random((per_pair, 2)) < chance(ratings[left], ratings[right])
        scores = coins.mean(axis=1) if draws else coins[:, 0].astype(float)
        games += [(left, right, score) for score in scores.tolist()]
    return games


def test_elo_by_hand() -> None:
    """k = 32 from 1500. A win between equals moves 16. Then b, 32 behind, beats a, whose expectation is
    1 / (1 + 10^(-32/400)) = 0.545922: a loses 32 * 0.545922 = 17.4695."""
    assert elo([("a", "b", 1)], k=32, initial=1500) == {"a": 1516.0, "b": 1484.0}
    after = elo([("a", "b", 1), ("b", "a", 1)], k=32, initial=1500)
    assert after == pytest.approx({"a": 1498.5305, "b": 1501.4695}, abs=1e-4)


def test_elo_against_a_plain_loop() -> None:
    want = dict.fromkeys("abc", 1000.0)
    for left, right, score in SEQUENCE:
        change = 24 * (score - chance(want[left], want[right]))
        want[left], want[right] = want[left] + change, want[right] - change
    assert elo(SEQUENCE, k=24, initial=1000) == pytest.approx(want, rel=1e-12)
    assert sum(want.values()) == pytest.approx(3000)


def test_a_draw_between_equals_moves_nothing_and_one_against_the_weaker_costs() -> None:
    assert elo([("a", "b", 0.5)], k=32, initial=0) == {"a": 0.0, "b": 0.0}
    after = elo([("a", "b", 1), ("a", "b", 0.5)], k=32, initial=0)
    assert 0 < after["a"] < 16


def test_elo_depends_on_the_order_and_bradley_terry_does_not() -> None:
    backward = SEQUENCE[::-1]
    assert elo(SEQUENCE, k=32, initial=0) != elo(backward, k=32, initial=0)
    assert bradley_terry(SEQUENCE, **ELO) == bradley_terry(backward, **ELO)


def test_shuffled_elo_by_hand() -> None:
    """One win each: whoever wins last ends 1.4695 above 1500 (`test_elo_by_hand`), so both ends are known."""
    spreads = shuffled_elo([("a", "b", 1), ("b", "a", 1)], k=32, initial=1500, shuffles=400, seed=0)
    for spread in spreads.values():
        assert (spread.low, spread.high) == pytest.approx((1498.5305, 1501.4695), abs=1e-4)
        assert spread.rating == pytest.approx(1500, abs=0.3)  # 400 fair coins: four standard errors


def test_shuffled_elo_is_the_mean_over_all_orders() -> None:
    """Of 720 orders of six games: their mean, and ends with one order in forty outside, from 4,000 random ones."""
    orders = [elo(order, k=32, initial=0) for order in itertools.permutations(SEQUENCE)]
    spreads = shuffled_elo(SEQUENCE, k=32, initial=0, shuffles=4000, seed=0)
    for name, spread in spreads.items():
        every = [ratings[name] for ratings in orders]
        assert spread.rating == pytest.approx(np.mean(every), abs=4 * float(np.std(every)) / math.sqrt(4000))
        for outward in (spread.low - np.array(every), np.array(every) - spread.high):
            assert np.mean(outward > 1e-9) <= 0.035  # 0.025 and four standard errors of 4,000 draws
            assert np.mean(outward > -1e-9) >= 0.015


def test_an_order_that_cannot_matter_has_no_width() -> None:
    spreads = shuffled_elo([("a", "b", 1), ("c", "d", 0)], k=32, initial=0, shuffles=50, seed=0)
    assert spreads["a"] == spreads["d"] == Spread(16.0, 16.0, 16.0)


def test_three_wins_to_one() -> None:
    """p_a / p_b = 3: 400 log10(3) = 190.85 apart, half of it on either side of 0. A draw is half a win each way."""
    half = 200 * math.log10(3)
    want = pytest.approx({"a": half, "b": -half}, abs=1e-9)
    assert bradley_terry(series("a", "b", 3, 1), **ELO) == want
    assert bradley_terry(series("a", "b", 2, 0, draws=2), **ELO) == want
    assert bradley_terry(series("a", "b", 3000, 1000), **ELO) == want


def test_three_systems_by_hand() -> None:
    """a beats b 3:0, b beats c 3:0, a beats c 3:2. Strengths 4, 2, 1 solve the likelihood equations:

    a has 6 points of 3 * 4/6 + 5 * 4/5 = 6, b has 3 of 3 * 2/6 + 3 * 2/3 = 3, c has 2 of 3 * 1/3 + 5 * 1/5 = 2.
    In powers of two, mean 0: 1, 0, -1.
    """
    games = series("a", "b", 3, 0) + series("b", "c", 3, 0) + series("a", "c", 3, 2)
    assert bradley_terry(games, scale=1, base=2) == pytest.approx({"a": 1.0, "b": 0.0, "c": -1.0}, abs=1e-9)


def test_a_circle_makes_equals() -> None:
    games = series("a", "b", 5, 1) + series("b", "c", 5, 1) + series("c", "a", 5, 1)
    assert bradley_terry(games, **ELO) == pytest.approx(dict.fromkeys("abc", 0.0), abs=1e-9)


@pytest.mark.parametrize("systems", [3, 11, 30])
def test_a_long_chain_of_lopsided_pairs_is_exact(systems: int) -> None:
    """Neighbours alone play, 5000:1 each, so that each step of the chain is ln 5000 on its own."""
    names = [f"{i:02}" for i in range(systems)]
    games = [game for left, right in itertools.pairwise(names) for game in series(left, right, 5000, 1)]
    ratings = bradley_terry(games, **NATURAL)
    steps = [ratings[left] - ratings[right] for left, right in itertools.pairwise(names)]
    np.testing.assert_allclose(steps, math.log(5000), atol=1e-9)


@settings(max_examples=60)
@given(games=game_lists)
def test_the_likelihood_equations_hold(games: list[Game]) -> None:
    """At the maximum everyone's points are what the ratings expect, and nowhere else: the likelihood is concave."""
    games = connected(games)
    ratings = bradley_terry(games, **ELO)
    np.testing.assert_allclose(list(surplus(games, ratings).values()), 0.0, atol=1e-8)
    assert sum(ratings.values()) == pytest.approx(0, abs=1e-8)


def test_a_search_that_full_steps_would_lose() -> None:
    """Found by chance: from equal strengths, full Newton steps run off to infinity here."""
    wins = {"ab": 1, "bd": 1490, "cb": 11, "da": 1200, "de": 6, "ea": 871, "ec": 9642}
    games = [game for pair, count in wins.items() for game in series(pair[0], pair[1], count, 0)]
    np.testing.assert_allclose(list(surplus(games, bradley_terry(games, **ELO)).values()), 0.0, atol=1e-8)


@settings(max_examples=30)
@given(games=game_lists, shuffle=st.randoms(use_true_random=False))
def test_neither_order_nor_side_counts(games: list[Game], shuffle: random.Random) -> None:
    games = connected(games)
    turned = [
        (right, left, 1 - score) if shuffle.random() < 0.5 else (left, right, score) for left, right, score in games
    ]
    shuffle.shuffle(turned)
    assert bradley_terry(turned, **ELO) == bradley_terry(games, **ELO)


@settings(max_examples=30)
@given(games=game_lists, renamed=st.permutations("abcd"))
def test_names_are_only_names_and_losing_is_winning_turned(games: list[Game], renamed: list[str]) -> None:
    games = connected(games)
    ratings, name = bradley_terry(games, **ELO), dict(zip("abcd", renamed, strict=True))
    moved = bradley_terry([(name[left], name[right], score) for left, right, score in games], **ELO)
    assert moved == pytest.approx({name[old]: rating for old, rating in ratings.items()}, abs=1e-7)
    lost = bradley_terry([(left, right, 1 - score) for left, right, score in games], **ELO)
    assert lost == pytest.approx({old: -rating for old, rating in ratings.items()}, abs=1e-7)


@settings(max_examples=100)
@given(games=game_lists)
def test_a_maximum_exists_when_no_group_kept_every_point(games: list[Game]) -> None:
    """By trying every group: outsiders must have taken at least half a point from it."""
    names = sorted({name for game in games for name in game[:2]})
    groups = [set(group) for n in range(1, len(names)) for group in itertools.combinations(names, n)]
    taken = [(left, right) for left, right, score in games if score < 1]
    taken += [(right, left) for left, right, score in games if score > 0]
    given_up = [any(loser in group and winner not in group for loser, winner in taken) for group in groups]
    if all(given_up):
        assert set(bradley_terry(games, **ELO)) == set(names)
    else:
        with pytest.raises(ValueError, match="no finite ratings"):
            bradley_terry(games, **ELO)


def test_known_strengths_are_recovered() -> None:
    """PIT's Table 3 in size: 11 systems, 55 pairs, 55,000 games. A rating's standard error is about
    (400 / ln 10) / sqrt(11 * 1000 * 0.22) = 3.5 points, 0.22 the mean of chance * (1 - chance): 15 is four of them."""
    truth = {f"system {i:02}": 30.0 * (i - 5) for i in range(11)}
    ratings = bradley_terry(simulate(truth, 1000, np.random.default_rng(0)), **ELO)
    assert ratings == pytest.approx(truth, abs=15)


def test_units() -> None:
    natural, elos = bradley_terry(SEQUENCE, **NATURAL), bradley_terry(SEQUENCE, **ELO)
    assert elos == pytest.approx({name: 400 / math.log(10) * rating for name, rating in natural.items()})


def test_the_same_seed_gives_the_same_spreads() -> None:
    games = SEQUENCE * 10
    first, second, third = (shuffled_elo(games, k=32, initial=0, shuffles=20, seed=seed) for seed in (7, 7, 8))
    assert first == second != third


@pytest.mark.parametrize(
    ("games", "message"),
    [
        ([], "no games to rate"),
        ([("a", "b", 1), ("a", "b", 0.7)], r"game 1 \('a', 'b'\): score 0.7; pass 1 \(left won\), 0.5 \(draw\) or 0"),
        ([("a", "b", float("nan"))], r"game 0 \('a', 'b'\): score nan"),
        ([("a", "a", 0.5)], "game 0: 'a' plays itself"),
    ],
)
def test_games_that_are_none_are_named(games: list[Game], message: str) -> None:
    for rate in (
        lambda: elo(games, k=32, initial=0),
        lambda: shuffled_elo(games, k=32, initial=0, shuffles=2, seed=0),
        lambda: bradley_terry(games, **ELO),
    ):
        with pytest.raises(ValueError, match=message):
            rate()


@pytest.mark.parametrize(
    ("games", "message"),
    [
        (
            series("a", "b", 9, 0) + series("b", "c", 1, 1),
            r"\['a'\] won every game against \['b', 'c'\]; there must be",
        ),
        (series("a", "b", 1, 1) + series("a", "c", 9, 0), r"\['a', 'b'\] won every game against \['c'\]"),
        (series("a", "b", 0, 0, draws=1) + series("c", "d", 1, 1), r"\['a', 'b'\] never met \['c', 'd'\]"),
    ],
)
def test_systems_that_cannot_be_compared_are_named(games: list[Game], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        bradley_terry(games, **ELO)


@pytest.mark.parametrize(("scale", "base"), [(0.0, 10.0), (-1.0, 10.0), (400.0, 1.0), (400.0, 0.5), (math.nan, 10.0)])
def test_units_that_do_not_rise_are_named(scale: float, base: float) -> None:
    message = f"scale={scale}, base={base}: pass scale > 0 and base > 1"
    with pytest.raises(ValueError, match=message):
        bradley_terry(SEQUENCE, scale=scale, base=base)


def test_counts_below_one_are_named() -> None:
    with pytest.raises(ValueError, match="k=0: a game must move the ratings"):
        elo(SEQUENCE, k=0, initial=0)
    with pytest.raises(ValueError, match="shuffles=0: pass at least 1"):
        shuffled_elo(SEQUENCE, k=32, initial=0, shuffles=0, seed=0)
