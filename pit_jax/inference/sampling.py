"""Choosing the next token: greedy, temperature, top-k, top-p."""

from dataclasses import dataclass
from functools import partial

import jax
import jax.numpy as jnp

from pit_jax.errors import UserError
from pit_jax.model.scoring import divisor


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
        kept = min(top_k, logits_BV.shape[-1])
        kth_B1 = jnp.sort(logits_BV, axis=-1)[:, -kept][:, None]  # lax.top_k would gather the rows of all devices
        logits_BV = jnp.where(logits_BV < kth_B1, -jnp.inf, logits_BV)
    if top_p < 1:
        sorted_BV = jnp.flip(jnp.sort(logits_BV, axis=-1), axis=-1)
        probs_BV = jax.nn.softmax(sorted_BV, axis=-1)
        before_BV = jnp.cumsum(probs_BV, axis=-1) - probs_BV  # mass of the strictly likelier tokens
        cutoff_B1 = jnp.min(jnp.where(before_BV < top_p, sorted_BV, jnp.inf), axis=-1, keepdims=True)
        logits_BV = jnp.where(logits_BV < cutoff_B1, -jnp.inf, logits_BV)
    return logits_BV


def sample(key: jax.Array, logits_BV: jax.Array, sampling: Sampling) -> jax.Array:
    """tokens_B, int32."""
    logits_BV = logits_BV.astype(jnp.float32)
    tempered_BV = truncate(logits_BV / divisor(sampling.temperature), top_k=sampling.top_k, top_p=sampling.top_p)
    drawn_B = jax.random.categorical(key, tempered_BV, axis=-1)
    greedy = jnp.asarray(sampling.temperature, jnp.float32) == 0
    return jnp.where(greedy, jnp.argmax(logits_BV, axis=-1), drawn_B).astype(jnp.int32)
