"""The policy's reward model: its loss against Bradley-Terry on the scores of whole sequences."""

from dataclasses import replace
from typing import Any

import jax
import numpy as np
import pytest

from pit_jax.data.features import Example
from pit_jax.recipes.reward import make_loss
from tests.model import plain_forward as plain
from tests.world import World


@pytest.fixture(scope="module")
def params(world: World) -> Any:
    return world.draw(world.scalar, 0)


@pytest.fixture(scope="module")
def examples(world: World) -> list[Example]:
    """Random ones, and the corners: empty answers, equal answers."""
    corners = [Example([9], [3, 9], [], [7, 8]), Example([9], [3], [7, 8], []), Example([8], [3, 8], [7], [7])]
    return [*world.examples(5), *corners]


@pytest.fixture(scope="module")
def loss(world: World) -> Any:
    return jax.jit(make_loss(world.scalar))


def scores(world: World, params: Any, examples: list[Example]) -> tuple[np.ndarray, np.ndarray]:
    """(chosen_N, rejected_N): the scalar at the EOS of each answer, from one unpadded row."""
    chosen, rejected = (
        [plain.scalars(params, world.config, [*e.prompt, *answer, world.eos_id])[-1] for e, answer in pairs]
        for pairs in ([(e, e.chosen) for e in examples], [(e, e.rejected) for e in examples])
    )
    return np.array(chosen), np.array(rejected)


def test_the_loss_is_bradley_terry_on_scores(world: World, params: Any, examples: list[Example], loss: Any) -> None:
    value, metrics = loss(params, world.batch("reward", examples), jax.random.key(0))
    chosen_N, rejected_N = scores(world, params, examples)
    np.testing.assert_allclose(value, np.log1p(np.exp(rejected_N - chosen_N)).mean(), rtol=1e-5)
    np.testing.assert_allclose(metrics["accuracy"].value, (chosen_N > rejected_N).mean(), rtol=1e-6)
    np.testing.assert_allclose(metrics["rewards/margins"].value, (chosen_N - rejected_N).mean(), rtol=1e-4)


def test_the_loss_subtracts_the_margins_of_its_rows(
    world: World, params: Any, examples: list[Example], loss: Any
) -> None:
    margins = [0.5 * i for i in range(len(examples))]
    batch = world.batch("reward", [replace(e, margin=m) for e, m in zip(examples, margins, strict=True)])
    value, _ = loss(params, batch, jax.random.key(0))
    chosen_N, rejected_N = scores(world, params, examples)
    np.testing.assert_allclose(value, np.log1p(np.exp(np.array(margins) + rejected_N - chosen_N)).mean(), rtol=1e-5)
