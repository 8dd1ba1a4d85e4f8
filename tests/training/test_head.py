"""The least of a loss of scores that are linear in their weights, against an independent optimiser."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.optimize import root
from scipy.special import expit

from pit_jax.training import head as module
from pit_jax.training.head import Linear, least, linear, stacked


def logistic(scores: dict[str, Any]) -> tuple[jax.Array, dict[str, Any]]:
    """Left over right, as in a reward model."""
    return jnp.mean(jax.nn.softplus(scores["right"] - scores["left"])), {}


def drawn(count: int, width: int, seed: int, *, sharpness: float) -> Linear:
    """Pairs whose first feature says which one is better, as a rule; every feature has its own size."""
    rng = np.random.default_rng(seed)
    left_ND, right_ND = rng.normal(size=(2, count, width)).astype(np.float32) * np.logspace(
        -1, 2, width, dtype=np.float32
    )
    better_N = rng.random(count) < expit(sharpness * 10 * (left_ND - right_ND)[:, 0])
    sides = [np.where(swap, right_ND, left_ND) for swap in (~better_N[:, None], better_N[:, None])]
    none_N = np.zeros(count, np.float32)
    return Linear({"left": none_N, "right": none_N}, dict(zip(("left", "right"), sides, strict=True)))


@pytest.mark.parametrize("ridge", [1.0, 30.0])
def test_the_least_loss_is_where_its_slope_is_none(ridge: float, monkeypatch: pytest.MonkeyPatch) -> None:
    """The slope of the summed loss and the ridge over features of spread 1, by NumPy in float64."""
    monkeypatch.setattr(module, "RIDGES", (ridge,))
    rows = drawn(400, 3, 0, sharpness=1.0)
    weights_D, taken = least(rows, logistic)
    left_ND, right_ND = (rows.slopes[name].astype(float) for name in ("left", "right"))
    spread_D = np.sqrt((left_ND.var(axis=0) + right_ND.var(axis=0)) / 2)
    features_ND = (left_ND - right_ND) / spread_D

    def slope(weights_D: np.ndarray) -> np.ndarray:
        return ridge * weights_D - features_ND.T @ (1 / (1 + np.exp(features_ND @ weights_D)))

    found = root(slope, np.zeros(3))
    assert found.success and taken == ridge
    np.testing.assert_allclose(weights_D * spread_D, found.x, rtol=2e-3, atol=2e-3)
    assert weights_D.dtype == np.float32


def test_noise_is_ridged_away_and_plain_labels_are_not() -> None:
    """Of 60 pairs with 40 features: coins, and labels that the first feature decides."""
    noisy, plain = (least(drawn(60, 40, 1, sharpness=sharpness), logistic) for sharpness in (0.0, 100.0))
    assert noisy[1] > plain[1]
    rows = drawn(1_000, 40, 2, sharpness=100.0)
    scores = rows.scores(plain[0])
    assert np.mean(scores["left"] > scores["right"]) > 0.75


def test_a_feature_that_never_changes_gets_no_weight() -> None:
    rows = drawn(100, 2, 0, sharpness=1.0)
    for slopes_ND in rows.slopes.values():
        slopes_ND[:, 1] = 7.0
    weights_D, _ = least(rows, logistic)
    assert weights_D[1] == pytest.approx(0.0, abs=1e-6) and weights_D[0] > 0


def test_scores_of_any_head_are_found_from_one_reading() -> None:
    """Linear in a head of two leaves, with what it does not decide beside it, and nothing where there is nothing."""

    def scores(head: dict[str, jax.Array]) -> tuple[jax.Array, jax.Array, None]:
        x_B = jnp.arange(3.0)
        return x_B * head["a"].sum() + 2 * head["b"][0], x_B + 1, None

    head = {"a": jnp.array([[1.0, 2.0]]), "b": jnp.array([5.0])}
    found = linear(scores, head)
    np.testing.assert_array_equal(found.slopes[0], [[0, 0, 2], [1, 1, 2], [2, 2, 2]])
    np.testing.assert_array_equal(found.slopes[1], np.zeros((3, 3)))
    own, given, missing = found.scores(np.array([1.0, 2.0, 5.0], np.float32))
    np.testing.assert_array_equal(own, scores(head)[0])
    np.testing.assert_array_equal(given, [1, 2, 3])
    assert missing is None
    both = stacked([found, found])
    assert both.slopes[0].shape == (6, 3) and both.offsets[2] is None
