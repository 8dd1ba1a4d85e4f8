"""One program from prompts to completions: prefill left-padded prompts, decode in a while_loop until all have ended.

Behind its prompt a row of the cache has as many slots as a response has tokens, and all rows write the same one of them
at a step, in a ring: a row may begin at any step and keeps all that it has read until it ends. So rows that have ended
take the next prompts of a queue while the others go on (continuous batching: Orca, OSDI 2022, section 4.1).
"""

import math
from dataclasses import dataclass, replace

import jax
import jax.numpy as jnp

from pit_jax.batch import Completions, DecodeSpec
from pit_jax.inference.sampling import Sampling, sample
from pit_jax.model.cache import Apart, Cache, Stacked, replaced_rows
from pit_jax.model.networks import LanguageModel, Params, has_layers_apart, layers_apart, turned_over
from pit_jax.model.placement import logits_to_rows
from pit_jax.model.rows import NO_TOKEN, Continuation, Sequences
from pit_jax.model.scoring import token_logprobs
from pit_jax.parallel.sharding import P, constrain, row_shards
from pit_jax.parallel.target import on_one_cpu, on_one_device, platform

# Layers that one device has apart at most (model/cache.py): on a CPU 30 of them take 14 seconds to compile, and scanned
# ones 4, but a step of 135M weights takes 80 ms instead of 95. A TPU reads a layer where it lies in a stack.
MOST_APART = {"cpu": 48, "gpu": 48}
# Weights of a feed-forward's matrix from which on a CPU has matrices turned over: smaller ones stay in a core's cache.
LEAST_TURNED = 2**18
# Rows are filled again once this part of them has ended: then a pass over prompts is large enough, and few rows wait.
REFILL = 1 / 8

Kept = tuple[jax.Array, ...]  # tokens_NT, logprobs_NT, written_N and ended_N of all requests


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class State:
    """Rows that are decoded side by side. Rows and requests are counted from 0 in each of D parts, one a device."""

    step: jax.Array  # int32
    waiting_D: jax.Array  # int32, the first request that no row has taken
    request_B: jax.Array  # int32, which one the row answers
    start_B: jax.Array  # int32, the step at which it began
    prompt_B: jax.Array  # int32, tokens of its prompt
    written_B: jax.Array  # int32, tokens of its response
    live_B: jax.Array  # bool
    ended_B: jax.Array  # bool, with EOS
    tokens_BT: jax.Array  # the response, in the ring
    logprobs_BT: jax.Array
    logits_BV: jax.Array  # of the next token
    positions_BS: jax.Array  # int32, of the token in each slot of the cache
    cache: Cache


def complete(
    model: LanguageModel,
    weights: Params,
    prompt_QP: jax.Array,
    prompt_mask_QP: jax.Array,
    key: jax.Array,
    sampling: Sampling,
    first: int | jax.Array = 0,
    *,
    spec: DecodeSpec,
    samples: int = 1,
) -> Completions:
    """Sample `samples` responses to each of Q prompts, side by side, of at most `spec.response_slot` tokens.

    Pure; shapes and truncation of `sampling` fix the program. Token t of response b is drawn from
    fold_in(fold_in(key, first + b), t) and depends on nothing else but its prompt: not on how many are drawn, or when
    others end. A prompt without a token, which only fills up a batch, has ended at once.

    At most `spec.rows` are decoded at a time, and the others wait. A prompt is read once for all of its responses.
    """
    weights = for_one_device(model, weights)
    prompts = len(prompt_QP)
    parts = row_shards(jax.sharding.get_abstract_mesh())
    parts = parts if prompts % parts == 0 else 1
    decoder = Decoder(model, weights, prompt_QP, prompt_mask_QP, key, sampling, first, spec, samples, parts)
    return decoder.at_once() if decoder.rows == decoder.requests else decoder.by_turns()


def for_one_device(model: LanguageModel, weights: Params) -> Params:
    """Weights as one device reads them fastest, where there is one: layers apart, on a CPU turned over."""
    config = model.config
    if not on_one_device() or config.layers > MOST_APART.get(platform(), 0) or has_layers_apart(weights):
        return weights
    apart = layers_apart(weights, config.layers)
    return turned_over(apart) if on_one_cpu() and config.width * config.ffn >= LEAST_TURNED else apart


@dataclass(frozen=True)
class Decoder:
    """What does not change while responses are drawn."""

    model: LanguageModel
    weights: Params
    prompt_QP: jax.Array
    prompt_mask_QP: jax.Array
    key: jax.Array
    sampling: Sampling
    first: int | jax.Array
    spec: DecodeSpec
    samples: int
    parts: int

    @property
    def requests(self) -> int:
        """Of a part."""
        return len(self.prompt_QP) * self.samples // self.parts

    @property
    def rows(self) -> int:
        """Of a part: as many as the spec says, for all responses to a prompt or to none."""
        asked = (self.spec.rows // self.parts or 1) if self.spec.rows else self.requests
        return min(-(-asked // self.samples) * self.samples, self.requests)

    @property
    def refill(self) -> int:
        """Rows of a part that are begun again together."""
        return math.ceil(self.rows * REFILL / self.samples) * self.samples

    def at_once(self) -> Completions:
        """All requests side by side."""
        state = jax.lax.while_loop(lambda state: jnp.any(state.live_B), self.step, self.begun())
        return self._completions(state.tokens_BT, state.logprobs_BT, state.written_B, state.ended_B)

    def by_turns(self) -> Completions:
        """Rows that have ended take the next requests, as soon as there are enough of them."""
        asked_D = self._asked()

        def ready(state: State) -> jax.Array:
            wanted_D = jnp.minimum(asked_D - state.waiting_D, self.refill)
            ready_D = jnp.minimum(self._free(state), wanted_D)
            return (jnp.sum(wanted_D) > 0) & (jnp.sum(ready_D) == jnp.sum(wanted_D))

        def decoded(state: State) -> State:
            return jax.lax.while_loop(lambda state: jnp.any(state.live_B) & ~ready(state), self.step, state)

        def turn(both: tuple[State, Kept]) -> tuple[State, Kept]:
            state, kept = both
            return decoded(self.refilled(state, asked_D)), self._kept(state, kept)

        count, slots = self.parts * self.requests, self.spec.response_slot
        tokens_NT, logprobs_NT = jnp.zeros((count, slots), jnp.int32), jnp.zeros((count, slots), jnp.float32)
        kept: Kept = (tokens_NT, logprobs_NT, jnp.zeros(count, jnp.int32), jnp.ones(count, bool))
        begun = decoded(self.begun()), kept
        state, kept = jax.lax.while_loop(lambda both: jnp.any(both[0].waiting_D < asked_D), turn, begun)
        return self._completions(*self._kept(state, kept))

    def begun(self) -> State:
        """The first requests of each part."""
        parts, rows, slots = self.parts, self.rows, self.spec.response_slot
        prompt_XP, mask_XP = (
            x.reshape(parts, -1, x.shape[1])[:, : rows // self.samples].reshape(-1, x.shape[1])
            for x in (self.prompt_QP, self.prompt_mask_QP)
        )
        logits_BV, positions_BP, cache = self._read(prompt_XP, mask_XP, slots)
        prompt_B = jnp.max(positions_BP, axis=1) + 1
        request_B, none_B = jnp.tile(jnp.arange(rows, dtype=jnp.int32), parts), jnp.zeros_like(prompt_B)
        return State(
            step=jnp.zeros((), jnp.int32),
            waiting_D=jnp.full(parts, rows, jnp.int32),
            request_B=request_B,
            start_B=none_B,
            prompt_B=prompt_B,
            written_B=none_B,
            live_B=prompt_B > 0,
            ended_B=prompt_B == 0,
            tokens_BT=jnp.full((parts * rows, slots), self.spec.pad_id, jnp.int32),
            logprobs_BT=jnp.zeros((parts * rows, slots), jnp.float32),
            logits_BV=logits_BV,
            positions_BS=jnp.pad(positions_BP, ((0, 0), (0, slots)), constant_values=NO_TOKEN),
            cache=cache,
        )

    def step(self, state: State) -> State:
        """One token of every row that has not ended."""
        model, spec, live_B, place = self.model, self.spec, state.live_B, state.step % self.spec.response_slot
        token_B = sample(self._shares(state), state.logits_BV, self.sampling)
        logprob_B = token_logprobs(state.logits_BV[:, None], token_B[:, None], temperature=self.sampling.temperature)
        position_B = state.prompt_B + state.written_B
        slot = self.prompt_QP.shape[1] + place
        held_B = jnp.where(live_B, position_B, NO_TOKEN)
        positions_BS = jax.lax.dynamic_update_slice_in_dim(state.positions_BS, held_B[:, None], slot, axis=1)
        rows = Continuation(position_B[:, None], positions_BS, slot)
        hidden_B1D, cache = model.decode(self.weights, token_B[:, None], rows, state.cache)
        written_B, ended_B = state.written_B + live_B.astype(jnp.int32), live_B & (token_B == spec.eos_id)
        return replace(
            state,
            step=state.step + 1,
            written_B=written_B,
            live_B=live_B & ~ended_B & (written_B < spec.response_slot),
            ended_B=state.ended_B | ended_B,
            tokens_BT=_put(state.tokens_BT, token_B, live_B, place),
            logprobs_BT=_put(state.logprobs_BT, logprob_B[:, 0], live_B, place),
            logits_BV=self._next_logits(hidden_B1D),
            positions_BS=positions_BS,
            cache=cache,
        )

    def refilled(self, state: State, asked_D: jax.Array) -> State:
        """With the next requests in rows that have ended."""
        parts, count, samples = self.parts, self.refill, self.samples
        begun_D = jnp.minimum(jnp.minimum(self._free(state), asked_D - state.waiting_D), count)
        places_G = jnp.arange(count, dtype=jnp.int32)
        begins_DG = places_G[None] < begun_D[:, None]
        ended_first_DG = jnp.argsort(self._parted(state.live_B), axis=1, stable=True)[:, :count]
        rows_DG = jnp.where(begins_DG, ended_first_DG, self.rows)  # there is no such row
        request_DG = state.waiting_D[:, None] + places_G[None]
        prompts_DX = jnp.minimum(request_DG[:, ::samples] // samples, self.requests // samples - 1)
        prompt_DXP, mask_DXP = (
            jnp.take_along_axis(x.reshape(parts, -1, x.shape[1]), prompts_DX[:, :, None], axis=1)
            for x in (self.prompt_QP, self.prompt_mask_QP)
        )
        mask_DXP = mask_DXP & begins_DG[:, ::samples, None]
        width = prompt_DXP.shape[2]
        logits_GV, positions_GP, new = self._read(prompt_DXP.reshape(-1, width), mask_DXP.reshape(-1, width), 0)
        positions_GS = jnp.pad(positions_GP, ((0, 0), (0, self.spec.response_slot)), constant_values=NO_TOKEN)
        prompt_G = jnp.max(positions_GP, axis=1) + 1

        def put(old_BX: jax.Array, new_GX: jax.Array) -> jax.Array:
            return replaced_rows(rows_DG, old_BX, new_GX)

        return replace(
            state,
            waiting_D=state.waiting_D + begun_D,
            request_B=put(state.request_B, request_DG.ravel()),
            start_B=put(state.start_B, jnp.broadcast_to(state.step, prompt_G.shape)),
            prompt_B=put(state.prompt_B, prompt_G),
            written_B=put(state.written_B, jnp.zeros_like(prompt_G)),
            live_B=put(state.live_B, prompt_G > 0),
            ended_B=put(state.ended_B, prompt_G == 0),
            logits_BV=put(state.logits_BV, logits_GV),
            positions_BS=put(state.positions_BS, positions_GS),
            cache=state.cache.with_rows(rows_DG, new),
        )

    def _read(self, prompt_XP: jax.Array, mask_XP: jax.Array, slots: int) -> tuple[jax.Array, jax.Array, Cache]:
        """(logits_BV of what follows, positions_BP, cache with `slots` behind) of prompts, of each `samples` times."""
        (count, width), rows = prompt_XP.shape, Sequences.alone(mask_XP.astype(jnp.int32))
        kind = Apart if has_layers_apart(self.weights) else Stacked
        empty: Cache = kind.empty(self.model.config, count, width + slots)
        hidden_XPD, cache = self.model.decode(self.weights, prompt_XP, rows, empty)
        logits_XV = self._next_logits(hidden_XPD[:, -1:])
        positions_XP = jnp.where(mask_XP, rows.positions_BL, NO_TOKEN)
        if self.samples == 1:
            return logits_XV, positions_XP, cache
        logits_BV, positions_BP = (jnp.repeat(x, self.samples, axis=0) for x in (logits_XV, positions_XP))
        return logits_BV, positions_BP, cache.repeated(self.samples)

    def _next_logits(self, hidden_B1D: jax.Array) -> jax.Array:
        logits_BV = logits_to_rows(self.model.logits(self.weights, constrain(hidden_B1D, P("data")))[:, 0])
        return logits_BV[:, : self.model.vocab_size]

    def _shares(self, state: State) -> jax.Array:
        """share_B in [0, 1), by the number of a response and of its token."""
        part_B = jnp.repeat(jnp.arange(self.parts, dtype=jnp.int32), self.rows) * self.requests

        def share(number: jax.Array, token: jax.Array) -> jax.Array:
            return jax.random.uniform(jax.random.fold_in(jax.random.fold_in(self.key, number), token))

        return jax.vmap(share)(self.first + part_B + state.request_B, state.written_B)

    def _free(self, state: State) -> jax.Array:
        """free_D: rows that have ended, as many as the responses to whole prompts take."""
        ended_D = jnp.sum(~self._parted(state.live_B), axis=1, dtype=jnp.int32)
        return ended_D // self.samples * self.samples

    def _asked(self) -> jax.Array:
        """asked_D: requests up to the last prompt that has a token, and those that the rows begin with in any case."""
        real_DQ = self._parted(jnp.any(self.prompt_mask_QP, axis=1))
        numbers_Q = jnp.arange(1, real_DQ.shape[1] + 1, dtype=jnp.int32)
        return jnp.maximum(jnp.max(jnp.where(real_DQ, numbers_Q[None], 0), axis=1) * self.samples, self.rows)

    def _kept(self, state: State, kept: Kept) -> Kept:
        """What has been written so far by all requests, with what is in the rows."""
        slots_1T = jnp.arange(self.spec.response_slot, dtype=jnp.int32)[None]
        ring_BT = (state.start_B[:, None] + slots_1T) % self.spec.response_slot
        tokens_BT, logprobs_BT = (jnp.take_along_axis(x, ring_BT, axis=1) for x in (state.tokens_BT, state.logprobs_BT))
        requests_DB = self._parted(state.request_B)
        now = tokens_BT, logprobs_BT, state.written_B, state.ended_B
        return tuple(replaced_rows(requests_DB, old, new) for old, new in zip(kept, now, strict=True))

    def _completions(
        self, tokens_NT: jax.Array, logprobs_NT: jax.Array, written_N: jax.Array, ended_N: jax.Array
    ) -> Completions:
        mask_NT = jnp.arange(self.spec.response_slot, dtype=jnp.int32)[None] < written_N[:, None]
        tokens_NT = jnp.where(mask_NT, tokens_NT, self.spec.pad_id)
        return Completions(tokens_NT, mask_NT, jnp.where(mask_NT, logprobs_NT, 0.0), ended_N)

    def _parted(self, x_B: jax.Array) -> jax.Array:
        return x_B.reshape(self.parts, -1)


def _put(ring_BT: jax.Array, value_B: jax.Array, live_B: jax.Array, place: jax.Array) -> jax.Array:
    """The ring with the values of live rows in a place of it; a row that has ended keeps what it has."""
    before_B1 = jax.lax.dynamic_slice_in_dim(ring_BT, place, 1, axis=1)
    value_B1 = jnp.where(live_B[:, None], value_B[:, None], before_B1)
    return jax.lax.dynamic_update_slice_in_dim(ring_BT, value_B1, place, axis=1)
