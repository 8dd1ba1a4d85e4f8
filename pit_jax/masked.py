"""Masked reductions, owned once. Junk (NaN, inf) in masked-out slots reaches neither values nor gradients."""

from dataclasses import dataclass

import jax
import jax.numpy as jnp


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class Mean:
    """A mean kept as (sum, count) so that unequal micro-batches never bias it; divided once, on the host."""

    sum: jax.Array
    count: jax.Array

    @staticmethod
    def of(x: jax.Array, mask: jax.Array | None = None) -> "Mean":
        """Sum and count of `x` (any shape) where `mask` (same shape) is True; everywhere without a mask."""
        mask = jnp.ones(x.shape, bool) if mask is None else mask
        return Mean(masked_sum(x, mask), masked_count(mask))

    def __add__(self, other: "Mean") -> "Mean":
        return Mean(self.sum + other.sum, self.count + other.count)

    @property
    def value(self) -> float:
        """sum / count as a Python float; NaN when nothing was counted."""
        count = float(self.count)
        return float(self.sum) / count if count else float("nan")


def fill(x: jax.Array, mask: jax.Array) -> jax.Array:
    """`x` with 0 where `mask` is False. Apply it to an input *before* any maths: 0 * NaN is NaN in a gradient."""
    return jnp.where(mask.astype(bool), x, jnp.zeros((), x.dtype))


def masked_count(mask: jax.Array) -> jax.Array:
    """How many slots count (True or non-zero), float32."""
    return jnp.sum(mask.astype(bool), dtype=jnp.float32)


def masked_sum(x: jax.Array, mask: jax.Array) -> jax.Array:
    """Sum of `x` in float32 where `mask` is True. Shapes equal."""
    return jnp.sum(fill(x.astype(jnp.float32), mask))


def masked_mean(x: jax.Array, mask: jax.Array) -> jax.Array:
    """Mean of `x` where `mask` is True; 0 for an empty mask. Shapes equal."""
    return masked_sum(x, mask) / jnp.maximum(masked_count(mask), 1.0)


def mean_of_rows(x_BT: jax.Array, mask_BT: jax.Array) -> Mean:
    """Mean, over the rows with a real slot, of each row's mean over its real slots: every row counts alike."""
    counts_B = jnp.sum(mask_BT.astype(bool), axis=1, dtype=jnp.float32)
    sums_B = jnp.sum(fill(x_BT.astype(jnp.float32), mask_BT), axis=1)
    return Mean.of(sums_B / jnp.maximum(counts_B, 1.0), counts_B > 0)


def mean_of_slots(x_BT: jax.Array, mask_BT: jax.Array) -> Mean:
    """The sum over real slots by the number of all slots of the rows that have one: padding counts as 0."""
    rows = masked_count(jnp.any(mask_BT.astype(bool), axis=1))
    return Mean(masked_sum(x_BT, mask_BT), rows * mask_BT.shape[1])


def whiten(x_BT: jax.Array, mask_BT: jax.Array, *, shift_mean: bool = True) -> jax.Array:
    """(x - mean) / sqrt(unbiased variance + 1e-8) over the masked slots of the whole batch; 0 elsewhere.

    Without `shift_mean` the mean is added back (rewards keep their sign). Under jit on a mesh the statistics
    are global, whatever the sharding (per-device statistics would depend on the device count).
    """
    x_BT = fill(x_BT.astype(jnp.float32), mask_BT)
    mean = masked_mean(x_BT, mask_BT)
    count = masked_count(mask_BT)
    variance = masked_sum(jnp.square(x_BT - mean), mask_BT) / jnp.maximum(count - 1.0, 1.0)
    white_BT = (x_BT - mean) * jax.lax.rsqrt(variance + 1e-8)
    return fill(white_BT if shift_mean else white_BT + mean, mask_BT)
