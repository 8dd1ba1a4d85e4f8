"""The logistic loss of a difference that should be positive, where the label that says so may be wrong."""

import jax


def smoothed_losses(difference_B: jax.Array, smoothing: float | jax.Array) -> jax.Array:
    """-(1 - e) log s(d) - e log s(-d) of each difference d in float32, with s the sigmoid: a label is wrong with
    chance e, one for all or an array [B] of one each."""
    return (1 - smoothing) * jax.nn.softplus(-difference_B) + smoothing * jax.nn.softplus(difference_B)
