"""A feed-forward of many experts, of which every token takes a few.

Tokens are taken in blocks of one expert each, so that nothing is as large as tokens x experts x width, and the weights
of an expert that no token takes are not read. No loss evens out how tokens spread over experts.
"""

from collections.abc import Callable
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx

from pit_jax.architecture import TransformerConfig
from pit_jax.model.adapters import Adapter
from pit_jax.model.placement import experts_on_devices, to_rows, to_weights
from pit_jax.model.products import product
from pit_jax.model.rows import Rows, is_step

SMALLEST, LARGEST = 8, 512  # tokens of a block
Gate = Callable[[jax.Array], jax.Array]
Matrices = tuple[jax.Array, jax.Array, jax.Array]  # gate_EDF, up_EDF, down_EFD


class ExpertFfn(nnx.Module):
    """sum over a token's experts of weight * down (gate_function(gate x) * up x) (arXiv 1701.06538)."""

    def __init__(self, config: TransformerConfig, *, rngs: nnx.Rngs):
        d, f, e = config.width, config.ffn, config.experts
        self.config = config
        self.gate_function = jax.nn.silu if config.activation == "swiglu" else jax.nn.gelu
        normal = jax.random.normal
        self.router = nnx.Param(normal(rngs.params(), (d, e)) * d**-0.5)
        self.expert_gate = nnx.Param(normal(rngs.params(), (e, d, f)) * d**-0.5)
        self.expert_up = nnx.Param(normal(rngs.params(), (e, d, f)) * d**-0.5)
        self.expert_down = nnx.Param(normal(rngs.params(), (e, f, d)) * (f * 2 * config.layers) ** -0.5)

    def __call__(self, x_BLD: jax.Array, rows: Rows, adapter: Adapter | None) -> jax.Array:
        dtype, step, count = x_BLD.dtype, is_step(rows), self.config.experts_per_token
        x_BLD = to_weights(x_BLD, step)
        shares_BLE = jax.nn.softmax(product(x_BLD, self.router[...].astype(dtype)).astype(jnp.float32), axis=-1)
        weights_BLX, chosen_BLX = jax.lax.top_k(shares_BLE, count)
        if self.config.experts_renormed:
            weights_BLX = weights_BLX / jnp.sum(weights_BLX, axis=-1, keepdims=True)
        each = x_BLD.shape[0] * x_BLD.shape[1] * count // self.config.experts
        mix = partial(mixed_by_experts, self.gate_function, min(max(1 << each.bit_length(), SMALLEST), LARGEST))
        matrices = [part[...].astype(dtype) for part in (self.expert_gate, self.expert_up, self.expert_down)]
        return to_rows(
            experts_on_devices(mix, x_BLD, chosen_BLX, weights_BLX.astype(dtype), *matrices, step=step), step
        )


def mixed_by_experts(
    gate_function: Gate,
    block: int,
    x_BLD: jax.Array,
    chosen_BLX: jax.Array,
    weights_BLX: jax.Array,
    gate_EDF: jax.Array,
    up_EDF: jax.Array,
    down_EFD: jax.Array,
) -> jax.Array:
    """mixed_BLD of the experts whose matrices these are: what a token chose beyond 0 to E - 1 adds nothing."""
    tokens, count = x_BLD.shape[0] * x_BLD.shape[1], chosen_BLX.shape[-1]
    x_TD, chosen_TX = x_BLD.reshape(tokens, -1), chosen_BLX.reshape(tokens, count)
    matrices = (gate_EDF, up_EDF, down_EFD)
    return _mixed(gate_function, block, x_TD, chosen_TX, weights_BLX.reshape(tokens, count), matrices).reshape(
        x_BLD.shape
    )


@partial(jax.custom_vjp, nondiff_argnums=(0, 1))
def _mixed(
    gate_function: Gate, block: int, x_TD: jax.Array, chosen_TX: jax.Array, weights_TX: jax.Array, matrices: Matrices
) -> jax.Array:
    used, block_at = _blocks(chosen_TX, len(matrices[0]), block)

    def add(number: jax.Array, mixed_TD: jax.Array) -> jax.Array:
        expert, token_C, choice_C = block_at(number)
        inputs = _inputs(x_TD, weights_TX, matrices, expert, token_C, choice_C)
        return mixed_TD.at[token_C].add(_expert(gate_function, *inputs).astype(jnp.float32), mode="drop")

    return jax.lax.fori_loop(0, used, add, jnp.zeros(x_TD.shape, jnp.float32)).astype(x_TD.dtype)


def _forward(
    gate_function: Gate, block: int, x_TD: jax.Array, chosen_TX: jax.Array, weights_TX: jax.Array, matrices: Matrices
) -> tuple[jax.Array, Any]:
    inputs = x_TD, chosen_TX, weights_TX, matrices
    return _mixed(gate_function, block, *inputs), inputs


def _backward(gate_function: Gate, block: int, inputs: Any, slope_TD: jax.Array) -> Any:
    """Each block's slopes, its products computed again."""
    x_TD, chosen_TX, weights_TX, matrices = inputs
    used, block_at = _blocks(chosen_TX, len(matrices[0]), block)

    def add(number: jax.Array, slopes: Any) -> Any:
        expert, token_C, choice_C = block_at(number)
        rows = _inputs(x_TD, weights_TX, matrices, expert, token_C, choice_C)
        _, pull = jax.vjp(partial(_expert, gate_function), *rows)
        x_CD, weight_C, *of_matrices = pull(slope_TD.at[token_C].get(mode="fill", fill_value=0))
        x, weights, parts = slopes
        return (
            x.at[token_C].add(x_CD.astype(x.dtype), mode="drop"),
            weights.at[token_C, choice_C].set(weight_C, mode="drop"),
            tuple(part.at[expert].add(one.astype(part.dtype)) for part, one in zip(parts, of_matrices, strict=True)),
        )

    zeros = jnp.zeros(x_TD.shape, jnp.float32), jnp.zeros_like(weights_TX)
    wide = tuple(jnp.zeros(matrix.shape, jnp.float32) for matrix in matrices)
    x, weights, parts = jax.lax.fori_loop(0, used, add, (*zeros, wide))
    return x.astype(x_TD.dtype), None, weights, tuple(p.astype(m.dtype) for p, m in zip(parts, matrices, strict=True))


_mixed.defvjp(_forward, _backward)


def _inputs(
    x_TD: jax.Array,
    weights_TX: jax.Array,
    matrices: Matrices,
    expert: jax.Array,
    token_C: jax.Array,
    choice_C: jax.Array,
) -> tuple[jax.Array, ...]:
    """What `_expert` takes for one block."""
    x_CD = x_TD.at[token_C].get(mode="fill", fill_value=0)
    weight_C = weights_TX.at[token_C, choice_C].get(mode="fill", fill_value=0)
    return x_CD, weight_C, *(matrix[expert] for matrix in matrices)


def _expert(
    gate_function: Gate, x_CD: jax.Array, weight_C: jax.Array, gate_DF: jax.Array, up_DF: jax.Array, down_FD: jax.Array
) -> jax.Array:
    return (gate_function(x_CD @ gate_DF) * (x_CD @ up_DF)) @ down_FD * weight_C[:, None]


def _blocks(chosen_TX: jax.Array, experts: int, size: int) -> tuple[jax.Array, Callable[[jax.Array], Any]]:
    """(count, block_at): block_at(number) -> (expert, token_C, choice_C) of `size` tokens that chose one expert.

    Where it has fewer, token_C is one past the last token.
    """
    tokens, count = chosen_TX.shape
    known_A = chosen_TX.reshape(-1)
    known_A = jnp.where((known_A >= 0) & (known_A < experts), known_A, experts).astype(jnp.int32)
    order_A = jnp.argsort(known_A, stable=True).astype(jnp.int32)
    taken_E = jnp.zeros(experts, jnp.int32).at[known_A].add(1, mode="drop")
    first_E = jnp.cumsum(taken_E) - taken_E
    ends_E = jnp.cumsum(-(-taken_E // size))

    def block_at(number: jax.Array) -> tuple[jax.Array, jax.Array, jax.Array]:
        expert = jnp.searchsorted(ends_E, number, side="right").astype(jnp.int32)
        before = (number - ends_E[expert] - (-taken_E[expert] // size)) * size  # of its tokens, in blocks before this
        place_C = before + jnp.arange(size, dtype=jnp.int32)
        choice_C = order_A.at[first_E[expert] + place_C].get(mode="clip")
        return expert, jnp.where(place_C < taken_E[expert], choice_C // count, tokens), choice_C % count

    return ends_E[-1], block_at
