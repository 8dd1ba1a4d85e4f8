"""SFT: the policy learns y_w given x, the improver learns y_w given (x, y_l) (PIT, arXiv 2310.00898)."""

from typing import Any

import jax
from rich.progress import Progress

from pit_jax.batch import SftBatch
from pit_jax.masked import Mean
from pit_jax.model.attention import causal_visible
from pit_jax.model.networks import LanguageModel
from pit_jax.objectives.sft import token_loss
from pit_jax.stages.context import Context
from pit_jax.stages.supervised import Loss, Task, fit


def make_loss(model: LanguageModel) -> Loss:
    """Next-token loss over the answer's tokens."""

    def loss(params: Any, batch: SftBatch, key: jax.Array) -> tuple[jax.Array, dict[str, Mean]]:
        hidden_BLD, _ = model.hidden(params, batch.tokens_BL, batch.positions_BL, causal_visible(batch.segments_BL))
        return token_loss(model.logits(params, hidden_BLD), batch.targets_BL, batch.mask_BL)

    return loss


def run(context: Context, model: str, progress: Progress) -> None:
    config = context.config.sft
    network = context.language_model
    kind = f"sft-{model}"
    task = Task(
        folder=context.folder("sft", model),
        loss=make_loss(network),
        make_batch=SftBatch,
        arrays=context.data.arrays("sft", kind),
        heldout=context.data.arrays("heldout", kind),
        optimizer=config.optimizer,
        num_steps=config.policy_steps if model == "policy" else config.improver_steps,
        batch_size=config.batch_size,
        accumulate=config.accumulate,
        score=lambda metrics: -metrics["loss"],
    )
    fit(context, task, lambda: context.init(network, context.key("init", kind)), progress)
