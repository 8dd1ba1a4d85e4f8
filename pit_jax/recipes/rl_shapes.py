"""What RL puts on the mesh, compiles and costs, from shapes alone."""

from collections.abc import Iterator
from typing import Any

import jax
import jax.numpy as jnp

from pit_jax.config import Config
from pit_jax.inference.engine import Engine
from pit_jax.inference.sampling import Sampling
from pit_jax.model.flops import Work
from pit_jax.rl.algorithms import algorithm_of, samples_of
from pit_jax.rl.curriculum import providers_of
from pit_jax.rl.references import REFERENCES, reference_cost
from pit_jax.rl.rewards import reward_of
from pit_jax.rl.rollout import make_loss, make_score
from pit_jax.run.programs import Program, Shapes
from pit_jax.run.stage import Batch
from pit_jax.training.optimizer import make_rl_optimizer


def batches(config: Config, role: str) -> Iterator[Batch]:
    rl = config.rl
    groups = rl.batch_size // samples_of(rl, role)
    yield "--rl.batch-size", rl.batch_size, rl.minibatches
    parts = max(len(providers_of(names)) for names in rl.curriculum.references) if role == "improver" else 1
    yield f"--rl.batch-size (1/{rl.batch_size // groups * parts} of it for each reference)", groups // parts, 1


def programs(shapes: Shapes, role: str) -> Iterator[Program]:
    """The decode, the scoring and the update of a round, and the drawing of references."""
    config, rows, layout = shapes.config.rl, shapes.config.rl.batch_size, shapes.layout
    algorithm, samples, spec = algorithm_of(config, role), samples_of(config, role), shapes.decode_spec
    policy, scalar = shapes.language_model, shapes.scalar_model
    slot = layout.prompt_slot if role == "policy" else shapes.improver_slot
    language, score = shapes.params(policy), shapes.params(scalar)
    params = {"policy": language, **({"value": score} if algorithm.critic else {})}
    frozen = {"anchor": language, "scorer": score}
    if role == "improver" and shapes.config.rm.second_gap_steps > 0:
        frozen["second-gap"] = score
    engine = Engine(policy, spec, shapes.mesh, shapes.config.mesh.decode)
    prompts, weights = shapes.rollout_prompts(rows, slot), engine.weights
    sampling, key = Sampling(shapes.scalar()), shapes.key()
    yield Program("to_decode", engine.to_decode, (language,))
    drawing = weights, prompts.prompt_BP, prompts.prompt_mask_BP, key, sampling
    yield Program("draw", engine.complete, drawing)
    completions = jax.eval_shape(engine.complete, *drawing)
    drawn = jax.tree.map(lambda x: shapes.array(x.shape, x.dtype), completions)
    reward = reward_of(config, role)
    scored = jax.jit(make_score(policy, scalar, config, algorithm, samples=samples, reward=reward))
    scoring = params, frozen, prompts, drawn, shapes.array((rows,), jnp.float32), shapes.scalar()
    yield Program("score", scored, scoring)
    experience, _ = jax.eval_shape(scored, *scoring)
    size = rows // config.minibatches
    batch = jax.tree.map(lambda x: shapes.array((size, *x.shape[1:]), x.dtype), experience)
    optimizer = make_rl_optimizer(config, 1, critic=algorithm.critic)
    yield shapes.step(
        "update", make_loss(policy, scalar, config, algorithm, slot=spec.response_slot), optimizer, params, batch
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
        args = engine.weights, row.prompt_BP, row.prompt_mask_BP, key, sampling
        yield Program(f"references of {rows}{', rewritten' if rewrite else ''}", engine.complete, args)


def cost(shapes: Shapes, role: str) -> Work:
    """rounds * batch * [reference + draw + anchor + scorer + epochs (policy, trained)], and of a critic as much again.

    All T slots are decoded: a batch goes on until its longest answer has ended. The scorer reads twice when the gap is
    centred, twice without the reference for a difference of scores, and a second gap model as often as it. A reference
    is drawn once for all responses to it. A round that stops on rl.stop_kl and a run that a monitor ends cost less
    than is counted here; a phase that is over early leaves its rounds to the last, whose references may cost more.
    """
    config, passes, layout = shapes.config.rl, shapes.passes, shapes.layout
    slot, prompt = layout.response_slot, layout.prompt_slot
    plain = passes.score(prompt + slot)
    if role == "policy":
        return config.policy_rounds * config.batch_size * _rollout(shapes, role, prompt, plain)
    improving = shapes.improver_slot
    both = 1 + (shapes.config.rm.second_gap_steps > 0)
    scored = 2 * plain if config.reward == "difference" else (1 + config.center_gap) * passes.score(improving + slot)
    total = Work()
    for references, rounds in zip(config.curriculum.references, config.curriculum.rounds, strict=True):
        names = providers_of(references)
        groups = config.batch_size // samples_of(config, role) // len(names)
        drawn = groups * reference_cost(passes, names, prompt=prompt, improver=improving, slot=slot)
        total += rounds * (drawn + config.batch_size * _rollout(shapes, role, improving, both * scored))
    return total


def _rollout(shapes: Shapes, role: str, prompt: int, scored: Work) -> Work:
    """One response, drawn, scored and learned from, without its reference."""
    config, passes, slot = shapes.config.rl, shapes.passes, shapes.layout.response_slot
    row = prompt + slot
    anchor, value = passes.read(row, logits=slot), passes.score(row)
    learned = passes.draw(prompt, slot, slot) + anchor + scored + config.epochs * anchor.trained()
    critic = value + config.epochs * value.trained()
    return learned + critic if algorithm_of(config, role).critic else learned
