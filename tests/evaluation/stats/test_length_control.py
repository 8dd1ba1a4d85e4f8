import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from pit_jax.evaluation.stats.length_control import INTERCEPT_RIDGE, SLOPE_RIDGE, LengthControl, control_length

BASE = 200


def control(outcomes: np.ndarray, differences: np.ndarray, resamples: int = 200, seed: int = 0) -> LengthControl:
    """Left is `differences` tokens longer than answers of 200 tokens."""
    right_N = np.full(len(outcomes), BASE)
    return control_length(outcomes, right_N + differences, right_N, resamples=resamples, seed=seed)


def plain(outcomes_N: np.ndarray) -> float:
    return 100 * float(np.mean(outcomes_N))


def sigmoid(x: np.ndarray) -> np.ndarray:
    return 1 / (1 + np.exp(-x))


def test_known_numbers() -> None:
    """5 longer: 2,700 of 3,000 won, odds 9. 5 shorter: 500 of 1,000, odds 1. At equal lengths the odds are their
    geometric mean 3: 75%. Plain: 3,200 of 4,000 = 80%. 2,700 wins are 5 longer, 500 are 5 shorter: (2,700 - 500) * 5 /
    3,200 = 3.4375 tokens; 300 losses are longer, 500 shorter: -200 * 5 / 800 = -1.25; left is 205 * 0.75 + 195 * 0.25.
    """
    outcomes_N = np.repeat([1.0, 0.0, 1.0, 0.0], [2700, 300, 500, 500])
    differences_N = np.repeat([5, -5], [3000, 1000])
    found = control(outcomes_N, differences_N)
    assert found.lc_win_rate == pytest.approx(75.0, abs=0.01)
    assert plain(outcomes_N) == 80.0
    assert found.lc_low < 75.0 < found.lc_high
    lengths = found.left_tokens, found.right_tokens, found.win_tokens, found.lose_tokens
    assert lengths == pytest.approx((202.5, 200.0, 3.4375, -1.25))


def test_ties_are_half_a_win() -> None:
    """1,000 ties and 1,000 wins of equally long answers: 75%, and nobody loses."""
    found = control(np.repeat([0.5, 1.0], 1000), np.zeros(2000))
    assert found.lc_win_rate == pytest.approx(75.0, abs=0.01)
    assert found.win_tokens == 0.0 and found.lose_tokens is None


def test_equal_lengths_give_the_plain_rate() -> None:
    outcomes_N = np.random.default_rng(0).choice([1.0, 0.5, 0.0], 1000, p=[0.5, 0.3, 0.2])
    found = control(outcomes_N, np.zeros(1000), resamples=4000)
    assert found.lc_win_rate == pytest.approx(plain(outcomes_N), abs=0.02)
    deltas = np.random.default_rng(1).choice(outcomes_N, (4000, 1000)).mean(axis=1) * 100
    assert (found.lc_low, found.lc_high) == pytest.approx(np.percentile(deltas, [2.5, 97.5]), abs=0.25)


@pytest.mark.parametrize("offset", [0, 12])
def test_lengths_that_do_not_matter_leave_the_plain_rate(offset: int) -> None:
    """Also where left is longer nearly everywhere; the wider interval then says that 0 is far from the prompts."""
    rng = np.random.default_rng(1)
    outcomes_N = rng.choice([1.0, 0.5, 0.0], 20_000, p=[0.5, 0.3, 0.2])
    found = control(outcomes_N, np.rint(rng.normal(offset, 8, 20_000)))
    assert found.lc_win_rate == pytest.approx(plain(outcomes_N), abs=2.0)
    assert found.lc_low < 65.0 < found.lc_high


@pytest.mark.parametrize("differences", ["around 0", "shifted", "always longer", "constant"])
def test_a_judge_that_only_likes_length_is_left_with_50(differences: str) -> None:
    rng = np.random.default_rng(2)
    normal_N = np.rint(rng.normal(0, 8, 1000))
    options = {"around 0": normal_N, "shifted": normal_N + 8, "always longer": np.abs(normal_N) + 1}
    differences_N = options.get(differences, np.full(1000, 3.0))
    outcomes_N = (np.sign(differences_N) + 1) / 2
    found = control(outcomes_N, differences_N)
    assert found.lc_win_rate == pytest.approx(50.0, abs=0.5)
    assert 49.0 <= found.lc_low <= found.lc_high <= 51.0


@pytest.mark.parametrize("verbosity", [-10, 0, 10])
def test_talking_more_does_not_move_the_controlled_rate(verbosity: int) -> None:
    """Left is better by a logit of 0.4 = 59.9% at any verbosity; the judge adds up to 1.5 for length."""
    rng = np.random.default_rng(3)
    differences_N = np.rint(rng.normal(verbosity, 12, 40_000))
    scale = np.sqrt(np.mean(differences_N**2))
    outcomes_N = (rng.random(40_000) < sigmoid(0.4 + 1.5 * np.tanh(differences_N / scale))).astype(float)
    assert control(outcomes_N, differences_N).lc_win_rate == pytest.approx(59.9, abs=1.0)
    low, high = {-10: (40, 47), 0: (56, 60), 10: (70, 77)}[verbosity]
    assert low < plain(outcomes_N) < high


@given(
    st.integers(1, 12).flatmap(
        lambda n: st.tuples(
            arrays.arrays(float, n, elements=st.sampled_from([0.0, 0.5, 1.0])),
            arrays.arrays(float, n, elements=st.integers(-BASE, 10_000).map(float)),
        )
    )
)
def test_a_fit_is_finite_and_swapping_the_sides_mirrors_it(rows: tuple[np.ndarray, np.ndarray]) -> None:
    outcomes_N, left_N = rows[0], rows[1] + BASE
    right_N = np.full(left_N.shape, BASE)
    found = control_length(outcomes_N, left_N, right_N, resamples=20, seed=0)
    swapped = control_length(1 - outcomes_N, right_N, left_N, resamples=20, seed=0)
    assert all(0.0 <= value <= 100.0 for value in (found.lc_win_rate, found.lc_low, found.lc_high))
    assert swapped.lc_win_rate == pytest.approx(100 - found.lc_win_rate, abs=1e-3)
    assert (swapped.win_tokens, swapped.left_tokens) == (
        None if found.lose_tokens is None else pytest.approx(-found.lose_tokens),
        found.right_tokens,
    )


def test_the_fit_is_the_top_of_the_likelihood() -> None:
    """Against the likelihood written out in JAX, climbed by gradient steps: independent of the Newton steps."""
    rng = np.random.default_rng(4)
    differences_N = np.rint(rng.normal(3, 6, 60))
    outcomes_N = rng.choice([1.0, 0.5, 0.0], 60, p=[0.5, 0.2, 0.3])
    lengths_N = jnp.asarray(np.tanh(differences_N / np.sqrt(np.mean(differences_N**2))), jnp.float32)

    def loss(at: jax.Array) -> jax.Array:
        logits_N = at[0] + at[1] * lengths_N
        ridge = (INTERCEPT_RIDGE * at[0] ** 2 + SLOPE_RIDGE * at[1] ** 2) / 2
        return ridge - jnp.sum(outcomes_N.astype(np.float32) * logits_N - jnp.logaddexp(0.0, logits_N))

    at = jnp.zeros(2)
    slope = jax.jit(jax.grad(loss))
    for _ in range(300):
        at = at - 0.08 * slope(at)
    assert control(outcomes_N, differences_N).lc_win_rate == pytest.approx(float(100 * jax.nn.sigmoid(at[0])), abs=0.01)


@pytest.mark.parametrize(("offset", "ties"), [(0.0, 0.0), (2.0, 0.3)])
def test_the_interval_covers_the_truth_95_times_in_100(offset: float, ties: float) -> None:
    """The truth is the rate of 400,000 prompts: with ties the model is only the nearest one."""
    rng = np.random.default_rng(5)

    def draw(n: int) -> tuple[np.ndarray, np.ndarray]:
        differences_N = np.rint(rng.normal(offset, 4, n))
        won_N = rng.random(n) < sigmoid(0.5 + 0.8 * np.tanh(differences_N / 4))
        return np.where(rng.random(n) < ties, 0.5, won_N), differences_N

    truth, trials, covered = control(*draw(400_000), resamples=1).lc_win_rate, 1000, 0
    for trial in range(trials):
        found = control(*draw(400), resamples=300, seed=trial)
        covered += found.lc_low <= truth <= found.lc_high
    assert 0.93 <= covered / trials <= 0.97


def test_the_same_seed_gives_the_same_interval() -> None:
    rng = np.random.default_rng(6)
    rows = rng.choice([1.0, 0.5, 0.0], 100), np.rint(rng.normal(0, 5, 100))
    assert control(*rows, seed=3) == control(*rows, seed=3) != control(*rows, seed=4)


@pytest.mark.parametrize(
    ("outcomes", "left", "right", "resamples", "message"),
    [
        ([], [], [], 10, "at least one prompt"),
        ([1.0], [5, 6], [5, 6], 10, r"found shapes \[\(1,\), \(2,\), \(2,\)\]"),
        ([1.0, 0.0], [5], [5, 6], 10, "two lengths"),
        ([2.0], [5], [5], 10, "an outcome is 1"),
        ([float("nan")], [5], [5], 10, "an outcome is 1"),
        ([1.0], [-1], [5], 10, "finite and not negative"),
        ([1.0], [5], [float("inf")], 10, "finite and not negative"),
        ([1.0], [5], [5], 0, "resamples=0"),
    ],
)
def test_bad_input_is_named(outcomes: list, left: list, right: list, resamples: int, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        control_length(np.array(outcomes), np.array(left), np.array(right), resamples=resamples, seed=0)
