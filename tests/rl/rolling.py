"""Rollouts of random models over random prompts, for the tests of scores and losses."""

from dataclasses import dataclass, replace
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from pit_jax.batch import Completions, Experience, RolloutPrompts
from pit_jax.config import RlConfig
from pit_jax.inference.engine import Engine
from pit_jax.inference.sampling import Sampling
from pit_jax.rl.algorithms import ALGORITHMS
from pit_jax.rl.rewards import ModelReward, centered_gap
from pit_jax.rl.rollout import make_score
from tests.world import World

CONFIG = RlConfig(temperature=0.7, kl_kind="k3", gamma=0.97, gae_lambda=0.9, missing_eos_penalty=1.5)
KL_COEF, ROWS = 0.2, 12


@dataclass(frozen=True)
class Rolled:
    """What a rollout left, on the host."""

    drawn: Completions
    experience: Experience
    metrics: dict[str, Any]


@dataclass(frozen=True)
class Rolling:
    """A compiled engine and score, and the models that they are called with."""

    engine: Engine
    score: Any
    params: dict[str, Any]
    frozen: dict[str, Any]
    prompts: RolloutPrompts
    temperature: float = CONFIG.temperature

    def __call__(
        self, prompts: RolloutPrompts | None = None, *, kl_coef: float = KL_COEF, text_B: Any = None
    ) -> Rolled:
        """With other models: replace(rolling, frozen=...)."""
        prompts = self.prompts if prompts is None else prompts
        sampling, key = Sampling(jnp.float32(self.temperature)), jax.random.key(3)
        drawn = self.engine.complete(self.params["policy"], prompts.prompt_BP, prompts.prompt_mask_BP, key, sampling, 0)
        text_B = jnp.zeros(len(prompts.prompt_BP)) if text_B is None else jnp.asarray(text_B, jnp.float32)
        found = self.score(self.params, self.frozen, prompts, drawn, text_B, jnp.float32(kl_coef))
        return Rolled(*jax.device_get((drawn, *found)))

    def beside(self, **frozen: Any) -> "Rolling":
        """With these frozen models too, or in the place of others."""
        return replace(self, frozen={**self.frozen, **frozen})


def score_program(
    world: World,
    *,
    config: RlConfig = CONFIG,
    reward: ModelReward = centered_gap,
    algorithm: str = "ppo",
    samples: int = 1,
) -> Any:
    found = make_score(world.language, world.scalar, config, ALGORITHMS[algorithm], samples=samples, reward=reward)
    return jax.jit(found)


def rolling(world: World, score: Any = None) -> Rolling:
    """The model that samples has moved away from its anchor; the value model is none of the others."""
    params = {"policy": world.draw(world.language, 0), "value": world.draw(world.scalar, 1)}
    anchor = jax.tree.map(lambda x, y: x + 0.1 * y, params["policy"], world.draw(world.language, 2))
    frozen = {"anchor": anchor, "scorer": world.draw(world.scalar, 3)}
    prompts = jax.tree.map(jnp.asarray, world.rollout_prompts(ROWS))
    return Rolling(world.engine, score or score_program(world), params, frozen, prompts)


def ended(rolled: Rolled) -> np.ndarray:
    return np.asarray(rolled.drawn.ended_B)
