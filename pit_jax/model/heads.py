"""The scalar head of reward, gap and value models."""

import jax
import jax.numpy as jnp
from flax import nnx


class ScalarHead(nnx.Module):
    """hidden_BLD -> scalar_BL; weights start at N(0, 1/(d+1)), bias at 0 (the N details of RLHF, item 4)."""

    def __init__(self, width: int, *, rngs: nnx.Rngs):
        self.kernel = nnx.Param(jax.random.normal(rngs.params(), (width,)) * (width + 1) ** -0.5)
        self.bias = nnx.Param(jnp.zeros((), jnp.float32))

    def __call__(self, hidden_BLD: jax.Array) -> jax.Array:
        return jnp.einsum("BLD,D->BL", hidden_BLD.astype(jnp.float32), self.kernel[...]) + self.bias[...]
