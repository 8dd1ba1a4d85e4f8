"""Reward modelling: Bradley-Terry for the policy, the five-term gap loss for the improver (PIT Eq. 2)."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from rich.progress import Progress

from pit_jax.batch import NODE_PARENTS, GapBatch, RewardBatch
from pit_jax.masked import Mean
from pit_jax.model.attention import causal_visible, segment_positions, tree_visible
from pit_jax.model.networks import ScalarModel
from pit_jax.objectives.gap import gap_loss, pair_gap_loss
from pit_jax.objectives.reward import bradley_terry_loss
from pit_jax.stages.context import Context
from pit_jax.stages.models import GROWN_FROM, Start, load, start
from pit_jax.stages.supervised import Loss, Task, fit
from pit_jax.stages.workspace import stage_name

GUARD_SEED = 1_000_003  # beyond the seeds of any set of runs, whose gap models a guard must not repeat


def sequence_scores(model: ScalarModel, params: Any, tokens_BL: jax.Array, segments_BL: jax.Array) -> jax.Array:
    """score_B: the scalar at the last real token of each row, whatever the padding side."""
    scalars_BL = model.scalars(params, tokens_BL, segment_positions(segments_BL), causal_visible(segments_BL))
    last_B = jnp.max(jnp.where(segments_BL > 0, jnp.arange(tokens_BL.shape[1], dtype=jnp.int32)[None, :], 0), axis=1)
    return jnp.take_along_axis(scalars_BL, last_B[:, None], axis=1)[:, 0]


def make_reward_loss(model: ScalarModel) -> Loss:
    def loss(params: Any, batch: RewardBatch, key: jax.Array) -> tuple[jax.Array, dict[str, Mean]]:
        tokens = jnp.concatenate([batch.chosen_BL, batch.rejected_BL])
        segments = jnp.concatenate([batch.chosen_segments_BL, batch.rejected_segments_BL])
        chosen_B, rejected_B = jnp.split(sequence_scores(model, params, tokens, segments), 2)
        return bradley_terry_loss(chosen_B, rejected_B, margin=batch.margin_B)

    return loss


def tree_gaps(model: ScalarModel, params: Any, batch: GapBatch) -> dict[str, jax.Array]:
    """The four gaps of each pair, one pass over the tree: {"wl": [B], "ww": [B], "ll": [B], "lw": [B]}."""
    scalars_BL = model.scalars(params, batch.tokens_BL, batch.positions_BL, tree_visible(batch.nodes_BL, NODE_PARENTS))
    ends = {"wl": batch.end_wl_B, "ww": batch.end_ww_B, "ll": batch.end_ll_B, "lw": batch.end_lw_B}
    return {name: jnp.take_along_axis(scalars_BL, end_B[:, None], axis=1)[:, 0] for name, end_B in ends.items()}


def make_gap_loss(model: ScalarModel, terms: str = "five") -> Loss:
    objective = {"five": gap_loss, "pair": pair_gap_loss}[terms]

    def loss(params: Any, batch: GapBatch, key: jax.Array) -> tuple[jax.Array, dict[str, Mean]]:
        gaps = tree_gaps(model, params, batch)
        return objective(gaps["wl"], gaps["ww"], gaps["ll"], gaps["lw"])

    return loss


def gap_accuracy(metrics: dict[str, float]) -> float:
    """Mean of the five pairwise accuracies."""
    return float(np.mean([value for name, value in metrics.items() if name.startswith("gap/acc_")]))


def make_task(context: Context, model: str) -> Task:
    """The training of the policy's reward model, the improver's gap model, or its guard: a gap model of another seed.

    A guard starts from the same SFT weights with a head of its own and meets the pairs in another order, as the members
    of the ensembles of arXiv 2310.02743 do. Errors that come from the weights and pairs they share, it shares too
    (arXiv 2312.09244). Its loss has all five terms, whatever rm.gap_loss says: ablations share the guard.
    """
    config, network = context.config.rm, context.scalar_model
    policy, guard = model == "policy", model == "guard"
    kind = "reward" if policy else "gap"
    gap_steps = config.guard_steps if guard else config.improver_steps
    return Task(
        folder=context.folder("rm", model),
        loss=make_reward_loss(network) if policy else make_gap_loss(network, "five" if guard else config.gap_loss),
        make_batch=RewardBatch if policy else GapBatch,
        arrays=context.data.arrays("rm", kind),
        heldout=context.data.arrays("heldout", kind),
        optimizer=config.optimizer,
        num_steps=config.policy_steps if policy else gap_steps,
        batch_size=config.batch_size,
        accumulate=config.accumulate,
        seed=context.config.seed + (GUARD_SEED if guard else 0),
        score=(lambda metrics: metrics["accuracy"]) if policy else gap_accuracy,
    )


def begin(context: Context, model: str) -> Start:
    """The SFT weights of the same prompts under a fresh head."""
    sft = load(context, *GROWN_FROM["rm", model])
    key = context.key("init", {"policy": "reward", "improver": "gap"}.get(model, model))
    head = context.init(context.scalar_model.init_head, key)
    return start(context, stage_name("rm", model), {"trunk": sft, **head})


def run(context: Context, model: str, progress: Progress) -> None:
    """Train (or resume) to the end."""
    task = make_task(context, model)
    if not task.folder.done():
        fit(context, task, lambda: begin(context, model), progress)
