"""Pairs of answers read by a policy, its anchor and a model beyond the policy: one forward pass of each network."""

import jax

from pit_jax.batch import SpaBatch
from pit_jax.model.mixing import cut, joined
from pit_jax.model.networks import LanguageModel, Params
from pit_jax.model.readout import Reading
from pit_jax.model.rows import Sequences
from pit_jax.model.scoring import pair_rows, slot_logprobs, summed_by_side, token_logprobs
from pit_jax.objectives.spa import extrapolated_logprobs

Sides = tuple[jax.Array, jax.Array]
"""(chosen_B, rejected_B): log-probs summed as `pair_logprobs` does."""
MATRICES = 3  # of logits, which are there at once: the policy's, the anchor's and those between


def read_pairs(
    model: LanguageModel, params: Params, anchor: Params, batch: SpaBatch, *, strength: float
) -> tuple[Sides, Sides, Sides]:
    """What the policy `params`, the anchor, and the model beyond the policy (SPA Eq. 12) say of each pair.

    Gradients flow into the first alone.
    """
    tokens_BL, segments_BL, mask_BL = pair_rows(batch)
    rows, targets_BT = Sequences.alone(segments_BL), tokens_BL[:, 1:]
    hidden_BTD = model.hidden(params, tokens_BL, rows)[:, :-1]
    policy_BT, _ = slot_logprobs(model, params, hidden_BTD, targets_BT, temperature=1.0)
    anchor = jax.lax.stop_gradient(anchor)
    params, hidden_BTD = jax.lax.stop_gradient((params, hidden_BTD))
    anchor_hidden_BTD = model.hidden(anchor, tokens_BL, rows)[:, :-1]

    def piece(arrays: tuple[jax.Array, jax.Array, jax.Array]) -> tuple[jax.Array, jax.Array]:
        hidden_BTD, anchor_hidden_BTD, targets_BT = arrays
        policy_BTV, anchor_BTV = model.logits(params, hidden_BTD), model.logits(anchor, anchor_hidden_BTD)
        beyond_BT = extrapolated_logprobs(policy_BTV, anchor_BTV, targets_BT, strength=strength)
        return token_logprobs(anchor_BTV, targets_BT, temperature=1.0), beyond_BT

    slots, count = targets_BT.shape[1], pieces_of(model, params, hidden_BTD)
    arrays = tuple(cut(x, count, -(-slots // count)) for x in (hidden_BTD, anchor_hidden_BTD, targets_BT))
    anchor_BT, beyond_BT = (joined(x, slots) for x in jax.lax.map(piece, arrays))
    policy, held, beyond = (summed_by_side(x, mask_BL) for x in (policy_BT, anchor_BT, beyond_BT))
    return policy, held, beyond


def pieces_of(model: LanguageModel, params: Params, hidden_BTD: jax.Array) -> int:
    """Into how many pieces slots are cut so that the logits of one are within transformer.logits_bytes a device."""
    config = model.config
    reading = Reading.of(
        hidden_BTD, model.unembedding(params), cap=0.0, divisor=1.0, logits_bytes=config.logits_bytes // MATRICES
    )
    return reading.pieces
