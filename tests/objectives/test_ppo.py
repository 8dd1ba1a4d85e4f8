"""objectives/ppo.py: clipped losses by hand and against numpy; the KL controller."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from jax.test_util import check_grads

from pit_jax.errors import UserError
from pit_jax.objectives.ppo import AdaptiveKL, policy_loss, surrogate, value_loss

LOSSES: dict[str, Any] = {"policy": policy_loss, "value": value_loss}


def example(seed: int) -> tuple[list[np.ndarray], np.ndarray]:
    """Three [B, T] inputs near each other, so that some slots clip and some do not, and a mask."""
    rng = np.random.default_rng(seed)
    old_BT = -rng.exponential(1.0, (4, 6)).astype(np.float32)
    new_BT = old_BT + rng.normal(0, 0.3, (4, 6)).astype(np.float32)
    mask_BT = rng.permutation(24).reshape(4, 6) < 14
    return [new_BT, old_BT, rng.normal(size=(4, 6)).astype(np.float32)], mask_BT


def plain(kind: str, inputs: list[np.ndarray], mask_BT: np.ndarray, eps: float) -> dict[str, float]:
    """Both losses and their metrics in float64, one token at a time."""
    rows = []
    for new, old, target in zip(*(x[mask_BT].astype(np.float64) for x in inputs), strict=True):
        if kind == "policy":
            ratio = np.exp(new - old)
            near = min(max(ratio, 1 - eps), 1 + eps)
            free, clipped = -target * ratio, -target * near
            extra = (0.5 * (new - old) ** 2, ratio)
        else:
            near = old + min(max(new - old, -eps), eps)
            free, clipped = 0.5 * (new - target) ** 2, 0.5 * (near - target) ** 2
            extra = (0.0, 0.0)
        rows.append((max(free, clipped), clipped > free, *extra))
    loss, share, approxkl, ratio = np.mean(rows, axis=0)
    if kind == "value":
        return {"loss": loss, "loss/value_avg": loss, "val/clipfrac_avg": share}
    averages = {"policy/approxkl_avg": approxkl, "policy/clipfrac_avg": share, "val/ratio": ratio}
    return {"loss": loss, "loss/policy_avg": loss, **averages}


def test_policy_by_hand() -> None:
    """eps 0.2; ratios 1.5 and 0.5, each with A = 1 and A = -2.

    A = 1: min(1.5, 1.2) = 1.2 (clipped); min(0.5, 0.8) = 0.5.  A = -2: -3.0;  -2 * 0.8 = -1.6 (clipped).
    Loss = -(1.2 + 0.5 - 3.0 - 1.6) / 4 = 0.725. Clipped: 2 of 4. Mean ratio 1.
    """
    log_ratio_BT = jnp.log(jnp.array([[1.5, 0.5, 1.5, 0.5]]))
    advantages_BT = jnp.array([[1.0, 1.0, -2.0, -2.0]])
    loss, metrics = policy_loss(
        log_ratio_BT - 1.0, -jnp.ones((1, 4)), advantages_BT, jnp.ones((1, 4), bool), clip_eps=0.2
    )
    np.testing.assert_allclose(loss, 0.725, rtol=1e-5)
    values = {name: mean.value for name, mean in metrics.items()}
    want = (np.log(1.5) ** 2 + np.log(2) ** 2) / 4
    assert values == pytest.approx(
        {
            "loss": 0.725,
            "loss/policy_avg": 0.725,
            "policy/approxkl_avg": want,
            "policy/clipfrac_avg": 0.5,
            "val/ratio": 1.0,
        },
        rel=1e-5,
    )


def test_the_surrogate_by_hand() -> None:
    """The four tokens of above, one by one, and one of padding."""
    log_ratio_BT = jnp.log(jnp.array([[1.5, 0.5, 1.5, 0.5, jnp.nan]]))
    advantages_BT, mask_BT = jnp.array([[1.0, 1.0, -2.0, -2.0, jnp.inf]]), jnp.arange(5)[None] < 4
    losses_BT, metrics = surrogate(log_ratio_BT - 1.0, -jnp.ones((1, 5)), advantages_BT, mask_BT, clip_eps=0.2)
    np.testing.assert_allclose(losses_BT, [[-1.2, -0.5, 3.0, 1.6, 0.0]], rtol=1e-5)
    assert metrics["loss"].value == pytest.approx(0.725, rel=1e-5) and float(metrics["loss"].count) == 4


@pytest.mark.parametrize("eps", [0.0, 0.2, 10.0])
def test_the_policy_loss_is_the_token_mean_of_the_surrogate(eps: float) -> None:
    """Token by token against numpy; 0 in padding, so that any other mean may be taken of it."""
    inputs, mask_BT = example(1)
    arrays = [*map(jnp.asarray, inputs), jnp.asarray(mask_BT)]
    losses_BT, metrics = surrogate(*arrays, clip_eps=eps)
    expected = [
        plain("policy", [x[b : b + 1, t : t + 1] for x in inputs], np.ones((1, 1), bool), eps)["loss"]
        for b, t in zip(*np.nonzero(mask_BT), strict=True)
    ]
    np.testing.assert_allclose(np.asarray(losses_BT)[mask_BT], expected, rtol=1e-5)
    assert losses_BT.dtype == jnp.float32 and (np.asarray(losses_BT)[~mask_BT] == 0).all()
    loss, same = policy_loss(*arrays, clip_eps=eps)
    np.testing.assert_allclose(loss, float(jnp.sum(losses_BT)) / mask_BT.sum(), rtol=1e-6)
    assert jax.tree.map(float, metrics) == jax.tree.map(float, same)


def test_value_by_hand() -> None:
    """eps 1, old value 0. v = 3, R = 5: squares 4 and (1 - 5)^2 = 16, so 8. v = 3, R = 0: 9 and 1, so 4.5.

    v = 0.5, R = 1: both 0.25, so 0.125. Loss = (8 + 4.5 + 0.125) / 3; clipping made one of three larger.
    """
    loss, metrics = value_loss(
        jnp.array([[3.0, 3.0, 0.5]]),
        jnp.zeros((1, 3)),
        jnp.array([[5.0, 0.0, 1.0]]),
        jnp.ones((1, 3), bool),
        clip_eps=1.0,
    )
    np.testing.assert_allclose(loss, 12.625 / 3, rtol=1e-6)
    assert metrics["val/clipfrac_avg"].value == pytest.approx(1 / 3)
    assert metrics["loss/value_avg"].value == pytest.approx(12.625 / 3)
    assert set(metrics) == {"loss", "loss/value_avg", "val/clipfrac_avg"}


def test_gradient_of_the_first_minibatch_is_that_of_plain_policy_gradient() -> None:
    """At ratio 1 the gradient of a token's log-prob is -A / count."""
    (_, old_BT, advantages_BT), mask_BT = example(0)
    grad_BT = jax.grad(lambda x: policy_loss(x, *map(jnp.asarray, (old_BT, advantages_BT, mask_BT)), clip_eps=0.2)[0])(
        jnp.asarray(old_BT)
    )
    np.testing.assert_allclose(grad_BT, np.where(mask_BT, -advantages_BT / mask_BT.sum(), 0), rtol=1e-5)


def test_a_clipped_token_has_no_gradient() -> None:
    grad_BT = jax.grad(
        lambda x: policy_loss(x, jnp.zeros((1, 2)), jnp.array([[1.0, -1.0]]), jnp.ones((1, 2), bool), clip_eps=0.2)[0]
    )(jnp.log(jnp.array([[1.5, 0.5]])))
    np.testing.assert_array_equal(grad_BT, [[0.0, 0.0]])


@pytest.mark.parametrize("kind", ["policy", "value"])
@pytest.mark.parametrize("eps", [0.0, 0.2, 10.0])
def test_against_numpy(kind: str, eps: float) -> None:
    inputs, mask_BT = example(1)
    loss, metrics = LOSSES[kind](*map(jnp.asarray, inputs), jnp.asarray(mask_BT), clip_eps=eps)
    want = plain(kind, inputs, mask_BT, eps)
    assert {name: mean.value for name, mean in metrics.items()} == pytest.approx(want, rel=1e-5)
    assert {float(mean.count) for mean in metrics.values()} == {float(mask_BT.sum())}
    np.testing.assert_allclose(loss, want["loss"], rtol=1e-5)


@pytest.mark.parametrize("kind", ["policy", "value"])
@settings(max_examples=20, deadline=None, derandomize=True)
@given(seed=st.integers(0, 10_000), junk=st.sampled_from([np.nan, np.inf, -np.inf, 3e38]))
def test_masked_equals_dropped(kind: str, seed: int, junk: float) -> None:
    """Junk in the padded slots of every input changes no bit; dropping the padding gives the same numbers."""
    inputs, mask_BT = example(seed)
    evaluate: Callable[..., Any] = jax.value_and_grad(LOSSES[kind], argnums=(0, 1, 2), has_aux=True)
    dirty = [jnp.asarray(np.where(mask_BT, x, np.float32(junk))) for x in inputs]
    (loss, metrics), grads = evaluate(*dirty, jnp.asarray(mask_BT), clip_eps=0.2)
    (clean, clean_metrics), clean_grads = evaluate(*map(jnp.asarray, inputs), jnp.asarray(mask_BT), clip_eps=0.2)
    assert np.isfinite(loss) and float(loss) == float(clean)
    assert jax.tree.map(float, metrics) == jax.tree.map(float, clean_metrics)
    for grad_BT, clean_grad_BT in zip(grads, clean_grads, strict=True):
        np.testing.assert_array_equal(grad_BT, clean_grad_BT)
        assert (np.asarray(grad_BT)[~mask_BT] == 0).all()
    rows = [jnp.asarray(x[mask_BT][None]) for x in inputs]
    (dropped, dropped_metrics), dropped_grads = evaluate(*rows, jnp.ones(rows[0].shape, bool), clip_eps=0.2)
    np.testing.assert_allclose(loss, dropped, rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(np.asarray(grads[0])[mask_BT], dropped_grads[0][0], rtol=1e-5, atol=1e-6)
    for name in metrics:
        np.testing.assert_allclose(metrics[name].value, dropped_metrics[name].value, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("kind", ["policy", "value"])
def test_an_empty_mask_gives_zero_and_finite_gradients(kind: str) -> None:
    inputs, mask_BT = example(2)
    nans = [jnp.asarray(x) * jnp.nan for x in inputs]
    (loss, metrics), grad_BT = jax.value_and_grad(LOSSES[kind], has_aux=True)(
        *nans, jnp.zeros(mask_BT.shape, bool), clip_eps=0.2
    )
    assert float(loss) == 0 and float(metrics["loss"].count) == 0
    np.testing.assert_array_equal(grad_BT, np.zeros(mask_BT.shape))


@pytest.mark.parametrize("kind", ["policy", "value"])
def test_the_order_of_rows_does_not_matter(kind: str) -> None:
    inputs, mask_BT = example(3)
    arrays = [*map(jnp.asarray, inputs), jnp.asarray(mask_BT)]
    loss, _ = LOSSES[kind](*arrays, clip_eps=0.2)
    np.testing.assert_allclose(loss, LOSSES[kind](*(x[::-1] for x in arrays), clip_eps=0.2)[0], rtol=1e-5)


@pytest.mark.parametrize("kind", ["policy", "value"])
def test_gradient_against_finite_differences(kind: str) -> None:
    """With a clip range in which no token sits on a corner."""
    inputs, mask_BT = example(4)
    arrays = [*map(jnp.asarray, inputs), jnp.asarray(mask_BT)]
    check_grads(
        lambda x: LOSSES[kind](x, *arrays[1:], clip_eps=5.0)[0], (arrays[0],), order=1, modes=["rev"], rtol=1e-2
    )


@pytest.mark.parametrize("kind", ["policy", "value"])
def test_half_precision_is_widened_first(kind: str) -> None:
    inputs, mask_BT = example(5)
    narrow = [jnp.asarray(x).astype(jnp.bfloat16) for x in inputs]
    loss, _ = LOSSES[kind](*narrow, jnp.asarray(mask_BT), clip_eps=0.2)
    wide, _ = LOSSES[kind](*(x.astype(jnp.float32) for x in narrow), jnp.asarray(mask_BT), clip_eps=0.2)
    assert loss.dtype == jnp.float32 and float(loss) == float(wide)


@pytest.mark.parametrize("kind", ["policy", "value"])
def test_a_wrong_shape_is_named(kind: str) -> None:
    x_BT = jnp.zeros((2, 3))
    with pytest.raises(ValueError, match="axis T is 3 in .* but 2 in mask_BT"):
        LOSSES[kind](x_BT, x_BT, x_BT, jnp.ones((2, 2), bool), clip_eps=0.2)


def test_adaptive_kl_by_hand() -> None:
    """Target 6, horizon 10,000, 512 episodes: KL 6.6 is 10% over, so the coefficient grows by 0.1 * 0.0512."""
    controller = AdaptiveKL(target=6.0, horizon=10_000)
    assert float(controller.update(0.15, 6.6, 512)) == pytest.approx(0.15 * (1 + 0.1 * 0.0512), rel=1e-6)
    assert float(controller.update(0.15, 6.0, 512)) == pytest.approx(0.15)
    assert float(controller.update(0.15, 600.0, 512)) == pytest.approx(0.15 * (1 + 0.2 * 0.0512))
    assert float(controller.update(0.15, -5.0, 512)) == pytest.approx(0.15 * (1 - 0.2 * 0.0512))


def test_adaptive_kl_on_the_device() -> None:
    update = jax.jit(AdaptiveKL(target=2.0, horizon=100).update, static_argnums=2)
    new = update(jnp.float32(0.5), jnp.float32(1.8), 50)
    assert new.dtype == jnp.float32
    np.testing.assert_allclose(new, 0.5 * (1 - 0.1 * 0.5), rtol=1e-5)


def test_a_controller_steers_to_its_target() -> None:
    """In a world where KL = 1 / coefficient, the coefficient settles at 1 / target."""
    controller, coefficient = AdaptiveKL(target=4.0, horizon=1000), jnp.float32(1.0)
    for _ in range(300):
        coefficient = controller.update(coefficient, 1.0 / coefficient, 100)
    np.testing.assert_allclose(coefficient, 0.25, rtol=1e-2)


@pytest.mark.parametrize(("target", "horizon"), [(0.0, 10.0), (6.0, 0.0), (-1.0, 10.0)])
def test_a_controller_refuses_nonsense(target: float, horizon: float) -> None:
    with pytest.raises(UserError, match="AdaptiveKL needs target > 0 and horizon > 0"):
        AdaptiveKL(target=target, horizon=horizon)
