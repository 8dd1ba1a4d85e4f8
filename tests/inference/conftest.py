"""The models over texts at the smallest size: 21 prompts in chunks of 8, with answers that end and some that do not."""

from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from pit_jax.inference.engine import Engine
from pit_jax.inference.texts import TextEngine
from pit_jax.parallel.mesh import mesh_of
from tests.world import StandInTemplate, World, make_mesh, world

__all__ = ["make_mesh", "world"]

CHUNK, COUNT = 8, 21


class NotedEngine(Engine):
    """Keeps of every decode which of its rows held a prompt, and how many tokens each row drew."""

    decodes: list[tuple[list[bool], list[int]]]

    def __init__(self, model: Any, spec: Any):
        super().__init__(model, spec)
        self.compiled, self.decodes = self.completing, []
        self.completing = lambda samples: partial(self.noted, samples)

    def noted(self, samples: int, params: Any, prompt_BP: Any, mask_BP: Any, *rest: Any) -> Any:
        found = self.compiled(samples)(params, prompt_BP, mask_BP, *rest)
        live_B: Any = np.asarray(mask_BP).any(axis=1).repeat(samples)
        drawn_B: Any = np.asarray(found.mask_BT).sum(axis=1)
        self.decodes.append((live_B.tolist(), drawn_B.tolist()))
        return found


@dataclass(frozen=True)
class Bench:
    """Prompts, weights and a way to make an engine; a word is a token."""

    world: World
    prompts: list[str] = field(default_factory=lambda: [" ".join([str(6 + i)] * (1 + i % 5)) for i in range(COUNT)])

    def engine(self, mesh: tuple[int, int, int] = (1, 1, 1), *, batch_size: int = CHUNK, queue: int = 1) -> TextEngine:
        template: Any = StandInTemplate(self.world)
        return TextEngine(
            NotedEngine(self.world.language, replace(self.world.spec, rows=batch_size)),
            self.world.scalar,
            template,
            mesh_of(*mesh),
            prompt_length=self.world.prompt_slot,
            batch_size=batch_size,
            queue=queue,
        )

    def policy(self, seed: int = 0) -> Any:
        return self.world.draw(self.world.language, seed)

    def reward(self, seed: int = 3) -> Any:
        return self.world.draw(self.world.scalar, seed)

    def blank(self) -> Any:
        """Weights of 0: every token is as likely as any other."""
        return jax.tree.map(jnp.zeros_like, self.policy())


@pytest.fixture(scope="session")
def bench(world: World) -> Bench:
    return Bench(world)


@pytest.fixture(scope="session")
def compiled(bench: Bench) -> TextEngine:
    """One engine for the whole run, so that its programs are compiled once."""
    return bench.engine()


@pytest.fixture
def texts(compiled: Any) -> Any:
    """The engine, with no decode noted yet."""
    compiled.engine.decodes.clear()
    return compiled
