"""What SPA puts on the mesh, compiles and costs, from shapes alone."""

from collections.abc import Iterator
from dataclasses import replace

import jax.numpy as jnp

from pit_jax.batch import SpaBatch
from pit_jax.config import Config
from pit_jax.inference.engine import Engine
from pit_jax.inference.sampling import Sampling
from pit_jax.recipes.spa.labels import make_logprob
from pit_jax.recipes.spa.objective import ANCHOR, make_loss
from pit_jax.recipes.spa.schedule import phase_of
from pit_jax.recipes.spa.slices import GOLD
from pit_jax.run.loads import Load, Loads
from pit_jax.run.programs import Program, Shapes
from pit_jax.run.stage import Batch
from pit_jax.training.optimizer import make_optimizer

PAIRS = 60_000  # gold and own ones, where no data are known: the paper's


def programs(shapes: Shapes, role: str) -> Iterator[Program]:
    """An iteration's: the decode, the scoring of answers, and the update beside the anchor."""
    config, network = shapes.config.spa, shapes.language_model
    improve = shapes.config.improve
    spec = replace(shapes.decode_spec, rows=improve.batch_size)
    engine = Engine(network, spec, shapes.mesh, shapes.config.mesh.decode)
    part, answered = shapes.partition(network, "spa-policy"), shapes.config.improve.batch_size
    params, prompts = part.combine(part.trainable), shapes.batch("prompts", answered)
    yield Program("to_decode", engine.to_decode, (params,))
    asked, sampling = shapes.batch("prompts", answered * improve.queue), Sampling(shapes.scalar())
    drawing = engine.weights, asked.prompt_BP, asked.prompt_mask_BP, shapes.key(), sampling, 0
    yield Program("draw", engine.completing(config.samples), drawing)
    yield Program("score", make_logprob(network), (params, prompts, shapes.responses(answered)))
    rows = dict(vars(shapes.batch("reward", config.batch_size)))
    del rows["margin_B"]
    phase = phase_of(config, 1, config.batch_size)
    yield shapes.step(
        "update",
        make_loss(network, phase),
        make_optimizer(phase.optimizer, 1),
        part.trainable,
        SpaBatch(**rows, wrong_B=shapes.array((config.batch_size,), jnp.bool)),
        accumulate=config.accumulate,
        frozen={**(part.frozen or {}), ANCHOR: shapes.frozen(network, "spa-policy")},
    )


def loads(shapes: Shapes, role: str) -> Loads:
    """Answers to all prompts but the gold ones, read by two models; batch pairs of two rows an update, trained, and
    read by the anchor, with the logits of the policy made once more."""
    config, passes, layout = shapes.config.spa, shapes.passes, shapes.layout
    rows, slot, pairs = shapes.config.improve.batch_size, layout.response_slot, shapes.pairs or PAIRS
    gold = pairs * config.gold_share
    answers, length = config.samples * (pairs - gold) / rows, layout.row_lengths["reward"]
    read = passes.read(layout.prompt_slot + slot, logits=slot)
    pair = 2 * passes.read(length, logits=length)
    anchor = 2 * passes.read(length, logits=2 * length)
    gold_updates = phase_of(config, GOLD, round(gold)).steps
    updates = gold_updates + config.epochs * (pairs - gold) / config.batch_size
    return {
        "to_decode": Load(len(config.slices), 0 * read),
        "draw": Load(
            answers,
            rows * passes.draw(layout.prompt_slot, slot, slot),
            decoded=slot,
            rows=rows,
            cached=layout.prompt_slot + slot,
        ),
        "score": Load(2 * answers, rows * read),
        "update": Load(updates, config.batch_size * (pair.trained() + anchor)),
    }


def batches(config: Config, role: str) -> Iterator[Batch]:
    yield "--improve.batch-size", config.improve.batch_size, 1
    yield "--spa.batch-size", config.spa.batch_size, config.spa.accumulate
