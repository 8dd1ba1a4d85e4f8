"""When to stop improving: after K rounds, at a threshold on the centred gap, or at the best answer of the trail.

PIT (arXiv 2310.00898, Algorithm 2) stops after K rounds; its quality is not monotone in K. The two other rules ask the
gap model, centred on the answer before: r(x, new, old) - r(x, old, old), so that a copy gains exactly 0.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from pit_jax.batch import PromptBatch
from pit_jax.generation.sampling import Sampling
from pit_jax.improvement.pit import Answers, Slots, answer, improve_once
from pit_jax.model.networks import LanguageModel

RULES = ("rounds", "threshold", "best")
NEVER = -math.inf  # the threshold that stops no row
Gap = Callable[[PromptBatch, Answers, Answers], jax.Array]  # gap(rows, reference, candidate) -> gap_B, not centred


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class ScoredTrail:
    """y_0 .. y_K, and what became of the draft of each round; the round is the leading axis, its length in brackets."""

    answers: Answers  # [K + 1], after each round
    gap_B: jax.Array  # [K] f32, centred gap of the draft over the answer before; 0 without a draft
    tokens_B: jax.Array  # [K] int32, length of the draft, EOS included; 0 without a draft
    copied_B: jax.Array  # [K] bool, the draft repeats the answer before, token by token
    active_B: jax.Array  # [K] bool, the row has not stopped: it has a draft
    kept_B: jax.Array  # [K] bool, the draft is the answer after the round


def check_stop(stop: str, threshold: float) -> None:
    """ValueError for an unknown rule, and for a threshold that is no number or that the rule does not read."""
    if stop not in RULES:
        raise ValueError(f"--improve.stop={stop}: no such rule; known: {', '.join(RULES)}")
    if math.isnan(threshold):
        raise ValueError("--improve.stop-threshold=nan: give a number, the least centred gap that goes on")
    if threshold and stop != "threshold":
        raise ValueError(
            f"--improve.stop-threshold={threshold} has no effect under --improve.stop={stop}; "
            "add --improve.stop=threshold or leave it out"
        )


def improve_scored(
    model: LanguageModel,
    policy: Any,
    improver: Any,
    rows: PromptBatch,
    key: jax.Array,
    sampling: Sampling,
    gap: Gap,
    threshold: jax.Array,
    *,
    rounds: int,
    slots: Slots,
) -> ScoredTrail:
    """K rounds as one program, in which a row stops at its first draft with a centred gap below `threshold` (f32).

    It then keeps the answer before, copies it through the later rounds and draws nothing there; once all rows have
    stopped, the rounds that are left compute nothing. At NEVER this is `improve`, with scores.

    y_k draws from fold_in(key, k) for the whole batch: a row does not depend on what the other rows hold, but its
    draws (unless greedy) depend on its place among them.
    """
    first = answer(model, policy, rows, jax.random.fold_in(key, 0), sampling, slots=slots)

    def one(state: tuple[Answers, jax.Array], round: jax.Array) -> tuple[tuple[Answers, jax.Array], ScoredTrail]:
        found = jax.lax.cond(jnp.any(state[1]), draw, rest, *state, round)
        return (found.answers, found.kept_B), found

    def draw(before: Answers, active_B: jax.Array, round: jax.Array) -> ScoredTrail:
        active_B1 = active_B[:, None]
        live = replace(rows, prefix_mask_BP=rows.prefix_mask_BP & active_B1)
        draft = improve_once(
            model,
            improver,
            live,
            replace(before, mask_BT=before.mask_BT & active_B1),
            jax.random.fold_in(key, round),
            sampling,
            slots=slots,
        )
        gap_B = jnp.where(active_B, gap(rows, before, draft) - gap(rows, before, before), 0.0)
        kept_B = active_B & ~(gap_B < threshold)
        same_BT = (draft.tokens_BT == before.tokens_BT) & (draft.mask_BT == before.mask_BT)
        return ScoredTrail(
            answers=jax.tree.map(lambda new, old: jnp.where(kept_B[:, None], new, old), draft, before),
            gap_B=gap_B,
            tokens_B=jnp.sum(draft.mask_BT, axis=1, dtype=jnp.int32),
            copied_B=active_B & jnp.all(same_BT, axis=1),
            active_B=active_B,
            kept_B=kept_B,
        )

    def rest(before: Answers, active_B: jax.Array, round: jax.Array) -> ScoredTrail:
        nothing_B = jnp.zeros_like(active_B)
        zeros_B = jnp.zeros(active_B.shape, jnp.float32)
        return ScoredTrail(before, zeros_B, zeros_B.astype(jnp.int32), nothing_B, nothing_B, nothing_B)

    active_B = jnp.any(rows.prompt_mask_BP, axis=1)  # rows that only fill up the batch never begin
    _, trail = jax.lax.scan(one, (first, active_B), jnp.arange(1, rounds + 1, dtype=jnp.int32))
    return replace(trail, answers=jax.tree.map(lambda x, y: jnp.concatenate([x[None], y]), first, trail.answers))


def chained_gaps(gap_B: np.ndarray) -> np.ndarray:
    """[K + 1, B] from the gaps [K, B] of each answer over the one before: their running sum, 0 for the original."""
    return np.concatenate([np.zeros_like(gap_B[:1]), np.cumsum(gap_B, axis=0)])


def chosen_round(trail: ScoredTrail, stop: str) -> np.ndarray:
    """round_B of the answer that the rule returns (0 = the original), of a trail on the host.

    "best": the largest chained gap, the earliest on ties. Otherwise the last draft that was kept.
    """
    if stop == "best":
        return np.argmax(chained_gaps(np.asarray(trail.gap_B)), axis=0)
    return np.sum(np.asarray(trail.kept_B), axis=0)
