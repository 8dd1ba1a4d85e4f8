"""objectives/sft.py: the token loss against hand-made numbers, numpy and finite differences."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from jax.test_util import check_grads

from pit_jax.objectives.sft import token_loss


def example(
    seed: int, batch: int = 4, length: int = 6, vocabulary: int = 7
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    logits_BTV = rng.normal(size=(batch, length, vocabulary)).astype(np.float32) * 2
    return (
        logits_BTV,
        rng.integers(0, vocabulary, (batch, length)).astype(np.int32),
        rng.permutation(batch * length).reshape(batch, length) < 0.6 * batch * length,
    )


def reference(logits_BTV: np.ndarray, targets_BT: np.ndarray, mask_BT: np.ndarray) -> tuple[float, float]:
    """Loss and accuracy in float64, one token at a time."""
    losses, right = [], []
    for b, t in zip(*np.nonzero(mask_BT), strict=True):
        p = np.exp(logits_BTV[b, t].astype(np.float64))
        losses.append(-np.log(p[targets_BT[b, t]] / p.sum()))
        right.append(p.argmax() == targets_BT[b, t])
    return float(np.mean(losses)), float(np.mean(right))


def test_by_hand() -> None:
    """Token 0: logits 0, ln 3, probability of target 1 is 3/4; token 1: uniform over 2, target 1; token 2 is padding.

    Loss = (ln 4/3 + ln 2) / 2. The argmax is right on the first; the tie of the second goes to index 0, wrong.
    """
    logits_BTV = jnp.array([[[0.0, jnp.log(3.0)], [0.0, 0.0], [9.0, -9.0]]])
    loss, metrics = token_loss(logits_BTV, jnp.array([[1, 1, 1]]), jnp.array([[True, True, False]]))
    want = (np.log(4 / 3) + np.log(2)) / 2
    np.testing.assert_allclose(loss, want, rtol=1e-6)
    np.testing.assert_allclose(metrics["loss"].value, want, rtol=1e-6)
    assert metrics["loss"].count == 2
    assert metrics["mean_token_accuracy"].value == 0.5
    assert set(metrics) == {"loss", "mean_token_accuracy"}


def test_against_numpy() -> None:
    logits_BTV, targets_BT, mask_BT = example(0)
    loss, metrics = token_loss(*map(jnp.asarray, (logits_BTV, targets_BT, mask_BT)))
    want, accuracy = reference(logits_BTV, targets_BT, mask_BT)
    np.testing.assert_allclose(loss, want, rtol=1e-5)
    np.testing.assert_allclose(metrics["mean_token_accuracy"].value, accuracy, rtol=1e-6)


@settings(max_examples=25, deadline=None, derandomize=True)
@given(seed=st.integers(0, 10_000), junk=st.sampled_from([np.nan, np.inf, -np.inf, 1e38]))
def test_masked_equals_dropped(seed: int, junk: float) -> None:
    """Junk in padded slots (logits and targets far outside the vocabulary) changes no bit of anything."""
    logits_BTV, targets_BT, mask_BT = example(seed)
    dirty_BTV = np.where(mask_BT[:, :, None], logits_BTV, np.float32(junk))
    wild_BT = np.where(mask_BT, targets_BT, np.int32(2**31 - 1 if seed % 2 else -100))
    clean_BTV = np.where(mask_BT[:, :, None], logits_BTV, np.float32(0))
    grad = jax.value_and_grad(token_loss, has_aux=True)
    (loss, metrics), grad_BTV = grad(jnp.asarray(dirty_BTV), jnp.asarray(wild_BT), jnp.asarray(mask_BT))
    (clean, clean_metrics), clean_grad_BTV = grad(jnp.asarray(clean_BTV), jnp.asarray(targets_BT), jnp.asarray(mask_BT))
    assert np.isfinite(loss) and float(loss) == float(clean)
    np.testing.assert_array_equal(grad_BTV, clean_grad_BTV)
    assert (np.asarray(grad_BTV)[~mask_BT] == 0).all()
    assert jax.tree.map(float, metrics) == jax.tree.map(float, clean_metrics)
    # Dropped for good: the counting tokens as one row without padding.
    rows = jnp.asarray(logits_BTV[mask_BT][None]), jnp.asarray(targets_BT[mask_BT][None])
    (dropped, dropped_metrics), dropped_grad = grad(*rows, jnp.ones((1, int(mask_BT.sum())), bool))
    np.testing.assert_allclose(loss, dropped, rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(np.asarray(grad_BTV)[mask_BT], dropped_grad[0], rtol=1e-5, atol=1e-6)
    assert metrics["mean_token_accuracy"].sum == dropped_metrics["mean_token_accuracy"].sum


def test_the_order_of_rows_does_not_matter() -> None:
    arrays = tuple(map(jnp.asarray, example(3)))
    loss, _ = token_loss(*arrays)
    turned, _ = token_loss(*(x[::-1] for x in arrays))
    np.testing.assert_allclose(loss, turned, rtol=1e-6)


def test_gradient_against_finite_differences() -> None:
    logits_BTV, targets_BT, mask_BT = map(jnp.asarray, example(4, 2, 3, 4))
    check_grads(lambda x: token_loss(x, targets_BT, mask_BT)[0], (logits_BTV,), order=1, modes=["rev"], rtol=1e-2)


def test_an_empty_mask_gives_zero_and_finite_gradients() -> None:
    logits_BTV, targets_BT, mask_BT = map(jnp.asarray, example(5))
    (loss, metrics), grad_BTV = jax.value_and_grad(token_loss, has_aux=True)(
        logits_BTV * jnp.nan, targets_BT, jnp.zeros_like(mask_BT)
    )
    assert float(loss) == 0 and float(metrics["loss"].count) == 0
    np.testing.assert_array_equal(grad_BTV, np.zeros(logits_BTV.shape))


def test_half_precision_logits_are_widened_first() -> None:
    logits_BTV, targets_BT, mask_BT = map(jnp.asarray, example(6))
    loss, _ = token_loss(logits_BTV.astype(jnp.bfloat16), targets_BT, mask_BT)
    rounded, _ = token_loss(logits_BTV.astype(jnp.bfloat16).astype(jnp.float32), targets_BT, mask_BT)
    assert loss.dtype == jnp.float32 and float(loss) == float(rounded)


def test_huge_logits_stay_finite() -> None:
    loss, _ = token_loss(jnp.array([[[3e38, -3e38]]]), jnp.array([[0]]), jnp.array([[True]]))
    assert float(loss) == 0.0


def test_a_wrong_shape_is_named() -> None:
    logits_BTV, targets_BT, mask_BT = map(jnp.asarray, example(7))
    with pytest.raises(ValueError, match="axis T is 6 in logits_BTV but 5 in targets_BT"):
        token_loss(logits_BTV, targets_BT[:, 1:], mask_BT)
