"""Forward passes read out: the one place that turns one into log-probs, values, end scores or tree gaps."""

import jax
import jax.numpy as jnp

from pit_jax.batch import DpoBatch, GapBatch, Responses, RewardBatch, SftBatch, SpaBatch, TreeSlots
from pit_jax.masked import fill
from pit_jax.model.flops import slots_that_pay
from pit_jax.model.networks import LanguageModel, Params, ScalarModel
from pit_jax.model.readout import Reading, read_tokens
from pit_jax.model.rows import Sequences, Tree, by_slots


def token_logprobs(logits_BTV: jax.Array, tokens_BT: jax.Array, *, temperature: float | jax.Array) -> jax.Array:
    """logprobs_BT in float32 of the given tokens under softmax(logits / temperature), untruncated.

    Greedy (temperature 0) reports untempered log-probs. Policy, sampler and anchor all use it, so that ratios and KL
    compare the distributions that are sampled.
    """
    return _read_logits(logits_BTV, tokens_BT, temperature)[0]


def _read_logits(
    logits_BTV: jax.Array, tokens_BT: jax.Array, temperature: float | jax.Array
) -> tuple[jax.Array, jax.Array]:
    """(logprobs_BT, likeliest_BT): of the given tokens, and whether no other has a larger logit."""
    logits_BTV = logits_BTV.astype(jnp.float32) / divisor(temperature)
    picked_BT = jnp.take_along_axis(logits_BTV, tokens_BT[..., None], axis=-1)[..., 0]
    highest_BT = jax.lax.stop_gradient(jnp.max(logits_BTV, axis=-1))
    total_BT = jnp.sum(jnp.exp(logits_BTV - highest_BT[..., None]), axis=-1)
    return picked_BT - (highest_BT + jnp.log(total_BT)), picked_BT == highest_BT


def divisor(temperature: float | jax.Array) -> jax.Array:
    """What logits are divided by: the temperature, and 1 for a greedy one of 0."""
    temperature = jnp.asarray(temperature, jnp.float32)
    return jnp.where(temperature > 0, temperature, 1.0)


def slot_logprobs(
    model: LanguageModel, params: Params, hidden_BTD: jax.Array, tokens_BT: jax.Array, *, temperature: float
) -> tuple[jax.Array, jax.Array]:
    """(logprobs_BT, likeliest_BT) of the given tokens at slots with these hidden states: the second, whether no other
    token has a larger logit.

    Where the logits of all slots are within transformer.logits_bytes a device they are made at once; else in pieces
    (model/readout.py), with the same result.
    """
    config, matrix_DV = model.config, model.unembedding(params)
    divided = config.logit_divisor * (temperature if temperature > 0 else 1.0)
    reading = Reading.of(
        hidden_BTD, matrix_DV, cap=config.logit_softcap, divisor=divided, logits_bytes=config.logits_bytes
    )
    if reading.pieces > 1:
        return read_tokens(hidden_BTD, matrix_DV, tokens_BT, reading)
    return _read_logits(model.logits(params, hidden_BTD), tokens_BT, temperature)


def counted_logprobs(
    model: LanguageModel, params: Params, batch: SftBatch, *, slots: int, single: bool = True
) -> tuple[jax.Array, jax.Array, jax.Array]:
    """(logprobs_BT, correct_BT, mask_BT) of the targets that count in the loss, at most `slots` a row.

    correct_BT: whether no token is likelier than the target. `single`: no row holds more than one sequence.
    """
    hidden_BLD = model.hidden(params, batch.tokens_BL, Sequences(batch.positions_BL, batch.segments_BL, single))
    counted_BT = jnp.argsort(~batch.mask_BL, axis=1, stable=True)[:, :slots]
    hidden_BTD = jnp.take_along_axis(hidden_BLD, counted_BT[:, :, None], axis=1)
    targets_BT = jnp.take_along_axis(batch.targets_BL, counted_BT, axis=1)
    mask_BT = jnp.take_along_axis(batch.mask_BL, counted_BT, axis=1)
    targets_BT, hidden_BTD = fill(targets_BT, mask_BT), fill(hidden_BTD, mask_BT[:, :, None])
    return *slot_logprobs(model, params, hidden_BTD, targets_BT, temperature=1.0), mask_BT


def response_logprobs(
    model: LanguageModel,
    params: Params,
    tokens_BL: jax.Array,
    segments_BL: jax.Array,
    *,
    slot: int,
    temperature: float,
) -> jax.Array:
    """logprobs_BT of the last `slot` tokens of each row, teacher-forced; logits are made for those slots alone."""
    hidden_BTD = model.hidden(params, tokens_BL, Sequences.alone(segments_BL))[:, -slot - 1 : -1]
    return slot_logprobs(model, params, hidden_BTD, tokens_BL[:, -slot:], temperature=temperature)[0]


def pair_logprobs(
    model: LanguageModel, params: Params, batch: RewardBatch | DpoBatch | SpaBatch
) -> tuple[jax.Array, jax.Array]:
    """(chosen_B, rejected_B): log-probs summed over each row from the first token in which the two differ.

    What comes before, the prompt and any shared beginning of the answers, adds the same to both, and cancels in DPO.
    """
    tokens_BL, segments_BL, mask_BL = pair_rows(batch)
    hidden_BLD = model.hidden(params, tokens_BL, Sequences.alone(segments_BL))
    logprobs_BL, _ = slot_logprobs(model, params, hidden_BLD[:, :-1], tokens_BL[:, 1:], temperature=1.0)
    return summed_by_side(logprobs_BL, mask_BL)


def pair_rows(batch: RewardBatch | DpoBatch | SpaBatch) -> tuple[jax.Array, jax.Array, jax.Array]:
    """tokens_BL, segments_BL and mask_BL of all chosen and then all rejected rows; mask: what the two differ in."""
    tokens = jnp.stack([batch.chosen_BL, batch.rejected_BL])
    segments = jnp.stack([batch.chosen_segments_BL, batch.rejected_segments_BL])
    parted_BL = jnp.cumsum((tokens[0] != tokens[1]) | (segments[0] != segments[1]), axis=1) > 0
    mask = (segments > 0) & parted_BL[None]
    tokens_BL, segments_BL, mask_BL = (jnp.concatenate(list(x)) for x in (tokens, segments, mask))
    return tokens_BL, segments_BL, mask_BL


def summed_by_side(logprobs_BL: jax.Array, mask_BL: jax.Array) -> tuple[jax.Array, jax.Array]:
    """(chosen_B, rejected_B) of what slots before the last say of the token behind them."""
    chosen_B, rejected_B = jnp.split(jnp.sum(jnp.where(mask_BL[:, 1:], logprobs_BL, 0.0), axis=1), 2)
    return chosen_B, rejected_B


def response_values(
    model: ScalarModel, params: Params, tokens_BL: jax.Array, segments_BL: jax.Array, *, slot: int
) -> jax.Array:
    """values_BT: the value of the state before each of the last `slot` tokens of a row."""
    return model.scalars(params, tokens_BL, Sequences.alone(segments_BL))[:, -slot - 1 : -1]


def end_scores(model: ScalarModel, params: Params, tokens_BL: jax.Array, segments_BL: jax.Array) -> jax.Array:
    """score_B: the scalar at the last real token of each row, whatever the padding side."""
    scalars_BL = model.scalars(params, tokens_BL, Sequences.alone(segments_BL))
    last_B = jnp.max(jnp.where(segments_BL > 0, jnp.arange(tokens_BL.shape[1], dtype=jnp.int32)[None, :], 0), axis=1)
    return jnp.take_along_axis(scalars_BL, last_B[:, None], axis=1)[:, 0]


def pair_scores(model: ScalarModel, params: Params, batch: RewardBatch) -> tuple[jax.Array, jax.Array]:
    """(chosen_B, rejected_B): the end scores of the two rows of each pair, in one pass."""
    tokens_BL = jnp.concatenate([batch.chosen_BL, batch.rejected_BL])
    segments_BL = jnp.concatenate([batch.chosen_segments_BL, batch.rejected_segments_BL])
    chosen_B, rejected_B = jnp.split(end_scores(model, params, tokens_BL, segments_BL), 2)
    return chosen_B, rejected_B


def response_scores(
    model: ScalarModel, params: Params, prompt_BP: jax.Array, prompt_mask_BP: jax.Array, responses: Responses
) -> jax.Array:
    """score_B of responses behind their prompts, in place: no text is tokenised again."""
    return end_scores(model, params, *behind(prompt_BP, prompt_mask_BP, responses))


def behind(prompt_BP: jax.Array, prompt_mask_BP: jax.Array, responses: Responses) -> tuple[jax.Array, jax.Array]:
    """tokens_BL and segments_BL of responses behind their prompts."""
    tokens_BL = jnp.concatenate([prompt_BP, responses.tokens_BT], axis=1)
    return tokens_BL, jnp.concatenate([prompt_mask_BP, responses.mask_BT], axis=1).astype(jnp.int32)


def tree_gaps(
    model: ScalarModel, params: Params, batch: GapBatch, slots: TreeSlots | None = None
) -> dict[str, jax.Array]:
    """The four gaps of each pair, one pass over the tree: {"wl": [B], "ww": [B], "ll": [B], "lw": [B]}.

    `slots`: the most tokens of its nodes (data.features.tree_slots), which attention may use (mixing.mixed_by_nodes).
    """
    slots = slots and slots_that_pay(model.config, slots, batch.tokens_BL.shape[1])
    if slots is not None:
        batch = by_slots(batch, slots)
    scalars_BL = model.scalars(params, batch.tokens_BL, Tree(batch.positions_BL, batch.nodes_BL, slots))
    ends = {"wl": batch.end_wl_B, "ww": batch.end_ww_B, "ll": batch.end_ll_B, "lw": batch.end_lw_B}
    return {name: jnp.take_along_axis(scalars_BL, end_B[:, None], axis=1)[:, 0] for name, end_B in ends.items()}
