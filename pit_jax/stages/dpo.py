"""DPO: the policy learns from the pairs directly, a baseline without a reward model (arXiv 2305.18290)."""

from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from rich.progress import Progress

from pit_jax.batch import DpoBatch, RewardBatch
from pit_jax.config import DpoConfig
from pit_jax.data.stream import sequential
from pit_jax.generation.sampling import token_logprobs
from pit_jax.masked import Mean
from pit_jax.model.attention import causal_visible, segment_positions
from pit_jax.model.networks import LanguageModel
from pit_jax.objectives.dpo import dpo_loss
from pit_jax.stages.context import Context
from pit_jax.stages.models import load, start
from pit_jax.stages.supervised import Loss, Task, fit


def pair_logprobs(model: LanguageModel, params: Any, batch: RewardBatch | DpoBatch) -> tuple[jax.Array, jax.Array]:
    """(chosen_B, rejected_B): log-probs summed over each row from the first token in which the two differ.

    What comes before, the prompt and any shared beginning of the answers, adds the same to both, and cancels in DPO.
    """
    tokens = jnp.stack([batch.chosen_BL, batch.rejected_BL])
    segments = jnp.stack([batch.chosen_segments_BL, batch.rejected_segments_BL])
    parted_BL = jnp.cumsum((tokens[0] != tokens[1]) | (segments[0] != segments[1]), axis=1) > 0
    mask = (segments > 0) & parted_BL[None]

    def summed(tokens_BL: jax.Array, segments_BL: jax.Array, mask_BL: jax.Array) -> jax.Array:
        hidden_BLD = model.hidden(params, tokens_BL, segment_positions(segments_BL), causal_visible(segments_BL))
        logprobs_BL = token_logprobs(model.logits(params, hidden_BLD[:, :-1]), tokens_BL[:, 1:], temperature=1.0)
        return jnp.sum(jnp.where(mask_BL[:, 1:], logprobs_BL, 0.0), axis=1)

    both_B = summed(*(jnp.concatenate(list(x)) for x in (tokens, segments, mask)))
    chosen_B, rejected_B = jnp.split(both_B, 2)
    return chosen_B, rejected_B


def make_dpo_loss(model: LanguageModel, config: DpoConfig) -> Loss:
    def loss(params: Any, batch: DpoBatch, key: jax.Array) -> tuple[jax.Array, dict[str, Mean]]:
        chosen_B, rejected_B = pair_logprobs(model, params, batch)
        return dpo_loss(
            chosen_B,
            rejected_B,
            batch.ref_chosen_B,
            batch.ref_rejected_B,
            beta=config.beta,
            label_smoothing=config.label_smoothing,
        )

    return loss


def with_reference(context: Context, params: Any, arrays: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """The rows of RewardBatch as those of DpoBatch: the reference model is asked once, not at every step."""
    model = context.language_model
    logprobs = jax.jit(lambda params, batch: pair_logprobs(model, params, batch))
    pieces = [
        [np.asarray(x)[:real] for x in logprobs(params, context.put_rows(RewardBatch, batch))]
        for batch, real in sequential(dict(arrays), context.config.improve.batch_size)
    ]
    chosen_N, rejected_N = (np.concatenate(column) for column in zip(*pieces, strict=True))
    rows = {name: array for name, array in arrays.items() if name != "margin_B"}
    return {**rows, "ref_chosen_B": chosen_N, "ref_rejected_B": rejected_N}


def run(context: Context, progress: Progress) -> None:
    config, reference = context.config.dpo, load(context, "sft", "policy")
    task = Task(
        folder=context.folder("dpo", "policy"),
        loss=make_dpo_loss(context.language_model, config),
        make_batch=DpoBatch,
        arrays=with_reference(context, reference, context.data.arrays("rm", "reward")),
        heldout=with_reference(context, reference, context.data.arrays("heldout", "reward")),
        optimizer=config.optimizer,
        num_steps=config.steps,
        batch_size=config.batch_size,
        accumulate=config.accumulate,
        seed=context.config.seed,
        score=lambda metrics: metrics["accuracy"],
    )
    fit(context, task, lambda: start(context, task.folder.name, reference), progress)
