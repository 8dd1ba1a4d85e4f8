"""The policy's reward model: Bradley-Terry on pairs, over the SFT weights of the policy."""

from collections.abc import Iterator
from functools import partial

import jax

from pit_jax.batch import RewardBatch
from pit_jax.config import Config
from pit_jax.masked import Mean
from pit_jax.model.networks import Params, ScalarModel
from pit_jax.model.scoring import pair_scores
from pit_jax.objectives.reward import bradley_terry_loss
from pit_jax.run.context import Context
from pit_jax.run.loads import Load, Loads
from pit_jax.run.params import Models
from pit_jax.run.programs import Program, Shapes
from pit_jax.run.stage import Batch, Recipe
from pit_jax.run.supervised import Task, by, fit, with_head
from pit_jax.training.head import HeadFit
from pit_jax.training.optimizer import make_optimizer
from pit_jax.training.step import Loss

Scores = tuple[jax.Array, jax.Array, jax.Array | None]
"""chosen_B, rejected_B and the margins."""


def run(context: Context) -> None:
    config, models = context.config.rm, Models(context)
    task = Task(
        loss=make_loss(context.scalar_model),
        head_fit=HeadFit(partial(scores, context.scalar_model), objective) if config.fit_head else None,
        make_batch=RewardBatch,
        rows=context.data.pairs("reward", config.pairs),
        heldout=context.data.rows("heldout", "reward"),
        optimizer=config.optimizer,
        steps=config.policy_steps,
        batch_size=config.batch_size,
        accumulate=config.accumulate,
        seed=context.config.seed,
        score=by("accuracy"),
        patience=config.patience,
    )
    fit(context, task, models, lambda: with_head(context, models, "reward"))


def make_loss(model: ScalarModel) -> Loss:
    def loss(params: Params, batch: RewardBatch, key: jax.Array) -> tuple[jax.Array, dict[str, Mean]]:
        return objective(scores(model, params, batch))

    return loss


def scores(model: ScalarModel, params: Params, batch: RewardBatch) -> Scores:
    return *pair_scores(model, params, batch), batch.margin_B


def objective(scores: Scores) -> tuple[jax.Array, dict[str, Mean]]:
    chosen_B, rejected_B, margin_B = scores
    return bradley_terry_loss(chosen_B, rejected_B, margin=margin_B)


def programs(shapes: Shapes, role: str) -> Iterator[Program]:
    config, network = shapes.config.rm, shapes.scalar_model
    optimizer, batch = make_optimizer(config.optimizer, 1), shapes.batch("reward", config.batch_size)
    part = shapes.partition(network, "rm-policy")
    yield shapes.step(
        "update", make_loss(network), optimizer, part.trainable, batch, accumulate=config.accumulate, frozen=part.frozen
    )


def loads(shapes: Shapes, role: str) -> Loads:
    """Batch pairs of two rows an update, trained."""
    config = shapes.config.rm
    row = shapes.passes.score(shapes.layout.row_lengths["reward"])
    return {"update": Load(config.policy_steps, config.batch_size * 2 * row.trained())}


def batches(config: Config, role: str) -> Iterator[Batch]:
    yield "--rm.batch-size", config.rm.batch_size, config.rm.accumulate


RECIPE = Recipe(run=run, batches=batches, programs=programs, loads=loads)
