"""DPO: the policy learns from the pairs directly, a baseline without a reward model (arXiv 2305.18290)."""

from collections.abc import Iterator, Mapping
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np

from pit_jax.batch import DpoBatch, RewardBatch
from pit_jax.config import Config, DpoConfig
from pit_jax.data.rows import JoinedRows, Rows, as_rows
from pit_jax.data.stream import sequential
from pit_jax.masked import Mean
from pit_jax.model.networks import LanguageModel, Params
from pit_jax.model.scoring import pair_logprobs
from pit_jax.objectives.dpo import dpo_loss
from pit_jax.parallel.hosts import whole
from pit_jax.parallel.sharding import put_rows
from pit_jax.run.context import Context
from pit_jax.run.loads import Load, Loads
from pit_jax.run.params import Models
from pit_jax.run.programs import Program, Shapes
from pit_jax.run.provenance import StageId
from pit_jax.run.stage import Batch, Recipe
from pit_jax.run.supervised import Task, by, fit
from pit_jax.training.optimizer import make_optimizer
from pit_jax.training.step import Loss

SFT = StageId("sft", "policy")


def run(context: Context) -> None:
    config, models = context.config.dpo, Models(context)
    # Read for each: a model that is kept here would lie beside the one that is trained.
    rows, heldout = (
        with_anchor(context, models.load(SFT), context.data.rows(fold, "reward")) for fold in ("rm", "heldout")
    )
    task = Task(
        loss=make_loss(context.language_model, config),
        make_batch=DpoBatch,
        rows=rows,
        heldout=heldout,
        optimizer=config.optimizer,
        steps=config.steps,
        batch_size=config.batch_size,
        accumulate=config.accumulate,
        seed=context.config.seed,
        score=by("accuracy"),
    )
    fit(context, task, models, lambda: models.load(SFT))


def make_loss(model: LanguageModel, config: DpoConfig) -> Loss:
    def loss(params: Params, batch: DpoBatch, key: jax.Array) -> tuple[jax.Array, dict[str, Mean]]:
        policy, anchor = pair_logprobs(model, params, batch), (batch.anchor_chosen_B, batch.anchor_rejected_B)
        return dpo_loss(*policy, *anchor, beta=config.beta, label_smoothing=config.label_smoothing)

    return loss


def with_anchor(context: Context, params: Params, rows: Rows | Mapping[str, np.ndarray]) -> Rows:
    """The rows of RewardBatch as those of DpoBatch: the anchor is asked once, not at every step."""
    logprobs = jax.jit(partial(pair_logprobs, context.language_model))
    pieces = [
        [whole(x)[:real] for x in logprobs(params, put_rows(context.mesh, RewardBatch, batch))]
        for batch, real in sequential(rows, context.config.improve.batch_size)
    ]
    chosen_N, rejected_N = (np.concatenate(column) for column in zip(*pieces, strict=True))
    anchor = {"anchor_chosen_B": chosen_N, "anchor_rejected_B": rejected_N}
    return JoinedRows(as_rows(rows), anchor, without=("margin_B",))


def programs(shapes: Shapes, role: str) -> Iterator[Program]:
    config, network = shapes.config.dpo, shapes.language_model
    rows = dict(vars(shapes.batch("reward", config.batch_size)))
    del rows["margin_B"]
    anchor = dict.fromkeys(("anchor_chosen_B", "anchor_rejected_B"), shapes.array((config.batch_size,), jnp.float32))
    loss, optimizer = make_loss(network, config), make_optimizer(config.optimizer, 1)
    batch = DpoBatch(**rows, **anchor)
    part = shapes.partition(network, "dpo-policy")
    yield shapes.step(
        "update", loss, optimizer, part.trainable, batch, accumulate=config.accumulate, frozen=part.frozen
    )


def loads(shapes: Shapes, role: str) -> Loads:
    """Batch pairs of two rows an update, trained; counted before it, each pair once through the anchor."""
    config, length = shapes.config.dpo, shapes.layout.row_lengths["reward"]
    pair = 2 * shapes.passes.read(length, logits=length)
    pairs = config.steps * config.batch_size
    return {"update": Load(config.steps, config.batch_size * pair.trained(), before=pairs * pair)}


def batches(config: Config, role: str) -> Iterator[Batch]:
    yield "--dpo.batch-size", config.dpo.batch_size, config.dpo.accumulate


RECIPE = Recipe(run=run, batches=batches, programs=programs, loads=loads)
