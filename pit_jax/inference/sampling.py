"""Choosing the next token: greedy, temperature, top-k, top-p."""

from dataclasses import dataclass
from functools import partial

import jax
import jax.numpy as jnp

from pit_jax.errors import UserError
from pit_jax.model.scoring import divisor

BLOCK = 128  # tokens; as many as the lanes of a TPU
ALMOST_ONE = 1.0 - 2.0**-24  # the largest float32 below 1


@partial(jax.tree_util.register_dataclass, data_fields=["temperature"], meta_fields=["top_k", "top_p"])
@dataclass(frozen=True)
class Sampling:
    """How tokens are drawn: temperature 0 = greedy; top_k 0 and top_p 1 = no truncation.

    A pytree: one compiled program serves every temperature, top_k and top_p are part of its shape.
    """

    temperature: float | jax.Array = 1.0
    top_k: int = 0
    top_p: float = 1.0


def check_sampling(sampling: Sampling) -> Sampling:
    """The same sampling, or UserError for a knob out of range."""
    if not float(sampling.temperature) >= 0 or sampling.top_k < 0 or not 0 < sampling.top_p <= 1:  # NaN is not >= 0
        raise UserError(
            "sampling needs temperature >= 0, top_k >= 0 and 0 < top_p <= 1, found "
            f"temperature={sampling.temperature} top_k={sampling.top_k} top_p={sampling.top_p}"
        )
    return sampling


def truncate(logits_BV: jax.Array, *, top_k: int, top_p: float) -> jax.Array:
    """Logits with everything outside the top-k tokens, then outside the top-p nucleus, at -inf."""
    if top_k:
        least_B1 = _least(logits_BV, jnp.ones_like(logits_BV), jnp.float32(top_k))
        logits_BV = jnp.where(logits_BV < least_B1, -jnp.inf, logits_BV)
    if top_p < 1:
        probs_BV = jax.nn.softmax(logits_BV, axis=-1)
        logits_BV = jnp.where(logits_BV < _least(logits_BV, probs_BV, jnp.float32(top_p)), -jnp.inf, logits_BV)
    return logits_BV


def _least(logits_BV: jax.Array, weights_BV: jax.Array, limit: jax.Array) -> jax.Array:
    """least_B1, the lowest number above which the tokens of a row weigh less than the limit, to the last bit.

    Found by halving the numbers that float32 has, 32 passes over the logits: a sort takes more, and gathers a
    vocabulary that is split over devices.
    """
    highest_B1 = _ordered(jnp.max(logits_BV, axis=-1, keepdims=True))
    lowest_B1 = jnp.full_like(highest_B1, jnp.iinfo(jnp.int32).min)

    def halve(_: jax.Array, ends: tuple[jax.Array, jax.Array]) -> tuple[jax.Array, jax.Array]:
        too_low_B1, enough_B1 = ends
        middle_B1 = (too_low_B1 & enough_B1) + ((too_low_B1 ^ enough_B1) >> 1)  # the sum of both may overflow
        above_BV = logits_BV > _number(middle_B1)
        less_B1 = jnp.sum(jnp.where(above_BV, weights_BV, 0.0), axis=-1, keepdims=True) < limit
        return jnp.where(less_B1, too_low_B1, middle_B1), jnp.where(less_B1, middle_B1, enough_B1)

    _, enough_B1 = jax.lax.fori_loop(0, 32, halve, (lowest_B1, highest_B1))
    return _number(enough_B1)


def _ordered(x: jax.Array) -> jax.Array:
    """The bits of float32 as int32 that are ordered as the numbers are."""
    return _turned(jax.lax.bitcast_convert_type(x, jnp.int32))


def _number(ordered: jax.Array) -> jax.Array:
    """The float32 of such bits."""
    return jax.lax.bitcast_convert_type(_turned(ordered), jnp.float32)


def _turned(bits: jax.Array) -> jax.Array:
    """All bits but the sign turned over where it is set, which done twice changes nothing."""
    return bits ^ ((bits >> 31) & jnp.int32(0x7FFFFFFF))


def sample(share_B: jax.Array, logits_BV: jax.Array, sampling: Sampling) -> jax.Array:
    """tokens_B, int32, at a share in [0, 1) of each row's probabilities, added up in the order of the vocabulary."""
    logits_BV = logits_BV.astype(jnp.float32)

    def greedy(logits_BV: jax.Array) -> jax.Array:
        return jnp.argmax(logits_BV, axis=-1).astype(jnp.int32)

    def drawn(logits_BV: jax.Array) -> jax.Array:
        logits_BV = logits_BV / divisor(sampling.temperature)
        return _at(share_B, truncate(logits_BV, top_k=sampling.top_k, top_p=sampling.top_p))

    return jax.lax.cond(jnp.asarray(sampling.temperature, jnp.float32) == 0, greedy, drawn, logits_BV)


def _at(share_B: jax.Array, logits_BV: jax.Array) -> jax.Array:
    """tokens_B at a share in [0, 1) of the probabilities added up in the order of the vocabulary.

    One random number a row, where the usual way (the largest of logits with Gumbel noise) takes one a token. Blocks of
    tokens are added up first, then one block's tokens: short sums, which are exact enough for any vocabulary.
    """
    vocabulary = logits_BV.shape[1]
    weights_BV = jnp.exp(logits_BV - jnp.max(logits_BV, axis=-1, keepdims=True))
    blocks_BCX = jnp.pad(weights_BV, ((0, 0), (0, -vocabulary % BLOCK))).reshape(len(share_B), -1, BLOCK)
    block_B, rest_B = _crossing(jnp.sum(blocks_BCX, axis=-1), share_B)
    ours_BC = jnp.arange(blocks_BCX.shape[1], dtype=jnp.int32)[None, :] == block_B[:, None]
    # Added up rather than looked up: of a vocabulary that is split over devices each adds its part.
    within_BX = jnp.sum(jnp.where(ours_BC[:, :, None], blocks_BCX, 0.0), axis=1)
    return block_B * BLOCK + _crossing(within_BX, rest_B)[0]


def _crossing(weights_BX: jax.Array, share_B: jax.Array) -> tuple[jax.Array, jax.Array]:
    """(place_B, rest_B): the place in whose weight the sum over places crosses a share of all, and the share of that
    weight at which it does. A weight of 0 is never crossed."""
    ends_BX = jnp.cumsum(weights_BX, axis=-1)
    target_B1 = share_B[:, None] * ends_BX[:, -1:]
    place_B = jnp.sum(ends_BX <= target_B1, axis=-1, dtype=jnp.int32)
    last_B = jnp.sum(ends_BX < ends_BX[:, -1:], axis=-1, dtype=jnp.int32)
    place_B = jnp.minimum(place_B, last_B)  # a share so near to 1 that its product is all
    ours_BX = jnp.arange(weights_BX.shape[1], dtype=jnp.int32)[None, :] == place_B[:, None]
    weight_B = jnp.sum(jnp.where(ours_BX, weights_BX, 0.0), axis=-1)
    before_B = jnp.sum(jnp.where(ours_BX, ends_BX - weights_BX, 0.0), axis=-1)
    return place_B, jnp.clip((target_B1[:, 0] - before_B) / weight_B, 0.0, ALMOST_ONE)
