"""Rounds of RL on random prompts, by models of a shape: rollout, scoring and updates as the stage does them."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from benchmarks.limits import seconds
from benchmarks.shapes import VOCABULARY
from pit_jax.architecture import TransformerConfig
from pit_jax.batch import DecodeSpec, RolloutPrompts
from pit_jax.config import MeshConfig, RlConfig
from pit_jax.inference.engine import Engine
from pit_jax.model.flops import Passes
from pit_jax.model.networks import LanguageModel, ScalarModel
from pit_jax.parallel.mesh import make_mesh
from pit_jax.parallel.sharding import batch_sharding, replicated
from pit_jax.rl.algorithms import algorithm_of, samples_of
from pit_jax.rl.references import in_groups
from pit_jax.rl.rewards import TextScorer, plain_score
from pit_jax.rl.roles import Roles
from pit_jax.rl.rollout import make_loss, make_score
from pit_jax.rl.trainer import Trainer
from pit_jax.training.optimizer import make_rl_optimizer
from pit_jax.training.sharing import SharedJit
from pit_jax.training.state import Partition, plan_state
from pit_jax.training.step import compile_step, make_train_step


def rounds(shape: TransformerConfig, config: RlConfig, prompt: int, answer: int) -> Callable[[], float]:
    """Seconds of a round of config.batch_size answers of so many tokens, every time that it is called."""
    policy, scalar = LanguageModel(shape, VOCABULARY), ScalarModel(shape, VOCABULARY)
    algorithm, samples, mesh = algorithm_of(config, "policy"), samples_of(config, "policy"), make_mesh(MeshConfig())
    key = jax.random.key(0)
    language, score = jax.jit(policy.init), jax.jit(scalar.init)
    roles = Roles(
        Partition(language(key)),
        Partition(score(key)) if algorithm.critic else None,
        {"anchor": language(key), "scorer": score(key)},
        {},
    )
    engine = Engine(policy, DecodeSpec(answer, eos_id=-1, pad_id=0, suffix=()), mesh)
    scored = SharedJit(make_score(policy, scalar, config, algorithm, samples=samples, reward=plain_score))
    supply: Any = None  # its prompts are drawn here
    texts = TextScorer((), lambda tokens: [])
    trainer = Trainer(config, "policy", shape.dtype, 0, mesh, engine, scored, roles, supply, (), texts, key)
    optimizer = make_rl_optimizer(config, 1, critic=algorithm.critic)
    loss, extras = make_loss(policy, scalar, config, algorithm, slot=answer), {"kl_coef": jnp.float32(config.kl_coef)}
    plan = plan_state(roles.trainable, optimizer, replicated(mesh), seed=0, extras=extras)
    step = compile_step(
        make_train_step(loss, optimizer, accumulate=config.accumulate),
        state_sharding=plan.sharding,
        batch_sharding=batch_sharding(mesh),
    )
    once_BP = jax.random.randint(key, (config.batch_size // samples, prompt), 5, VOCABULARY)
    nothing_BT = jnp.zeros((len(once_BP), answer), jnp.int32)
    prompts = in_groups(RolloutPrompts(*(once_BP, once_BP > 0) * 3, nothing_BT, nothing_BT > 0), samples)
    state, begun = plan.begin(roles.trainable, extras), 0

    def round_of() -> Any:
        nonlocal state, begun
        begun += 1
        weights, drawing = trainer.to_decode(state), jax.random.fold_in(key, begun)
        _, experience, metrics = trainer.rollout(state, weights, prompts, (), drawing, samples=samples)
        for batch in trainer.minibatches(experience, begun):
            state, metrics = step(state, batch)
        return state.params, metrics

    return lambda: seconds(round_of)


def drawn(passes: Passes, prompts: int, samples: int, prompt: int, answer: int) -> float:
    """Operations of so many answers to each prompt, which is read once for them."""
    read = passes.draw(prompt, 0, 0).flops
    return prompts * (read + samples * (passes.draw(prompt, answer, answer).flops - read))


def operations(shape: TransformerConfig, config: RlConfig, prompt: int, answer: int) -> float:
    """Of the products of a round: answers drawn, read by anchor, critic and scorer, and learned from."""
    passes, rows, samples = Passes(shape, VOCABULARY), config.batch_size, samples_of(config, "policy")
    read, score = passes.read(prompt + answer, logits=answer), passes.score(prompt + answer)
    learning = read + float(algorithm_of(config, "policy").critic) * score
    trained = config.epochs * learning.trained().flops
    return drawn(passes, rows // samples, samples, prompt, answer) + rows * ((learning + score).flops + trained)
