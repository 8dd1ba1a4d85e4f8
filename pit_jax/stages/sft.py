"""SFT: the policy learns y_w given x, the improver learns y_w given (x, y_l) (PIT, arXiv 2310.00898)."""

from typing import Any

import jax
import jax.numpy as jnp
from rich.progress import Progress

from pit_jax.batch import SftBatch
from pit_jax.masked import Mean
from pit_jax.model.attention import causal_visible
from pit_jax.model.networks import LanguageModel
from pit_jax.objectives.sft import token_loss
from pit_jax.stages.context import Context
from pit_jax.stages.models import Start, load, root, start
from pit_jax.stages.supervised import Loss, Task, fit


def make_loss(model: LanguageModel, *, slots: int) -> Loss:
    """Next-token loss over the answers' tokens; a row holds at most `slots` of them, and only they get logits."""

    def loss(params: Any, batch: SftBatch, key: jax.Array) -> tuple[jax.Array, dict[str, Mean]]:
        hidden_BLD = model.hidden(params, batch.tokens_BL, batch.positions_BL, causal_visible(batch.segments_BL))
        counted_BT = jnp.argsort(~batch.mask_BL, axis=1, stable=True)[:, :slots]
        hidden_BTD = jnp.take_along_axis(hidden_BLD, counted_BT[:, :, None], axis=1)
        targets_BT = jnp.take_along_axis(batch.targets_BL, counted_BT, axis=1)
        mask_BT = jnp.take_along_axis(batch.mask_BL, counted_BT, axis=1)
        return token_loss(model.logits(params, hidden_BTD), targets_BT, mask_BT)

    return loss


def run(context: Context, model: str, progress: Progress) -> None:
    config = context.config.sft
    network = context.language_model
    kind = f"sft-{model}"
    arrays, heldout = context.data.arrays("sft", kind), context.data.arrays("heldout", kind)
    task = Task(
        folder=context.folder("sft", model),
        loss=make_loss(network, slots=max(int(rows["mask_BL"].sum(axis=1).max()) for rows in (arrays, heldout))),
        make_batch=SftBatch,
        arrays=arrays,
        heldout=heldout,
        optimizer=config.optimizer,
        num_steps=config.policy_steps if model == "policy" else config.improver_steps,
        batch_size=config.batch_size,
        accumulate=config.accumulate,
        seed=context.config.seed,
        score=lambda metrics: -metrics["loss"],
    )

    def begin() -> Start:
        """The improver starts from the policy's SFT weights: both grow from one base."""
        params = load(context, "sft", "policy") if model == "improver" else root(context)
        return start(context, task.folder.name, params)

    fit(context, task, begin, progress)
