"""masked.py: reductions over the slots that count, whatever the others hold."""

import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import AxisType, NamedSharding, PartitionSpec

from pit_jax import masked
from pit_jax.masked import Mean

X_BT = jnp.array([[1.0, 2.0, jnp.nan], [3.0, jnp.inf, -jnp.inf]])
MASK_BT = jnp.array([[True, True, False], [True, False, False]])


def test_sum_mean_and_count_see_real_slots_only() -> None:
    """1 + 2 + 3 = 6 over 3 slots."""
    assert float(masked.masked_sum(X_BT, MASK_BT)) == 6.0
    assert float(masked.masked_mean(X_BT, MASK_BT)) == 2.0
    assert float(masked.masked_count(MASK_BT)) == 3.0


@pytest.mark.parametrize("dtype", [jnp.bool_, jnp.int32, jnp.float32])
def test_a_mask_may_have_any_dtype(dtype: jnp.dtype) -> None:
    assert float(masked.masked_mean(X_BT, MASK_BT.astype(dtype))) == 2.0


def test_an_empty_mask_means_zero_with_finite_gradients() -> None:
    empty_BT = jnp.zeros_like(MASK_BT)
    value, grad_BT = jax.value_and_grad(masked.masked_mean)(X_BT, empty_BT)
    assert float(value) == 0.0
    np.testing.assert_array_equal(grad_BT, np.zeros((2, 3)))


def test_fill_stops_junk_on_the_way_back_too() -> None:
    grad_BT = jax.grad(lambda x: jnp.sum(jnp.exp(masked.fill(x, MASK_BT) * 0.5)))(X_BT)
    np.testing.assert_allclose(grad_BT, 0.5 * np.exp([[0.5, 1.0, -np.inf], [1.5, -np.inf, -np.inf]]), rtol=1e-6)


def test_half_precision_is_summed_in_float32() -> None:
    """4,096 ones and a thousand more: bfloat16 would stick at 256."""
    x_B = jnp.ones((5096,), jnp.bfloat16)
    assert float(masked.masked_sum(x_B, jnp.ones(5096, bool))) == 5096.0


def test_means_add_by_count() -> None:
    """(1 + 2) over 2 and 6 over 1 give 9 / 3, not the mean of means 3.75."""
    total = Mean.of(jnp.array([1.0, 2.0])) + Mean.of(jnp.array([6.0]))
    assert total.value == 3.0
    assert math.isnan(Mean.of(jnp.array([1.0]), jnp.array([False])).value)
    assert Mean.of(X_BT, MASK_BT).value == 2.0
    assert Mean.of(jnp.array([True, False])).value == 0.5


def test_whiten_by_hand() -> None:
    """1, 2, 3: mean 2, unbiased variance 1; so -1, 0, 1, and with the mean kept 1, 2, 3."""
    np.testing.assert_allclose(masked.whiten(X_BT, MASK_BT), [[-1, 0, 0], [1, 0, 0]], atol=1e-6)
    np.testing.assert_allclose(masked.whiten(X_BT, MASK_BT, shift_mean=False), [[1, 2, 0], [3, 0, 0]], atol=1e-6)


@pytest.mark.parametrize("count", [0, 1])
def test_whiten_of_nothing_and_of_one_is_finite(count: int) -> None:
    mask_BT = jnp.arange(6).reshape(2, 3) < count
    white_BT = masked.whiten(X_BT, mask_BT)
    np.testing.assert_array_equal(white_BT, np.zeros((2, 3)))


def test_whiten_gives_mean_zero_and_unbiased_variance_one() -> None:
    rng = np.random.default_rng(0)
    x_BT, mask_BT = rng.normal(3.0, 5.0, (16, 9)).astype(np.float32), rng.random((16, 9)) < 0.6
    white_BT = np.asarray(masked.whiten(jnp.asarray(x_BT), jnp.asarray(mask_BT)))
    assert abs(white_BT[mask_BT].mean()) < 1e-6
    assert abs(white_BT[mask_BT].var(ddof=1) - 1) < 1e-5
    assert (white_BT[~mask_BT] == 0).all()


def test_whiten_is_global_over_eight_devices() -> None:
    """Rows of very different scale on every device: statistics per device would give another answer."""
    mesh = jax.make_mesh((8,), ("data",), axis_types=(AxisType.Auto,))
    rng = np.random.default_rng(1)
    x_BT = (rng.normal(size=(16, 5)) * np.arange(1, 17)[:, None]).astype(np.float32)
    mask_BT = rng.random((16, 5)) < 0.7
    place = NamedSharding(mesh, PartitionSpec("data"))
    spread_BT = jax.jit(masked.whiten)(jax.device_put(x_BT, place), jax.device_put(mask_BT, place))
    assert len(spread_BT.sharding.device_set) == 8
    single_BT = masked.whiten(jnp.asarray(x_BT), jnp.asarray(mask_BT))
    np.testing.assert_allclose(spread_BT, single_BT, rtol=1e-5, atol=1e-6)
    reference_BT = np.where(mask_BT, (x_BT - x_BT[mask_BT].mean()) / x_BT[mask_BT].std(ddof=1), 0)
    np.testing.assert_allclose(spread_BT, reference_BT, rtol=1e-4, atol=1e-5)
