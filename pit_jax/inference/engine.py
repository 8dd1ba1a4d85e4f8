"""From prompts to completions: prefill the left-padded prompts, then decode in a while_loop until every row has ended.

The one road of rollouts, references, improving, evaluation, Self-Refine and best-of-n: one compiled program for each
shape of prompts, whatever the weights and the temperature.
"""

import math
from dataclasses import dataclass
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
from jax.sharding import Mesh

from pit_jax.batch import Completions, DecodeSpec, PromptBatch, Responses
from pit_jax.inference.sampling import Sampling, sample
from pit_jax.model.cache import Apart, Cache, Stacked
from pit_jax.model.networks import LanguageModel, Params, has_layers_apart, layers_apart
from pit_jax.model.placement import PARTS, logits_to_rows, on_one_cpu
from pit_jax.model.rows import Continuation, Sequences
from pit_jax.model.scoring import token_logprobs
from pit_jax.parallel.mesh import decode_mesh
from pit_jax.parallel.sharding import DECODE_RULES, P, batch_sharding, constrain, param_sharding, within

# Layers that a CPU has apart (model/cache.py): 30 of them take 27 seconds of one core to compile, scanned ones 4.
MOST_APART = 12


class Engine:
    """The compiled programs that draw; `model` and `spec` are fixed, parameters and prompts come with every call.

    Parameters are taken as a training holds them, or, faster on a mesh, as `to_decode` gives them: one conversion
    serves every draw until the parameters move.
    """

    def __init__(self, model: LanguageModel, spec: DecodeSpec, mesh: Mesh | None = None, share: int = 0):
        """On `mesh`, with a copy of the weights over `share` devices of its fsdp axis (parallel.mesh.decode_mesh).

        Without one, on the mesh that is set, if any.
        """
        self.spec = spec
        draw: Any = partial(complete, model, spec=spec)
        convert: Any = model.for_decoding
        whole: Params = jax.eval_shape(lambda: model.init(jax.random.key(0)))
        self.weights: Params = jax.eval_shape(convert, whole)
        """Shapes of what `to_decode` gives, placed where there is a mesh."""
        drawn: dict[str, Any] = {}
        converted: dict[str, Any] = {}
        if mesh is not None:
            weight_bytes = sum(leaf.size * leaf.dtype.itemsize for leaf in jax.tree.leaves(self.weights))
            decoding = decode_mesh(mesh, share, weight_bytes)
            convert = partial(convert, parts=math.prod(decoding.shape[axis] for axis in PARTS))
            self.weights = jax.eval_shape(convert, whole)
            draw, convert = within(decoding, draw), within(decoding, convert)
            places = param_sharding(self.weights, decoding, DECODE_RULES)
            self.weights = jax.tree.map(lambda leaf, place: leaf.update(sharding=place), self.weights, places)
            converted, drawn = {"out_shardings": places}, {"out_shardings": batch_sharding(mesh)}
        self.to_decode = jax.jit(convert, **converted)
        """to_decode(params) -> weights: the parameters in the compute dtype, adapters merged, placed for decoding."""
        self.complete = jax.jit(draw, **drawn)
        """complete(weights, prompt_BP, prompt_mask_BP, key, sampling) -> Completions."""
        self.improver_prompt = jax.jit(partial(improver_prompt, spec=spec))
        """improver_prompt(rows, reference) -> (tokens_BP, mask_BP)."""

    def answer(self, weights: Params, rows: PromptBatch, key: jax.Array, sampling: Sampling) -> Completions:
        """y ~ M(x)."""
        completions: Completions = self.complete(weights, rows.prompt_BP, rows.prompt_mask_BP, key, sampling)
        return completions

    def rewrite(
        self, weights: Params, rows: PromptBatch, reference: Responses, key: jax.Array, sampling: Sampling
    ) -> Completions:
        """y ~ M(x, y_ref)."""
        completions: Completions = self.complete(weights, *self.improver_prompt(rows, reference), key, sampling)
        return completions


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


def complete(
    model: LanguageModel,
    weights: Params,
    prompt_BP: jax.Array,
    prompt_mask_BP: jax.Array,
    key: jax.Array,
    sampling: Sampling,
    *,
    spec: DecodeSpec,
) -> Completions:
    """Sample at most `spec.response_slot` tokens a row. Pure; shapes and truncation of `sampling` fix the program.

    Row b at step t draws from fold_in(key, t): results do not depend on when other rows end. A row without a prompt
    token, which only fills up a batch, has ended at once.
    """
    if on_one_cpu() and model.config.layers <= MOST_APART:
        weights = layers_apart(weights, model.config.layers)
    state = _prefill(model, weights, prompt_BP, prompt_mask_BP, spec)
    prompt_slot, lengths_B = prompt_BP.shape[1], jnp.sum(prompt_mask_BP, axis=1, dtype=jnp.int32)

    def unfinished(state: DecodeState) -> jax.Array:
        return (state.step < spec.response_slot) & ~jnp.all(state.ended_B)

    def decode_one(state: DecodeState) -> DecodeState:
        live_B, slot = ~state.ended_B, prompt_slot + state.step
        token_B = sample(jax.random.fold_in(key, state.step), state.logits_BV, sampling)
        logprob_B = token_logprobs(state.logits_BV[:, None], token_B[:, None], temperature=sampling.temperature)[:, 0]
        token_B = jnp.where(live_B, token_B, spec.pad_id)
        real_BS = _put(state.real_BS, live_B, slot)
        rows = Continuation((lengths_B + state.step)[:, None], real_BS, slot)
        hidden_B1D, cache = model.decode(weights, token_B[:, None], rows, state.cache)
        return DecodeState(
            step=state.step + 1,
            tokens_BT=_put(state.tokens_BT, token_B, state.step),
            logprobs_BT=_put(state.logprobs_BT, jnp.where(live_B, logprob_B, 0.0), state.step),
            mask_BT=_put(state.mask_BT, live_B, state.step),
            ended_B=state.ended_B | (token_B == spec.eos_id),
            logits_BV=_next_logits(model, weights, hidden_B1D),
            real_BS=real_BS,
            cache=cache,
        )

    state = jax.lax.while_loop(unfinished, decode_one, state)
    return Completions(state.tokens_BT, state.mask_BT, state.logprobs_BT, state.ended_B)


def improver_prompt(rows: PromptBatch, reference: Responses, *, spec: DecodeSpec) -> tuple[jax.Array, jax.Array]:
    """prompt(x, y_ref) of improver and gap model, left-padded: tokens and mask [B, P + T + suffix]; no EOS of y_ref."""
    mask_BT = reference.mask_BT & (reference.tokens_BT != spec.eos_id)
    batch = rows.prefix_BP.shape[0]
    suffix_BX = jnp.broadcast_to(jnp.asarray(spec.suffix, jnp.int32)[None], (batch, len(spec.suffix)))
    suffix_mask_BX = jnp.broadcast_to(jnp.any(rows.prefix_mask_BP, axis=1)[:, None], suffix_BX.shape)
    tokens_BL = jnp.concatenate([rows.prefix_BP, reference.tokens_BT, suffix_BX], axis=1)
    return left_pack(tokens_BL, jnp.concatenate([rows.prefix_mask_BP, mask_BT, suffix_mask_BX], axis=1))


def left_pack(tokens_BL: jax.Array, mask_BL: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Real tokens moved to the right end of the row in their order, gaps closed (left padding)."""
    order_BL = jnp.argsort(mask_BL, axis=1, stable=True)
    return jnp.take_along_axis(tokens_BL, order_BL, axis=1), jnp.take_along_axis(mask_BL, order_BL, axis=1)


def _put(slots_BT: jax.Array, value_B: jax.Array, slot: jax.Array) -> jax.Array:
    return jax.lax.dynamic_update_slice_in_dim(slots_BT, value_B[:, None], slot, axis=1)


def _prefill(
    model: LanguageModel, weights: Params, prompt_BP: jax.Array, prompt_mask_BP: jax.Array, spec: DecodeSpec
) -> DecodeState:
    batch, prompt_slot = prompt_BP.shape
    shape = (batch, spec.response_slot)
    unused_BT = jnp.zeros(shape, bool)
    real_BS = jnp.concatenate([prompt_mask_BP, unused_BT], axis=1)
    kind = Apart if has_layers_apart(weights) else Stacked
    empty: Cache = kind.empty(model.config, batch, prompt_slot + spec.response_slot)
    rows = Sequences.alone(prompt_mask_BP.astype(jnp.int32))
    hidden_BPD, cache = model.decode(weights, prompt_BP, rows, empty)
    return DecodeState(
        step=jnp.zeros((), jnp.int32),
        tokens_BT=jnp.full(shape, spec.pad_id, jnp.int32),
        logprobs_BT=jnp.zeros(shape, jnp.float32),
        mask_BT=unused_BT,
        ended_B=~jnp.any(prompt_mask_BP, axis=1),
        logits_BV=_next_logits(model, weights, hidden_BPD[:, -1:]),
        real_BS=real_BS,
        cache=cache,
    )


def _next_logits(model: LanguageModel, weights: Params, hidden_B1D: jax.Array) -> jax.Array:
    logits_BV = logits_to_rows(model.logits(weights, constrain(hidden_B1D, P("data")))[:, 0])
    return logits_BV[:, : model.vocab_size]
