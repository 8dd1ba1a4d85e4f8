"""Choosing the next token: greedy, temperature, top-k, top-p."""

from dataclasses import dataclass

import jax
import jax.numpy as jnp


@dataclass(frozen=True)
class Sampling:
    """How tokens are drawn. temperature 0 = greedy; top_k 0 and top_p 1 = no truncation."""

    temperature: float = 1.0
    top_k: int = 0
    top_p: float = 1.0

    def __post_init__(self) -> None:
        if self.temperature < 0 or self.top_k < 0 or not 0 < self.top_p <= 1:
            raise ValueError(
                "sampling needs temperature >= 0, top_k >= 0 and 0 < top_p <= 1, found "
                f"temperature={self.temperature} top_k={self.top_k} top_p={self.top_p}"
            )


def tempered_logprobs(logits_BTV: jax.Array, *, temperature: float) -> jax.Array:
    """log softmax(logits / temperature) in float32; temperature 0 (greedy) reports the untempered log-probs.

    Policy, sampler and reference all use it, so that ratios and KL compare the distributions that are sampled.
    """
    scale = temperature if temperature > 0 else 1.0
    return jax.nn.log_softmax(logits_BTV.astype(jnp.float32) / scale, axis=-1)


def token_logprobs(logits_BTV: jax.Array, tokens_BT: jax.Array, *, temperature: float) -> jax.Array:
    """logprobs_BT of the given tokens under the tempered distribution."""
    scale = temperature if temperature > 0 else 1.0
    logits_BTV = logits_BTV.astype(jnp.float32) / scale
    picked_BT = jnp.take_along_axis(logits_BTV, tokens_BT[..., None], axis=-1)[..., 0]
    return picked_BT - jax.nn.logsumexp(logits_BTV, axis=-1)


def truncate(logits_BV: jax.Array, *, top_k: int, top_p: float) -> jax.Array:
    """Logits with everything outside the top-k tokens, then outside the top-p nucleus, at -inf."""
    if top_k:
        kth_B1 = jax.lax.top_k(logits_BV, min(top_k, logits_BV.shape[-1]))[0][:, -1:]
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
    if sampling.temperature == 0:
        return jnp.argmax(logits_BV, axis=-1).astype(jnp.int32)
    tempered_BV = logits_BV.astype(jnp.float32) / sampling.temperature
    truncated_BV = truncate(tempered_BV, top_k=sampling.top_k, top_p=sampling.top_p)
    return jax.random.categorical(key, truncated_BV, axis=-1).astype(jnp.int32)
