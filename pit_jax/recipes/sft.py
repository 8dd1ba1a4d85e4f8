"""SFT: the policy learns y_w given x, the improver learns y_w given (x, y_l) (PIT, arXiv 2310.00898)."""

from collections.abc import Iterator
from dataclasses import replace

import jax

from pit_jax.batch import SftBatch
from pit_jax.config import Config
from pit_jax.data.packing import PackedRows
from pit_jax.data.rows import StoredRows
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
    alone, heldout = (context.data.rows(fold, f"sft-{role}") for fold in ("sft", "heldout"))
    rows: StoredRows | PackedRows = alone
    slots = max(alone.longest("chosen"), heldout.longest("chosen")) + 1  # and the EOS
    if config.packed_width:
        rows = PackedRows(alone, config.packed_width)
        slots = max(slots, rows.most(alone.tokens_of("chosen") + 1))
        context.screen.say(
            f"{context.stage.id}: {len(alone):,} examples in {len(rows):,} rows of {rows.width} tokens, "
            f"{rows.padding:.1%} padding"
        )
    task = Task(
        loss=make_loss(context.language_model, slots=slots, single=not config.packed_width),
        make_batch=SftBatch,
        rows=rows,
        heldout=heldout,
        optimizer=config.optimizer,
        steps=steps(context.config, role),
        batch_size=config.batch_size,
        accumulate=config.accumulate,
        seed=context.config.seed,
        score=by("loss", sign=-1.0),
        patience=config.patience,
    )
    before = context.stage.init_from
    fit(context, task, models, lambda: models.root() if before is None else models.load(before))


def make_loss(model: LanguageModel, *, slots: int, single: bool = True) -> Loss:
    """Next-token loss over the answers' tokens; a row holds at most `slots` of them, and only they get logits.

    `single`: no row holds more than one example.
    """

    def loss(params: Params, batch: SftBatch, key: jax.Array) -> tuple[jax.Array, dict[str, Mean]]:
        return token_loss(*counted_logprobs(model, params, batch, slots=slots, single=single))

    return loss


def steps(config: Config, role: str) -> int:
    return config.sft.policy_steps if role == "policy" else config.sft.improver_steps


def programs(shapes: Shapes, role: str) -> Iterator[Program]:
    config, network, kind = shapes.config.sft, shapes.language_model, f"sft-{role}"
    width, slots = _row(shapes, role)
    loss = make_loss(network, slots=slots, single=not config.packed_width)
    wide = replace(shapes, layout=shapes.layout.narrowed(kind, width))
    optimizer, batch = make_optimizer(config.optimizer, 1), wide.batch(kind, config.batch_size)
    part = shapes.partition(network, f"sft-{role}")
    yield shapes.step(
        "update", loss, optimizer, part.trainable, batch, accumulate=config.accumulate, frozen=part.frozen
    )


def loads(shapes: Shapes, role: str) -> Loads:
    """Batch rows an update, trained, with logits at the answers' slots."""
    config = shapes.config
    width, slots = _row(shapes, role)
    row = shapes.passes.read(width, logits=slots)
    return {"update": Load(steps(config, role), config.sft.batch_size * row.trained())}


def _row(shapes: Shapes, role: str) -> tuple[int, int]:
    """(width of a row, slots of it that get logits): T, a few more than the longest answer has; of a packed row all."""
    width = shapes.config.sft.packed_width
    return (width, width) if width else (shapes.layout.row_lengths[f"sft-{role}"], shapes.layout.response_slot)


def batches(config: Config, role: str) -> Iterator[Batch]:
    yield "--sft.batch-size", config.sft.batch_size, config.sft.accumulate


RECIPE = Recipe(run=run, batches=batches, programs=programs, loads=loads)
