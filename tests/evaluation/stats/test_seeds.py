"""evaluation/seeds.py: intervals by hand, their coverage, and rows that must match."""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pit_jax.evaluation.stats.seeds import aggregate, curve_over, spread

NUMBERS = st.lists(st.floats(-100, 100), min_size=2, max_size=12)


def comparison(delta: float, **fields: object) -> dict:
    return {
        "temperature": 0.8,
        "judge": "rubric",
        "left": "PIT x1",
        "right": "policy",
        "delta": delta,
        "low": delta - 1.5,
        "n": 64,
    } | fields


def system(score: float | None, **fields: object) -> dict:
    return {"name": "policy", "temperature": 0.8, "score_mean": score, "score_std": 1.0} | fields


def test_three_seeds_by_hand() -> None:
    """1, 2 and 6: mean 3; squares of the differences 4 + 1 + 9 = 14, so sd = sqrt(14 / 2) = 2.645751; t at two degrees
    of freedom is 4.302653, so the interval is 3 -+ 4.302653 * 2.645751 / sqrt(3) = 3 -+ 6.572411."""
    found = spread([2.0, 6.0, 1.0])
    assert (found.mean, found.smallest, found.largest) == (3.0, 1.0, 6.0)
    assert found.sd == pytest.approx(2.645751, abs=1e-6)
    assert (found.low, found.high) == pytest.approx((-3.572411, 9.572411), abs=1e-5)


def test_two_seeds_by_hand() -> None:
    """10 and 14: mean 12, sd = sqrt((4 + 4) / 1) = 2.828427, and sd / sqrt(2) = 2: 12 -+ 12.706205 * 2."""
    found = spread([10.0, 14.0])
    assert found.sd == pytest.approx(2.828427, abs=1e-6)
    assert (found.low, found.high) == pytest.approx((12 - 25.412409, 12 + 25.412409), abs=1e-5)


def test_seeds_that_agree_have_an_interval_without_width() -> None:
    found = spread([5.0, 5.0, 5.0])
    assert (found.sd, found.low, found.high) == (0.0, 5.0, 5.0)


@pytest.mark.parametrize("seeds", [2, 3, 5])
def test_the_interval_holds_the_truth_19_times_in_20(seeds: int) -> None:
    """2,000 sets of normal values: the share has a standard error of 0.005."""
    drawn = np.random.default_rng(seeds).normal(7.0, 3.0, (2000, seeds))
    held = [found.low <= 7.0 <= found.high for found in map(spread, drawn)]
    assert np.mean(held) == pytest.approx(0.95, abs=0.015)


@given(NUMBERS, st.floats(-50, 50), st.floats(0.1, 10))
def test_a_shift_and_a_scale_pass_through(values: list[float], shift: float, scale: float) -> None:
    before, after = spread(values), spread([scale * value + shift for value in values])
    for name in ("mean", "low", "high", "smallest", "largest"):
        assert getattr(after, name) == pytest.approx(scale * getattr(before, name) + shift, rel=1e-6, abs=1e-6)
    assert after.sd == pytest.approx(scale * before.sd, rel=1e-6, abs=1e-6)


@given(NUMBERS)
def test_the_order_of_seeds_does_not_matter(values: list[float]) -> None:
    before, after = spread(values), spread(values[::-1])
    assert after.low == pytest.approx(before.low, abs=1e-9) and after.high == pytest.approx(before.high, abs=1e-9)


def test_a_row_over_seeds() -> None:
    results = {seed: {"rows": [comparison(delta)]} for seed, delta in ((7, 2.0), (3, 6.0), (5, -2.0))}
    tables = aggregate(results, file="evaluate/results.json")
    (row,) = tables["rows"]
    assert row["values"] == [2.0, 6.0, -2.0] and row["above"] == 2
    assert (row["temperature"], row["judge"], row["left"], row["right"]) == (0.8, "rubric", "PIT x1", "policy")
    assert (row["mean"], row["sd"], row["smallest"], row["largest"], row["n"]) == (2.0, 4.0, -2.0, 6.0, 64)
    assert (row["low"], row["high"]) == pytest.approx((2 - 9.936551, 2 + 9.936551), abs=1e-5)  # 4.302653 * 4 / sqrt(3)


def test_a_seed_is_above_with_its_whole_interval() -> None:
    (row,) = aggregate({0: {"rows": [comparison(1.5)]}, 1: {"rows": [comparison(1.6)]}}, file="f")["rows"]
    assert row["above"] == 1


def test_rows_are_matched_by_their_names_and_not_by_their_place() -> None:
    first = [comparison(1.0), comparison(10.0, judge="gap"), comparison(20.0, temperature=0.4)]
    second = [comparison(22.0, temperature=0.4), comparison(3.0), comparison(14.0, judge="gap")]
    rows = aggregate({0: {"rows": first}, 1: {"rows": second}}, file="f")["rows"]
    assert [row["mean"] for row in rows] == [2.0, 12.0, 21.0]


def test_every_list_of_comparisons_and_of_systems_is_found_whatever_its_name() -> None:
    """Controls have no temperature; what is no list of such rows, or holds no number, is left alone."""
    control = {"judge": "gap", "left": "copy", "right": "policy", "delta": 1.0, "low": 0.0, "n": 8}

    def content(delta: float) -> dict:
        return {
            "judge_names": ["rubric", "gap"],
            "headline_temperature": 0.8,
            "max_score": None,
            "empty": [],
            "table": [comparison(delta)],
            "sweep": [comparison(delta, temperature=t) for t in (0.4, 1.0)],
            "controls": [control | {"delta": delta}],
            "systems": [system(delta), system(None, name="PIT x1")],
        }

    tables = aggregate({0: content(1.0), 1: content(4.0)}, file="paper/results.json")
    assert {name: len(rows) for name, rows in tables.items()} == {"table": 1, "sweep": 2, "controls": 1, "systems": 1}
    assert next(iter(tables)) == "table"
    assert tables["controls"][0]["temperature"] is None and tables["controls"][0]["mean"] == 2.5
    (policy,) = tables["systems"]
    assert (policy["name"], policy["mean"], policy["values"]) == ("policy", 2.5, [1.0, 4.0])
    assert policy["sd"] == pytest.approx(2.121320, abs=1e-6) and "above" not in policy  # sqrt(2 * 1.5^2)


@pytest.mark.parametrize(
    ("third", "message"),
    [
        ([], "seed 2: evaluate/results.json, rows: found 0 rows of temperature 0.8, judge rubric, left PIT x1, right"),
        ([comparison(1.0, left="PIT x2")], "seed 2: .* found 0 rows of .* left PIT x1"),
        ([comparison(1.0), comparison(2.0, temperature=1.0)], "seed 0: .* found 0 rows of temperature 1.0"),
        ([comparison(1.0), comparison(2.0)], "seed 2: .* found 2 rows .* asked for one in every seed"),
        ([comparison(1.0, n=32)], "left PIT x1, right policy is over different prompts .*64 in seed 1, 32 in seed 2"),
    ],
)
def test_seeds_that_compared_something_else(third: list[dict], message: str) -> None:
    results = {0: {"rows": [comparison(1.0)]}, 1: {"rows": [comparison(1.0)]}, 2: {"rows": third}}
    with pytest.raises(ValueError, match=message):
        aggregate(results, file="evaluate/results.json")


def test_a_list_that_one_seed_lacks() -> None:
    with pytest.raises(ValueError, match="seed 1: paper/results.json, sweep: found 0 rows"):
        aggregate({0: {"sweep": [comparison(1.0)]}, 1: {}}, file="paper/results.json")


def test_a_curve_over_seeds_by_hand() -> None:
    """Steps 5 and 10 are shared: means 2 and 4, standard deviations sqrt(2) and 0."""
    steps, found = curve_over([([0, 5, 10], [9.0, 1.0, 4.0]), ([5, 10, 15], [3.0, 4.0, 9.0])])
    assert steps == [5, 10] and [at.mean for at in found] == [2.0, 4.0]
    assert [at.sd for at in found] == pytest.approx([math.sqrt(2), 0.0])


def test_a_curve_that_a_seed_lacks_is_empty() -> None:
    assert curve_over([([0, 1], [1.0, 2.0]), ([], [])]) == ([], [])
