"""One program: prefill the left-padded prompts, then decode in a while_loop until every row has ended."""

from dataclasses import dataclass

import jax
import jax.numpy as jnp

from pit_jax.generation.sampling import Sampling, sample, token_logprobs
from pit_jax.model.attention import Cache, causal_visible, segment_positions
from pit_jax.model.networks import LanguageModel, Params


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class Generated:
    """Responses in their slot: real tokens up to and including EOS, then PAD."""

    tokens_BT: jax.Array  # int32
    mask_BT: jax.Array  # bool
    logprobs_BT: jax.Array  # f32 at the sampling temperature, untruncated distribution; 0 in padding
    ended_B: jax.Array  # bool, False where the slot was full before EOS


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class DecodeState:
    step: jax.Array  # int32
    tokens_BT: jax.Array
    logprobs_BT: jax.Array
    mask_BT: jax.Array
    ended_B: jax.Array
    logits_BV: jax.Array  # of the next token
    real_BS: jax.Array  # bool, cache slots that hold real tokens
    cache: Cache


def generate(
    model: LanguageModel,
    params: Params,
    prompt_BP: jax.Array,
    prompt_mask_BP: jax.Array,
    key: jax.Array,
    *,
    sampling: Sampling,
    response_slot: int,
    eos_id: int,
    pad_id: int,
) -> Generated:
    """Sample at most `response_slot` tokens a row. Pure and jittable; P, T and `sampling` fix the compiled shape.

    Row b at step t draws from fold_in(key, t): results do not depend on when other rows end.
    """
    state = _prefill(model, params, prompt_BP, prompt_mask_BP, response_slot, pad_id)
    prompt_slot, lengths_B = prompt_BP.shape[1], jnp.sum(prompt_mask_BP, axis=1, dtype=jnp.int32)

    def unfinished(state: DecodeState) -> jax.Array:
        return (state.step < response_slot) & ~jnp.all(state.ended_B)

    def decode_one(state: DecodeState) -> DecodeState:
        live_B = ~state.ended_B
        token_B = sample(jax.random.fold_in(key, state.step), state.logits_BV, sampling)
        logprob_B = token_logprobs(state.logits_BV[:, None], token_B[:, None], temperature=sampling.temperature)[:, 0]
        token_B = jnp.where(live_B, token_B, pad_id)
        real_BS = _put(state.real_BS, live_B, prompt_slot + state.step)
        hidden_B1D, cache = model.decode(
            params,
            token_B[:, None],
            (lengths_B + state.step)[:, None],
            real_BS[:, None, :],
            state.cache,
            prompt_slot + state.step,
        )
        return DecodeState(
            step=state.step + 1,
            tokens_BT=_put(state.tokens_BT, token_B, state.step),
            logprobs_BT=_put(state.logprobs_BT, jnp.where(live_B, logprob_B, 0.0), state.step),
            mask_BT=_put(state.mask_BT, live_B, state.step),
            ended_B=state.ended_B | (token_B == eos_id),
            logits_BV=model.logits(params, hidden_B1D)[:, 0],
            real_BS=real_BS,
            cache=cache,
        )

    state = jax.lax.while_loop(unfinished, decode_one, state)
    return Generated(state.tokens_BT, state.mask_BT, state.logprobs_BT, state.ended_B)


def _put(slots_BT: jax.Array, value_B: jax.Array, slot: jax.Array) -> jax.Array:
    return jax.lax.dynamic_update_slice_in_dim(slots_BT, value_B[:, None], slot, axis=1)


def _prefill(
    model: LanguageModel,
    params: Params,
    prompt_BP: jax.Array,
    prompt_mask_BP: jax.Array,
    response_slot: int,
    pad_id: int,
) -> DecodeState:
    batch, prompt_slot = prompt_BP.shape
    segments_BP = prompt_mask_BP.astype(jnp.int32)
    unused_BT = jnp.zeros((batch, response_slot), bool)
    visible_BPS = jnp.pad(causal_visible(segments_BP), ((0, 0), (0, 0), (0, response_slot)))
    cache = Cache.empty(model.config, batch, prompt_slot + response_slot)
    hidden_BPD, cache = model.decode(params, prompt_BP, segment_positions(segments_BP), visible_BPS, cache, 0)
    return DecodeState(
        step=jnp.zeros((), jnp.int32),
        tokens_BT=jnp.full((batch, response_slot), pad_id, jnp.int32),
        logprobs_BT=jnp.zeros((batch, response_slot), jnp.float32),
        mask_BT=unused_BT,
        ended_B=~jnp.any(prompt_mask_BP, axis=1),  # rows that only fill up the batch are over at once
        logits_BV=model.logits(params, hidden_BPD[:, -1:])[:, 0],
        real_BS=jnp.concatenate([prompt_mask_BP, unused_BT], axis=1),
        cache=cache,
    )


def left_pack(tokens_BL: jax.Array, mask_BL: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Real tokens moved to the right end of the row in their order, gaps closed (left padding)."""
    order_BL = jnp.argsort(mask_BL, axis=1, stable=True)
    return jnp.take_along_axis(tokens_BL, order_BL, axis=1), jnp.take_along_axis(mask_BL, order_BL, axis=1)


def assemble_improver_prompt(
    prefix_BP: jax.Array,
    prefix_mask_BP: jax.Array,
    reference_BR: jax.Array,
    reference_mask_BR: jax.Array,
    suffix: tuple[int, ...],
) -> tuple[jax.Array, jax.Array]:
    """prompt(x, y_ref) = prefix(x) + reference + suffix, left-padded: tokens and mask [B, P + R + len(suffix)].

    `reference_mask_BR` marks the reference's tokens without its EOS.
    """
    batch = prefix_BP.shape[0]
    suffix_BX = jnp.broadcast_to(jnp.asarray(suffix, jnp.int32)[None], (batch, len(suffix)))
    tokens_BL = jnp.concatenate([prefix_BP, reference_BR, suffix_BX], axis=1)
    suffix_mask_BX = jnp.broadcast_to(jnp.any(prefix_mask_BP, axis=1)[:, None], suffix_BX.shape)
    return left_pack(tokens_BL, jnp.concatenate([prefix_mask_BP, reference_mask_BR, suffix_mask_BX], axis=1))
