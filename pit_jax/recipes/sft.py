"""SFT: the policy learns y_w given x, the improver learns y_w given (x, y_l) (PIT, arXiv 2310.00898)."""

from collections.abc import Iterator

import jax

from pit_jax.batch import SftBatch
from pit_jax.config import Config
from pit_jax.masked import Mean
from pit_jax.model.networks import LanguageModel, Params
from pit_jax.model.scoring import counted_logprobs
from pit_jax.objectives.sft import token_loss
from pit_jax.run.context import Context
from pit_jax.run.loads import Load, Loads
from pit_jax.run.params import Models
from pit_jax.run.programs import Program, Shapes
from pit_jax.run.stage import Batch, Recipe
from pit_jax.run.supervised import Task, by, fit
from pit_jax.training.optimizer import make_optimizer
from pit_jax.training.step import Loss


def run(context: Context) -> None:
    """The improver starts from the policy's SFT weights: both grow from one base."""
    config, role, models = context.config.sft, context.stage.role, Models(context)
    rows, heldout = (context.data.rows(fold, f"sft-{role}") for fold in ("sft", "heldout"))
    slots = max(rows.longest("chosen"), heldout.longest("chosen")) + 1  # and the EOS
    task = Task(
        loss=make_loss(context.language_model, slots=slots),
        make_batch=SftBatch,
        rows=rows,
        heldout=heldout,
        optimizer=config.optimizer,
        steps=steps(context.config, role),
        batch_size=config.batch_size,
        accumulate=config.accumulate,
        seed=context.config.seed,
        score=by("loss", sign=-1.0),
    )
    before = context.stage.init_from
    fit(context, task, models, lambda: models.root() if before is None else models.load(before))


def make_loss(model: LanguageModel, *, slots: int) -> Loss:
    """Next-token loss over the answers' tokens; a row holds at most `slots` of them, and only they get logits."""

    def loss(params: Params, batch: SftBatch, key: jax.Array) -> tuple[jax.Array, dict[str, Mean]]:
        return token_loss(*counted_logprobs(model, params, batch, slots=slots))

    return loss


def steps(config: Config, role: str) -> int:
    return config.sft.policy_steps if role == "policy" else config.sft.improver_steps


def programs(shapes: Shapes, role: str) -> Iterator[Program]:
    config, network = shapes.config.sft, shapes.language_model
    loss = make_loss(network, slots=shapes.layout.response_slot)
    optimizer, batch = make_optimizer(config.optimizer, 1), shapes.batch(f"sft-{role}", config.batch_size)
    part = shapes.partition(network, f"sft-{role}")
    yield shapes.step(
        "update", loss, optimizer, part.trainable, batch, accumulate=config.accumulate, frozen=part.frozen
    )


def loads(shapes: Shapes, role: str) -> Loads:
    """Batch rows an update, trained, with logits at the answer's slots (T, a few more than the longest)."""
    layout, config = shapes.layout, shapes.config
    row = shapes.passes.read(layout.row_lengths[f"sft-{role}"], logits=layout.response_slot)
    return {"update": Load(steps(config, role), config.sft.batch_size * row.trained())}


def batches(config: Config, role: str) -> Iterator[Batch]:
    yield "--sft.batch-size", config.sft.batch_size, config.sft.accumulate


RECIPE = Recipe(run=run, batches=batches, programs=programs, loads=loads)
