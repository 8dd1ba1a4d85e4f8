"""Rotary position embedding (arXiv 2104.09864), halves rotated as in Llama."""

import math
from dataclasses import dataclass

import jax
import jax.numpy as jnp

from pit_jax.architecture import TransformerConfig


def rope_frequencies(config: TransformerConfig, *, windowed: bool) -> jax.Array:
    """frequencies_R, radians a position, of a layer with or without a window: theta^(-2i / R) of R rotated components.

    An odd R is rounded up, as transformers does.
    """
    rotated = int(config.head_size * config.rope_share)
    theta = config.window_rope_theta if windowed and config.window_rope_theta else config.rope_theta
    frequencies_R = theta ** (-jnp.arange(0, rotated, 2, dtype=jnp.float32) / rotated)
    if windowed and config.window_rope_theta:
        return frequencies_R
    match config.rope_scaling:
        case "linear":
            return frequencies_R / config.rope_factor
        case "llama3":
            return _llama3(frequencies_R, config)
        case "yarn":
            return _yarn(frequencies_R, config, theta)
        case "longrope":
            return frequencies_R / jnp.asarray(config.rope_divisors, jnp.float32)
        case "none":
            return frequencies_R


def _llama3(frequencies_R: jax.Array, config: TransformerConfig) -> jax.Array:
    """Slow frequencies divided by rope_factor, fast ones as they are, a blend between.

    t = turns in rope_length; s = clip((t - low) / (high - low), 0, 1); f -> (1 - s) f / factor + s f.
    """
    turns_R = config.rope_length * frequencies_R / (2 * math.pi)
    share_R = jnp.clip((turns_R - config.rope_low) / (config.rope_high - config.rope_low), 0.0, 1.0)
    return (1.0 - share_R) * frequencies_R / config.rope_factor + share_R * frequencies_R


def _yarn(frequencies_R: jax.Array, config: TransformerConfig, theta: float) -> jax.Array:
    """The same with a blend that is linear in the component i (arXiv 2309.00071), of which n turns has

    i(n) = R log(rope_length / (2 pi n)) / (2 log theta); s = clip((i - i(high)) / (i(low) - i(high)), 0, 1).
    """
    count = frequencies_R.shape[0]

    def component(turns: float) -> float:
        return count * math.log(config.rope_length / (2 * math.pi * turns)) / math.log(theta)

    first, last = component(config.rope_high), component(config.rope_low)
    if config.rope_whole:
        first, last = math.floor(first), math.ceil(last)
    first, last = max(first, 0), min(last, 2 * count - 1)
    span = last - first if last != first else 1e-3
    share_R = jnp.clip((jnp.arange(count, dtype=jnp.float32) - first) / span, 0.0, 1.0)
    return share_R * frequencies_R / config.rope_factor + (1.0 - share_R) * frequencies_R


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class Rotation:
    """By how much every slot turns the rotated components of a head."""

    sin_BL1R: jax.Array
    cos_BL1R: jax.Array

    @staticmethod
    def of(positions_BL: jax.Array, frequencies_R: jax.Array, gain: float) -> "Rotation":
        """By frequencies in radians a position; what is rotated is `gain` times as large."""
        angles_BL1R = (positions_BL.astype(jnp.float32)[:, :, None] * frequencies_R[None, None, :])[:, :, None, :]
        return Rotation(jnp.sin(angles_BL1R) * gain, jnp.cos(angles_BL1R) * gain)


def rotations_of(config: TransformerConfig, positions_BL: jax.Array) -> dict[str, Rotation]:
    """What the layers of a model rotate by, made once for all of them: "all", and "windowed" where that differs."""
    made = {"all": Rotation.of(positions_BL, rope_frequencies(config, windowed=False), config.rope_gain)}
    if config.window_rope_theta:
        made["windowed"] = Rotation.of(positions_BL, rope_frequencies(config, windowed=True), 1.0)
    return made


def rope(x_BLNH: jax.Array, rotation: Rotation) -> jax.Array:
    """Component i of the first 2 R is paired with the one R later; the others stay."""
    sin, cos = rotation.sin_BL1R, rotation.cos_BL1R
    rotated = 2 * sin.shape[-1]
    a, b = jnp.split(x_BLNH[..., :rotated].astype(jnp.float32), 2, axis=-1)
    turned = jnp.concatenate([a * cos - b * sin, b * cos + a * sin], axis=-1).astype(x_BLNH.dtype)
    return turned if rotated == x_BLNH.shape[-1] else jnp.concatenate([turned, x_BLNH[..., rotated:]], axis=-1)
