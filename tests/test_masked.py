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


def test_a_mean_of_rows_counts_every_row_alike() -> None:
    """Rows of means 1.5 and 3, whatever their lengths, and one without a real slot, which does not count."""
    x_BT, mask_BT = (jnp.concatenate([x, y]) for x, y in ((X_BT, X_BT[:1]), (MASK_BT, MASK_BT[:1] & False)))
    mean = masked.mean_of_rows(x_BT, mask_BT)
    assert (float(mean.sum), float(mean.count)) == (4.5, 2.0) and mean.value == 2.25
    assert Mean.of(x_BT, mask_BT).value == 2.0, "the mean over slots is another"


def test_a_mean_of_slots_is_a_sum_by_the_room_there_was() -> None:
    """1 + 2 + 3 over two rows of three slots; a row without a real slot had no room. Long answers are not thinned."""
    x_BT, mask_BT = (jnp.concatenate([x, y]) for x, y in ((X_BT, X_BT[:1]), (MASK_BT, MASK_BT[:1] & False)))
    mean = masked.mean_of_slots(x_BT, mask_BT)
    assert (float(mean.sum), float(mean.count)) == (6.0, 6.0) and mean.value == 1.0


@pytest.mark.parametrize("name", ["mean_of_rows", "mean_of_slots"])
def test_the_other_means_add_by_count_and_see_no_junk(name: str) -> None:
    """Micro-batches of one row each add up to the batch; NaN and inf in padding reach neither value nor gradient."""
    mean = getattr(masked, name)
    pieces = [mean(X_BT[row : row + 1], MASK_BT[row : row + 1]) for row in range(2)]
    assert (pieces[0] + pieces[1]).value == pytest.approx(mean(X_BT, MASK_BT).value)
    assert mean(X_BT, MASK_BT.astype(jnp.float32)).value == mean(X_BT, MASK_BT).value

    def divided(x_BT: jax.Array) -> jax.Array:
        found = mean(x_BT, MASK_BT)
        return found.sum / found.count

    grad_BT = jax.grad(divided)(X_BT)
    share = {
        "mean_of_rows": [[0.25, 0.25, 0.0], [0.5, 0.0, 0.0]],
        "mean_of_slots": [[1 / 6, 1 / 6, 0.0], [1 / 6, 0, 0]],
    }
    np.testing.assert_allclose(grad_BT, share[name], rtol=1e-6)


@pytest.mark.parametrize("name", ["mean_of_rows", "mean_of_slots"])
def test_the_other_means_of_nothing_are_nothing(name: str) -> None:
    def total(x_BT: jax.Array) -> jax.Array:
        return getattr(masked, name)(x_BT, jnp.zeros_like(MASK_BT)).sum

    value, grad_BT = jax.value_and_grad(total)(X_BT)
    found = getattr(masked, name)(X_BT, jnp.zeros_like(MASK_BT))
    assert float(value) == float(found.count) == 0.0 and math.isnan(found.value)
    np.testing.assert_array_equal(grad_BT, np.zeros((2, 3)))


@pytest.mark.parametrize("name", ["mean_of_rows", "mean_of_slots"])
def test_the_other_means_are_taken_in_float32(name: str) -> None:
    x_BT = jnp.ones((2, 5096), jnp.bfloat16)
    found = getattr(masked, name)(x_BT, jnp.ones(x_BT.shape, bool))
    assert found.sum.dtype == found.count.dtype == jnp.float32 and found.value == 1.0


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
