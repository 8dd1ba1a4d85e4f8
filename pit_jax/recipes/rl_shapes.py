"""What RL puts on the mesh, compiles and costs, from shapes alone."""

from collections.abc import Iterator
from typing import Any

import jax
import jax.numpy as jnp

from pit_jax.config import Config
from pit_jax.inference.engine import Engine
from pit_jax.inference.sampling import Sampling
from pit_jax.rl.algorithms import algorithm_of, samples_of
from pit_jax.rl.curriculum import providers_of
from pit_jax.rl.references import REFERENCES
from pit_jax.rl.rewards import reward_of
from pit_jax.rl.roles import abstract_roles
from pit_jax.rl.rollout import make_loss, make_score
from pit_jax.run.programs import Program, Shapes
from pit_jax.run.stage import Batch
from pit_jax.training.optimizer import make_rl_optimizer
from pit_jax.training.sharing import SharedJit


def batches(config: Config, role: str) -> Iterator[Batch]:
    rl = config.rl
    groups = rl.batch_size // samples_of(rl, role)
    yield "--rl.batch-size", rl.batch_size, rl.minibatches * rl.accumulate
    if rl.score_rows:
        yield "--rl.score-rows", rl.score_rows, 1
    parts = max(len(providers_of(names)) for names in rl.curriculum.references) if role == "improver" else 1
    yield f"--rl.batch-size (1/{rl.batch_size // groups * parts} of it for each reference)", groups // parts, 1


def programs(shapes: Shapes, role: str) -> Iterator[Program]:
    """The decode, the scoring and the update of a round, and the drawing of references."""
    config, rows, layout = shapes.config.rl, shapes.config.rl.batch_size, shapes.layout
    algorithm, samples, spec = algorithm_of(config, role), samples_of(config, role), shapes.decode_spec
    policy, scalar = shapes.language_model, shapes.scalar_model
    slot = layout.prompt_slot if role == "policy" else shapes.improver_slot
    roles = abstract_roles(shapes, role)
    params = roles.whole(roles.trainable)
    language, frozen = params["policy"], roles.frozen
    engine = Engine(policy, spec, shapes.mesh, shapes.config.mesh.decode)
    prompts, weights = shapes.rollout_prompts(rows, slot), engine.weights
    sampling, key = Sampling(shapes.scalar()), shapes.key()
    yield Program("to_decode", engine.to_decode, (language,))
    asked = shapes.rollout_prompts(rows // samples, slot)
    drawing = weights, asked.prompt_BP, asked.prompt_mask_BP, key, sampling, 0
    yield Program("draw", engine.completing(samples), drawing)
    completions = jax.eval_shape(engine.completing(samples), *drawing)
    if samples > 1:
        each = weights, prompts.prompt_BP, prompts.prompt_mask_BP, key, sampling, 0
        yield Program("draw, held-out", engine.complete, each)
    drawn = jax.tree.map(lambda x: shapes.array(x.shape, x.dtype), completions)
    reward = reward_of(config, role, shapes.decode_spec)
    scored = SharedJit(make_score(policy, scalar, config, algorithm, samples=samples, reward=reward))
    scoring = params, frozen, prompts, drawn, shapes.array((rows,), jnp.float32), shapes.scalar()
    yield Program("score", scored, scoring)
    experience, _ = jax.eval_shape(scored, *scoring)
    size = rows // config.minibatches
    batch = jax.tree.map(lambda x: shapes.array((size, *x.shape[1:]), x.dtype), experience)
    optimizer = make_rl_optimizer(config, 1, critic=algorithm.critic)
    loss = make_loss(policy, scalar, config, algorithm, slot=spec.response_slot)
    yield shapes.step(
        "update", loss, optimizer, roles.trainable, batch, accumulate=config.accumulate, frozen=roles.under
    )
    if role == "improver":
        yield from _references(shapes, engine, key, sampling)


def _references(shapes: Shapes, engine: Engine, key: Any, sampling: Sampling) -> Iterator[Program]:
    """What the providers of all phases draw, and the policy for held-out prompts; and the prompts that hold it."""
    config = shapes.config.rl
    groups = config.batch_size // samples_of(config, "improver")
    prompts, drawn = {groups, config.batch_size}, {(config.batch_size, False)}
    for phase in map(providers_of, config.curriculum.references):
        part = groups // len(phase)
        asked = {(part, rewrite) for name in phase for rewrite in REFERENCES[name].drawn}
        prompts |= {part for part, rewrite in asked if rewrite}
        drawn |= asked
    for rows in sorted(prompts):
        held = shapes.batch("prompts", rows), shapes.responses(rows)
        yield Program(f"improver prompts of {rows}", engine.improver_prompt, held)
    for rows, rewrite in sorted(drawn):
        row = shapes.rollout_prompts(rows, shapes.improver_slot if rewrite else shapes.layout.prompt_slot)
        args = engine.weights, row.prompt_BP, row.prompt_mask_BP, key, sampling, 0
        yield Program(f"references of {rows}{', rewritten' if rewrite else ''}", engine.complete, args)
