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
from pit_jax.parallel.sharding import put, replicated
from pit_jax.rl.algorithms import algorithm_of, samples_of
from pit_jax.rl.rewards import TextScorer, plain_score
from pit_jax.rl.roles import Roles
from pit_jax.rl.rollout import make_loss, make_score
from pit_jax.rl.trainer import Trainer
from pit_jax.training.optimizer import make_rl_optimizer
from pit_jax.training.sharing import SharedJit
from pit_jax.training.state import Partition, create_state
from pit_jax.training.step import make_train_step


def rounds(shape: TransformerConfig, config: RlConfig, prompt: int, answer: int) -> Callable[[], float]:
    """Seconds of a round of config.batch_size answers of so many tokens, every time that it is called."""
    policy, scalar, algorithm = (
        LanguageModel(shape, VOCABULARY),
        ScalarModel(shape, VOCABULARY),
        algorithm_of(config, "policy"),
    )
    samples, mesh, key = samples_of(config, "policy"), make_mesh(MeshConfig()), jax.random.key(0)
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
    loss = make_loss(policy, scalar, config, algorithm, slot=answer)
    step = jax.jit(make_train_step(loss, optimizer, accumulate=config.accumulate), donate_argnums=0)
    state = create_state(roles.trainable, optimizer, seed=0, extras={"kl_coef": jnp.float32(config.kl_coef)})
    once_BP = jax.random.randint(key, (config.batch_size // samples, prompt), 5, VOCABULARY)
    prompt_BP, nothing_BT = jnp.repeat(once_BP, samples, axis=0), jnp.zeros((config.batch_size, answer), jnp.int32)
    prompts = RolloutPrompts(*(prompt_BP, prompt_BP > 0) * 2, nothing_BT, nothing_BT > 0)
    # Copied, since an update donates it, to where the updates leave it.
    state, begun = put(jax.tree.map(jnp.copy, state), replicated(mesh)), 0

    def round_of() -> Any:
        nonlocal state, begun
        begun += 1
        weights, drawn = trainer.to_decode(state), jax.random.fold_in(key, begun)
        _, experience, metrics = trainer.rollout(state, weights, prompts, (), drawn, samples=samples)
        for batch in trainer.minibatches(experience, begun):
            state, metrics = step(state, batch)
        return state.params, metrics

    return lambda: seconds(round_of)


def operations(shape: TransformerConfig, config: RlConfig, prompt: int, answer: int) -> float:
    """Of the products of a round: prompts read once for their samples, drawn, scored, and updated."""
    passes, rows = Passes(shape, VOCABULARY), config.batch_size
    critic = float(algorithm_of(config, "policy").critic)
    read, score = passes.read(prompt + answer, logits=answer), passes.score(prompt + answer)
    prefill = passes.draw(prompt, 0, 0)
    drawn = (
        rows * passes.draw(prompt, answer, answer).flops - (rows - rows / samples_of(config, "policy")) * prefill.flops
    )
    scored = rows * (read + (1 + critic) * score).flops
    return drawn + scored + config.epochs * rows * (read + critic * score).trained().flops
