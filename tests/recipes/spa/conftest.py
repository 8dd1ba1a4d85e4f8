"""A policy, its anchor and eight pairs of the tiny world, and a bench of models that score answers."""

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from pit_jax.batch import SpaBatch
from pit_jax.inference.texts import TextEngine
from pit_jax.recipes.spa.labels import Bench, make_logprob
from pit_jax.recipes.spa.objective import ANCHOR
from tests.world import StandInTemplate, World

WRONG_B = np.array([True, False, False, True, False, True, False, False])


@pytest.fixture(scope="session")
def batch(world: World) -> SpaBatch:
    columns = {**world.arrays("reward", world.examples(len(WRONG_B))), "wrong_B": WRONG_B}
    del columns["margin_B"]
    return SpaBatch(**columns)


@pytest.fixture(scope="session")
def both(world: World) -> dict[str, Any]:
    """The parameters of a policy, and its anchor beside them."""
    return {**world.draw(world.language, 0), ANCHOR: world.draw(world.language, 1)}


@pytest.fixture(scope="session")
def make_bench(world: World, make_mesh: Any) -> Callable[..., Bench]:
    """make_bench(**models) -> models by their parts, four rows at a time on one device; words are tokens."""
    template: Any = StandInTemplate(world)
    texts = TextEngine(world.engine, world.scalar, template, make_mesh(1, 1, 1), world.prompt_slot, batch_size=4)
    logprob = make_logprob(world.language)
    return lambda **models: Bench(texts, logprob, models)
