import numpy as np
import pytest

from pit_jax.evaluation.stats.comparison import compare, outcomes


def test_known_numbers() -> None:
    left_N = np.array([3.0, 2.0, 1.0, 5.0, 4.0, 0.0, 2.0, 2.0, 9.0, 1.0])
    right_N = np.array([1.0, 1.0, 2.0, 5.0, 3.5, 0.0, 2.0, 2.5, 1.0, 0.0])
    result = compare(left_N, right_N, tie_margin=0.5, resamples=500, seed=0)
    # differences: 2, 1, -1, 0, 0.5 (tie), 0, 0, -0.5 (tie), 8, 1
    assert (result.win, result.lose, result.tie) == pytest.approx((40.0, 10.0, 50.0))
    assert result.delta == pytest.approx(30.0)
    assert result.n == 10
    assert result.low < result.delta < result.high


def test_the_interval_of_a_win_and_a_loss() -> None:
    """A quarter of the resamples is 100, a quarter -100."""
    result = compare(np.array([1.0, 0.0]), np.array([0.0, 1.0]), tie_margin=0.0, resamples=2000, seed=0)
    assert (result.delta, result.low, result.high) == (0.0, -100.0, 100.0)


def test_the_margin_decides_ties() -> None:
    left_N, right_N = np.array([1.0, 0.0]), np.array([0.0, 0.4])
    strict = compare(left_N, right_N, tie_margin=0.0, resamples=10, seed=0)
    wide = compare(left_N, right_N, tie_margin=0.4, resamples=10, seed=0)
    assert (strict.win, strict.lose, strict.tie) == (50.0, 50.0, 0.0)
    assert (wide.win, wide.lose, wide.tie) == (50.0, 0.0, 50.0)


def test_outcomes_are_wins_ties_and_losses() -> None:
    """Differences 2, 0.5, 0, -0.5, -0.6 with a margin of 0.5."""
    outcomes_N = outcomes(np.array([2.0, 0.5, 0.0, -0.5, -0.6]), np.zeros(5), tie_margin=0.5)
    assert outcomes_N.tolist() == [1.0, 0.5, 0.5, 0.5, 0.0]


def test_swapping_the_systems_flips_the_delta() -> None:
    rng = np.random.default_rng(1)
    left_N, right_N = rng.normal(size=400) + 0.3, rng.normal(size=400)
    forward = compare(left_N, right_N, tie_margin=0.2, resamples=20_000, seed=0)
    backward = compare(right_N, left_N, tie_margin=0.2, resamples=20_000, seed=1)
    assert forward.delta == -backward.delta
    assert forward.low == pytest.approx(-backward.high, abs=0.8)


def test_the_multinomial_draw_is_the_bootstrap_over_prompts() -> None:
    rng = np.random.default_rng(2)
    left_N, right_N = rng.normal(size=300) + 0.1, rng.normal(size=300)
    result = compare(left_N, right_N, tie_margin=0.1, resamples=20_000, seed=0)
    sign_N = np.where(np.abs(left_N - right_N) <= 0.1, 0.0, np.sign(left_N - right_N))
    deltas = sign_N[rng.integers(300, size=(20_000, 300))].mean(axis=1) * 100
    assert (result.low, result.high) == pytest.approx(np.percentile(deltas, [2.5, 97.5]), abs=0.5)


@pytest.mark.parametrize("shares", [(0.4, 0.2, 0.4), (0.1, 0.05, 0.85), (0.5, 0.5, 0.0)])
def test_the_interval_covers_the_truth_95_times_in_100(shares: tuple[float, float, float]) -> None:
    rng = np.random.default_rng(3)
    truth, trials, covered = 100 * (shares[0] - shares[1]), 2000, 0
    for trial in range(trials):
        left_N = rng.choice([1.0, -1.0, 0.0], size=500, p=shares)
        result = compare(left_N, np.zeros(500), tie_margin=0.0, resamples=1000, seed=trial)
        covered += result.low <= truth <= result.high
    assert 0.93 <= covered / trials <= 0.97


def test_the_same_seed_gives_the_same_interval() -> None:
    left_N, right_N = np.random.default_rng(4).normal(size=(2, 50))
    first, second = (compare(left_N, right_N, tie_margin=0.0, resamples=200, seed=7) for _ in range(2))
    assert first == second


def test_a_clean_sweep_has_no_width() -> None:
    result = compare(np.ones(8), np.zeros(8), tie_margin=0.0, resamples=100, seed=0)
    assert (result.delta, result.low, result.high) == (100.0, 100.0, 100.0)


@pytest.mark.parametrize(
    ("left", "right", "margin", "resamples", "message"),
    [
        ([1.0, 2.0], [1.0], 0.0, 10, r"shapes \(2,\) and \(1,\)"),
        ([[1.0]], [[1.0]], 0.0, 10, "two vectors"),
        ([], [], 0.0, 10, "no prompts"),
        ([1.0, float("nan")], [0.0, 0.0], 0.0, 10, "1 of 2 prompts have a NaN or infinite score, first at index 1"),
        ([1.0], [float("inf")], 0.0, 10, "NaN or infinite"),
        ([1.0], [0.0], -0.1, 10, "tie_margin=-0.1"),
        ([1.0], [0.0], float("nan"), 10, "tie_margin=nan"),
        ([1.0], [0.0], 0.0, 0, "resamples=0"),
    ],
)
def test_bad_input_is_named(left: list, right: list, margin: float, resamples: int, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        compare(np.array(left), np.array(right), tie_margin=margin, resamples=resamples, seed=0)
