"""RMSNorm and LayerNorm, computed in float32."""

import jax
import jax.numpy as jnp
from flax import nnx

from pit_jax.architecture import TransformerConfig


class RmsNorm(nnx.Module):
    """x / rms(x) * (offset + scale) over the last axis (arXiv 1910.07467). With an offset the weights start at 0."""

    def __init__(self, width: int, eps: float, offset: float = 0.0):
        self.eps, self.offset = eps, offset
        self.scale = nnx.Param(jnp.full((width,), 1.0 - offset, jnp.float32))

    def __call__(self, x: jax.Array) -> jax.Array:
        y = x.astype(jnp.float32)
        y = y * jax.lax.rsqrt(jnp.mean(jnp.square(y), axis=-1, keepdims=True) + self.eps)
        scale = self.scale[...] + self.offset if self.offset else self.scale[...]
        return (y * _over(scale, y)).astype(x.dtype)


class LayerNorm(nnx.Module):
    """(x - mean(x)) / std(x) * scale + shift over the last axis (arXiv 1607.06450)."""

    def __init__(self, width: int, eps: float):
        self.eps = eps
        self.scale = nnx.Param(jnp.ones((width,), jnp.float32))
        self.shift = nnx.Param(jnp.zeros((width,), jnp.float32))

    def __call__(self, x: jax.Array) -> jax.Array:
        y = x.astype(jnp.float32)
        y = y - jnp.mean(y, axis=-1, keepdims=True)
        y = y * jax.lax.rsqrt(jnp.mean(jnp.square(y), axis=-1, keepdims=True) + self.eps)
        return (y * _over(self.scale[...], y) + _over(self.shift[...], y)).astype(x.dtype)


Norm = RmsNorm | LayerNorm


def make_norm(config: TransformerConfig) -> Norm:
    """The norm of a residual stream."""
    if config.norm == "layer":
        return LayerNorm(config.width, config.norm_eps)
    return RmsNorm(config.width, config.norm_eps, config.norm_offset)


def _over(weights_D: jax.Array, x: jax.Array) -> jax.Array:
    """Weights with the rank of what they multiply."""
    return weights_D.reshape((1,) * (x.ndim - 1) + weights_D.shape)
