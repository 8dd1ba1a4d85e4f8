"""Rotary position embedding (arXiv 2104.09864), halves rotated as in Llama."""

import math

import jax
import jax.numpy as jnp

from pit_jax.architecture import TransformerConfig


def rope_frequencies(config: TransformerConfig, *, windowed: bool) -> jax.Array:
    """frequencies_H, radians a position, of a layer with or without a window: theta^(-2i / R) of R rotated components.

    An odd R is rounded up, as transformers does.
    """
    rotated = int(config.head_size * config.rope_share)
    theta = config.window_rope_theta if windowed and config.window_rope_theta else config.rope_theta
    frequencies_H = theta ** (-jnp.arange(0, rotated, 2, dtype=jnp.float32) / rotated)
    if windowed and config.window_rope_theta:
        return frequencies_H
    match config.rope_scaling:
        case "linear":
            return frequencies_H / config.rope_factor
        case "llama3":
            return _llama3(frequencies_H, config)
        case "yarn":
            return _yarn(frequencies_H, config, theta)
        case "longrope":
            return frequencies_H / jnp.asarray(config.rope_divisors, jnp.float32)
        case "none":
            return frequencies_H


def _llama3(frequencies_H: jax.Array, config: TransformerConfig) -> jax.Array:
    """Slow frequencies divided by rope_factor, fast ones as they are, a blend between.

    t = turns in rope_length; s = clip((t - low) / (high - low), 0, 1); f -> (1 - s) f / factor + s f.
    """
    turns_H = config.rope_length * frequencies_H / (2 * math.pi)
    share_H = jnp.clip((turns_H - config.rope_low) / (config.rope_high - config.rope_low), 0.0, 1.0)
    return (1.0 - share_H) * frequencies_H / config.rope_factor + share_H * frequencies_H


def _yarn(frequencies_H: jax.Array, config: TransformerConfig, theta: float) -> jax.Array:
    """The same with a blend that is linear in the component i (arXiv 2309.00071), of which n turns has

    i(n) = R log(rope_length / (2 pi n)) / (2 log theta); s = clip((i - i(high)) / (i(low) - i(high)), 0, 1).
    """
    count = frequencies_H.shape[0]

    def component(turns: float) -> float:
        return count * math.log(config.rope_length / (2 * math.pi * turns)) / math.log(theta)

    first, last = component(config.rope_high), component(config.rope_low)
    if config.rope_whole:
        first, last = math.floor(first), math.ceil(last)
    first, last = max(first, 0), min(last, 2 * count - 1)
    span = last - first if last != first else 1e-3
    share_H = jnp.clip((jnp.arange(count, dtype=jnp.float32) - first) / span, 0.0, 1.0)
    return share_H * frequencies_H / config.rope_factor + (1.0 - share_H) * frequencies_H


def rope(x_BLNH: jax.Array, positions_BL: jax.Array, frequencies_H: jax.Array, gain: jax.Array) -> jax.Array:
    """Component i of the first 2 len(frequencies_H) is paired with the one half of them later; the others stay.

    What is rotated is `gain` times as large.
    """
    rotated = 2 * frequencies_H.shape[0]
    angles_BL1H = (positions_BL.astype(jnp.float32)[:, :, None] * frequencies_H[None, None, :])[:, :, None, :]
    sin, cos = jnp.sin(angles_BL1H) * gain, jnp.cos(angles_BL1H) * gain
    a, b = jnp.split(x_BLNH[..., :rotated].astype(jnp.float32), 2, axis=-1)
    turned = jnp.concatenate([a * cos - b * sin, b * cos + a * sin], axis=-1).astype(x_BLNH.dtype)
    return turned if rotated == x_BLNH.shape[-1] else jnp.concatenate([turned, x_BLNH[..., rotated:]], axis=-1)
