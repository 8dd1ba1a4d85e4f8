"""Iterated improvement (PIT, arXiv 2310.00898, Algorithm 2): y_0 ~ M_P(x), then y_k ~ M_PIT(x, y_{k-1})."""

from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp

from pit_jax.batch import PromptBatch
from pit_jax.generation.decode import assemble_improver_prompt, generate
from pit_jax.generation.sampling import Sampling
from pit_jax.model.networks import LanguageModel


@dataclass(frozen=True)
class Slots:
    """The constants of a decode: tokens per answer, special tokens, and what follows a reference."""

    response: int
    eos_id: int
    pad_id: int
    suffix: tuple[int, ...]


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class Answers:
    """Answers in their slot, with leading axes as needed: real tokens up to and including EOS."""

    tokens_BT: jax.Array  # int32
    mask_BT: jax.Array  # bool


def improver_prompt(rows: PromptBatch, reference: Answers, *, slots: Slots) -> tuple[jax.Array, jax.Array]:
    """prompt(x, y_ref) of improver and gap model, left-padded: tokens and mask [B, P + T + suffix]; no EOS of y_ref."""
    mask_BT = reference.mask_BT & (reference.tokens_BT != slots.eos_id)
    return assemble_improver_prompt(rows.prefix_BP, rows.prefix_mask_BP, reference.tokens_BT, mask_BT, slots.suffix)


def answer(
    model: LanguageModel, params: Any, rows: PromptBatch, key: jax.Array, sampling: Sampling, *, slots: Slots
) -> Answers:
    """y_0: the policy's answer."""
    return _draw(model, params, rows.prompt_BP, rows.prompt_mask_BP, key, sampling, slots)


def improve_once(
    model: LanguageModel,
    params: Any,
    rows: PromptBatch,
    before: Answers,
    key: jax.Array,
    sampling: Sampling,
    *,
    slots: Slots,
) -> Answers:
    """The improver's rewrite of `before`, sampled from prompt(x, y_ref)."""
    prompt_BP, mask_BP = improver_prompt(rows, before, slots=slots)
    return _draw(model, params, prompt_BP, mask_BP, key, sampling, slots)


def improve(
    model: LanguageModel,
    policy: Any,
    improver: Any,
    rows: PromptBatch,
    key: jax.Array,
    sampling: Sampling,
    *,
    rounds: int,
    slots: Slots,
) -> Answers:
    """y_0 .. y_K as one program: tokens and masks [K + 1, B, T]. Compiled once for all rounds.

    y_k draws from fold_in(key, k): two improvers run with one key improve the same y_0.
    """
    first = answer(model, policy, rows, jax.random.fold_in(key, 0), sampling, slots=slots)

    def one(before: Answers, round: jax.Array) -> tuple[Answers, Answers]:
        after = improve_once(model, improver, rows, before, jax.random.fold_in(key, round), sampling, slots=slots)
        return after, after

    _, later = jax.lax.scan(one, first, jnp.arange(1, rounds + 1, dtype=jnp.int32))
    return jax.tree.map(lambda x, y: jnp.concatenate([x[None], y]), first, later)


def _draw(
    model: LanguageModel,
    params: Any,
    prompt_BP: jax.Array,
    mask_BP: jax.Array,
    key: jax.Array,
    sampling: Sampling,
    slots: Slots,
) -> Answers:
    drawn = generate(
        model,
        params,
        prompt_BP,
        mask_BP,
        key,
        sampling=sampling,
        response_slot=slots.response,
        eos_id=slots.eos_id,
        pad_id=slots.pad_id,
    )
    return Answers(drawn.tokens_BT, drawn.mask_BT)
