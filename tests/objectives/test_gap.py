"""objectives/gap.py: the five terms by hand, their symmetries, and the two metrics families."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.test_util import check_grads

from pit_jax.objectives.gap import gap_loss, pair_gap_loss
from pit_jax.objectives.reward import bradley_terry_loss

NAMES = ("wl", "ww", "ll", "lw")
ACCURACIES = ("wl_ww", "wl_ll", "wl_lw", "ww_lw", "ll_lw")


def gaps(seed: int, batch: int = 9) -> tuple[jax.Array, ...]:
    rng = np.random.default_rng(seed)
    return tuple(jnp.asarray(rng.normal(size=batch), jnp.float32) for _ in NAMES)


def softplus(x: float) -> float:
    return float(np.log1p(np.exp(x)))


def test_by_hand() -> None:
    """One pair with wl 3, ww 1, ll 0, lw -2: differences 2, 3, 5, 3, 2."""
    loss, metrics = gap_loss(*(jnp.array([x]) for x in (3.0, 1.0, 0.0, -2.0)))
    want = 2 * softplus(-2) + 2 * softplus(-3) + softplus(-5)
    np.testing.assert_allclose(loss, want, rtol=1e-6)
    assert metrics["loss"].value == pytest.approx(want, rel=1e-6)
    assert {name: metrics[f"gap/mean_{name}"].value for name in NAMES} == {"wl": 3, "ww": 1, "ll": 0, "lw": -2}
    assert all(metrics[f"gap/acc_{name}"].value == 1 for name in ACCURACIES)
    assert len(metrics) == 10


def test_smoothed_labels_by_hand() -> None:
    """The pair above, its label wrong one time in four: every term is 3 parts softplus(-d) and one softplus(d)."""
    loss, metrics = gap_loss(*(jnp.array([x]) for x in (3.0, 1.0, 0.0, -2.0)), label_smoothing=0.25)
    want = sum(0.75 * softplus(-d) + 0.25 * softplus(d) for d in (2, 3, 5, 3, 2))
    np.testing.assert_allclose(loss, want, rtol=1e-6)
    assert metrics["loss"].value == pytest.approx(want, rel=1e-6)


def test_labels_that_are_wrong_half_of_the_time_say_nothing() -> None:
    """Swapping chosen and rejected changes nothing at 1 / 2, and mixes the two losses in those shares below it."""
    wl_B, ww_B, ll_B, lw_B = gaps(3)
    right, wrong = gap_loss(wl_B, ww_B, ll_B, lw_B)[0], gap_loss(lw_B, ll_B, ww_B, wl_B)[0]
    for smoothing in (0.1, 0.5):
        loss, _ = gap_loss(wl_B, ww_B, ll_B, lw_B, label_smoothing=smoothing)
        np.testing.assert_allclose(loss, (1 - smoothing) * right + smoothing * wrong, rtol=1e-5)


def test_it_is_a_mean_over_pairs_of_a_sum_of_terms() -> None:
    """Two pairs: all equal (5 ln 2), and wl alone 1 above the rest (3 softplus(-1) + 2 ln 2)."""
    zeros_B = jnp.zeros(2)
    loss, metrics = gap_loss(jnp.array([0.0, 1.0]), zeros_B, zeros_B, zeros_B)
    np.testing.assert_allclose(loss, (5 * np.log(2) + 3 * softplus(-1) + 2 * np.log(2)) / 2, rtol=1e-6)
    assert [metrics[f"gap/acc_{name}"].value for name in ACCURACIES] == [0.5, 0.5, 0.5, 0.0, 0.0]
    assert metrics["loss"].count == 2


def test_against_five_pairwise_losses() -> None:
    """The gap loss is the sum of five Bradley-Terry losses, and no term compares ww with ll."""
    g = dict(zip(NAMES, gaps(0), strict=True))
    loss, metrics = gap_loss(*g.values())
    terms = {name: bradley_terry_loss(*(g[part] for part in name.split("_"))) for name in ACCURACIES}
    np.testing.assert_allclose(loss, sum(float(term) for term, _ in terms.values()), rtol=1e-5)
    for name, (_, m) in terms.items():
        assert metrics[f"gap/acc_{name}"].value == pytest.approx(m["accuracy"].value)


def test_the_pair_loss_is_the_third_term_alone() -> None:
    """wl 3, lw -2: softplus(-5); ww and ll are measured and get no gradient."""
    wl_B, ww_B, ll_B, lw_B = gaps(0)
    loss, metrics = pair_gap_loss(*(jnp.array([x]) for x in (3.0, 1.0, 0.0, -2.0)))
    np.testing.assert_allclose(loss, softplus(-5), rtol=1e-5)
    assert metrics.keys() == gap_loss(wl_B, ww_B, ll_B, lw_B)[1].keys()
    loss, _ = pair_gap_loss(wl_B, ww_B, ll_B, lw_B)
    np.testing.assert_allclose(loss, bradley_terry_loss(wl_B, lw_B)[0], rtol=1e-6)
    gradients = jax.grad(lambda g: pair_gap_loss(*g)[0])((wl_B, ww_B, ll_B, lw_B))
    assert [bool(jnp.any(g_B != 0)) for g_B in gradients] == [True, False, False, True]


def test_swapping_the_labels_turns_every_comparison() -> None:
    """With w and l exchanged, wl <-> lw and ww <-> ll: every accuracy becomes 1 - that of the mirrored comparison."""
    wl_B, ww_B, ll_B, lw_B = gaps(1)
    _, metrics = gap_loss(wl_B, ww_B, ll_B, lw_B)
    _, swapped = gap_loss(lw_B, ll_B, ww_B, wl_B)
    mirror = {"wl_ww": "ll_lw", "wl_ll": "ww_lw", "wl_lw": "wl_lw", "ww_lw": "wl_ll", "ll_lw": "wl_ww"}
    for name, other in mirror.items():
        assert swapped[f"gap/acc_{name}"].value == pytest.approx(1 - metrics[f"gap/acc_{other}"].value)
    assert swapped["gap/mean_wl"].value == metrics["gap/mean_lw"].value


def test_a_free_offset_per_pair() -> None:
    offset_B = jnp.linspace(-5.0, 5.0, 9)
    loss, _ = gap_loss(*gaps(2))
    np.testing.assert_allclose(loss, gap_loss(*(x_B + offset_B for x_B in gaps(2)))[0], rtol=1e-5)


def test_the_wanted_order_is_the_cheapest() -> None:
    """Of all 24 ways to hand out 3, 1, 1, -1, those with wl on top and lw at the bottom cost least."""
    costs = {p: float(gap_loss(*(jnp.array([x]) for x in p))[0]) for p in itertools.permutations((3.0, 1.0, 1.0, -1.0))}
    assert min(costs, key=lambda p: costs[p]) == (3.0, 1.0, 1.0, -1.0)
    assert sum(np.isclose(cost, min(costs.values())) for cost in costs.values()) == 1


def test_the_order_of_pairs_does_not_matter() -> None:
    np.testing.assert_allclose(gap_loss(*gaps(3))[0], gap_loss(*(x_B[::-1] for x_B in gaps(3)))[0], rtol=1e-6)


def test_gradient_against_finite_differences() -> None:
    check_grads(lambda *g: gap_loss(*g)[0], gaps(4, 3), order=1, modes=["rev"], rtol=1e-2)


def test_gradients_at_equal_gaps_by_hand() -> None:
    """Every term pulls with 1/2: wl is in three as the better, lw in three as the worse, ww and ll once each way."""
    grads = jax.grad(lambda *g: gap_loss(*g)[0], argnums=(0, 1, 2, 3))(*(jnp.zeros(1),) * 4)
    np.testing.assert_allclose([float(g[0]) for g in grads], [-1.5, 0.0, 0.0, 1.5], atol=1e-6)


def test_half_precision_is_widened_first() -> None:
    narrow = tuple(x_B.astype(jnp.bfloat16) for x_B in gaps(5))
    loss, _ = gap_loss(*narrow)
    assert loss.dtype == jnp.float32
    assert float(loss) == float(gap_loss(*(x_B.astype(jnp.float32) for x_B in narrow))[0])


def test_a_wrong_shape_is_named() -> None:
    wl_B, ww_B, ll_B, lw_B = gaps(6)
    with pytest.raises(ValueError, match="axis B is 9 in wl_B but 8 in ll_B"):
        gap_loss(wl_B, ww_B, ll_B[1:], lw_B)
