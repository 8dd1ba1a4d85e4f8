"""objectives/sft.py: the token loss against hand-made numbers and numpy."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from pit_jax.objectives.sft import token_loss


def example(seed: int, batch: int = 4, length: int = 6) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    return (
        -rng.exponential(size=(batch, length)).astype(np.float32),
        rng.random((batch, length)) < 0.5,
        rng.permutation(batch * length).reshape(batch, length) < 0.6 * batch * length,
    )


def test_by_hand() -> None:
    """Probabilities 3/4 (the likeliest) and 1/2 (not); the third slot is padding. Loss = (ln 4/3 + ln 2) / 2."""
    logprobs_BT = jnp.log(jnp.array([[0.75, 0.5, 0.1]]))
    loss, metrics = token_loss(logprobs_BT, jnp.array([[True, False, True]]), jnp.array([[True, True, False]]))
    want = (np.log(4 / 3) + np.log(2)) / 2
    np.testing.assert_allclose(loss, want, rtol=1e-6)
    np.testing.assert_allclose(metrics["loss"].value, want, rtol=1e-6)
    assert metrics["loss"].count == 2
    assert metrics["mean_token_accuracy"].value == 0.5
    assert set(metrics) == {"loss", "mean_token_accuracy"}


@pytest.mark.parametrize("junk", [np.nan, np.inf, -np.inf, 1e38])
def test_masked_equals_dropped(junk: float) -> None:
    """Junk in padded slots changes no bit of anything, and has no gradient."""
    logprobs_BT, correct_BT, mask_BT = example(0)
    dirty_BT = jnp.asarray(np.where(mask_BT, logprobs_BT, np.float32(junk)))
    grad = jax.value_and_grad(token_loss, has_aux=True)
    (loss, metrics), grad_BT = grad(dirty_BT, jnp.asarray(correct_BT | ~mask_BT), jnp.asarray(mask_BT))
    np.testing.assert_allclose(loss, -logprobs_BT[mask_BT].mean(), rtol=1e-5)
    np.testing.assert_allclose(metrics["mean_token_accuracy"].value, correct_BT[mask_BT].mean(), rtol=1e-6)
    np.testing.assert_allclose(grad_BT, np.where(mask_BT, -1.0 / mask_BT.sum(), 0.0), rtol=1e-6)


def test_an_empty_mask_gives_zero_and_finite_gradients() -> None:
    logprobs_BT, correct_BT, mask_BT = map(jnp.asarray, example(5))
    (loss, metrics), grad_BT = jax.value_and_grad(token_loss, has_aux=True)(
        logprobs_BT * jnp.nan, correct_BT, jnp.zeros_like(mask_BT)
    )
    assert float(loss) == 0 and float(metrics["loss"].count) == 0
    np.testing.assert_array_equal(grad_BT, np.zeros(logprobs_BT.shape))


def test_half_precision_is_widened_first() -> None:
    logprobs_BT, correct_BT, mask_BT = map(jnp.asarray, example(6))
    half_BT = logprobs_BT.astype(jnp.bfloat16)
    loss, rounded = (token_loss(x_BT, correct_BT, mask_BT)[0] for x_BT in (half_BT, half_BT.astype(jnp.float32)))
    assert loss.dtype == jnp.float32 and float(loss) == float(rounded)


def test_a_wrong_shape_is_named() -> None:
    logprobs_BT, correct_BT, mask_BT = map(jnp.asarray, example(7))
    with pytest.raises(ValueError, match="axis T is 6 in logprobs_BT but 5 in mask_correct_BT"):
        token_loss(logprobs_BT, correct_BT[:, 1:], mask_BT)
