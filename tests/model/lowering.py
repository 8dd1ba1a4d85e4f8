"""A model's backward pass, lowered for devices that need not be there."""

from typing import Any

import jax
import jax.numpy as jnp
from jax.sharding import AbstractDevice, Mesh

from pit_jax.config import TransformerConfig
from pit_jax.model.networks import LanguageModel
from pit_jax.model.rows import Sequences
from pit_jax.parallel.sharding import abstract_params, batch_sharding


def lowered(config: TransformerConfig, mesh: Mesh, length: int, device: AbstractDevice, platform: str) -> Any:
    """The gradient of all parameters on 8 rows; `mesh` may be of any devices, which `device` stands in for."""
    model = LanguageModel(config, 30)
    tokens = jax.ShapeDtypeStruct((8, length), jnp.int32, sharding=batch_sharding(mesh))

    def loss(params: Any, tokens_BL: jax.Array) -> jax.Array:
        hidden_BLD = model.hidden(params, tokens_BL, Sequences.alone(jnp.ones_like(tokens_BL)))
        return jnp.sum(hidden_BLD.astype(jnp.float32))

    with jax.sharding.use_abstract_mesh(mesh.abstract_mesh.update(abstract_device=device)):
        traced: Any = jax.jit(jax.grad(loss)).trace(abstract_params(model.init, mesh), tokens)
    return traced.lower(lowering_platforms=(platform,))
