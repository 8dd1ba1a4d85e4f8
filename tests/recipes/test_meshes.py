"""Eight devices compute what one computes: losses, gradients and rollouts of every training."""

from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from pit_jax.batch import RolloutPrompts, Triple
from pit_jax.config import RlConfig
from pit_jax.inference.sampling import Sampling
from pit_jax.parallel.sharding import batch_sharding, param_sharding, put
from pit_jax.recipes import gap, reward, sft
from pit_jax.rl.algorithms import ALGORITHMS
from pit_jax.rl.rewards import TextReward, TextScorer, Weighted, centered_gap
from pit_jax.rl.rollout import make_loss, make_score
from tests.world import StandInTemplate, World

ROWS, KEY = 8, jax.random.key(0)
ONE, MESHES = (1, 1, 1), [(1, 4, 2), (2, 2, 2)]
TRAININGS = ("sft", "reward", "gap", "ppo")


@pytest.fixture(scope="module")
def cases(world: World) -> dict[str, tuple[Any, Any, Any]]:
    """training -> (loss, params, batch)."""
    language, scalar, examples = world.language, world.scalar, world.examples(ROWS)
    policy, value = world.draw(language, 0), world.draw(scalar, 1)
    ppo = make_loss(language, scalar, RlConfig(), ALGORITHMS["ppo"], slot=world.slot)
    return {
        "sft": (sft.make_loss(language, slots=8), policy, world.batch("sft-improver", examples)),
        "reward": (reward.make_loss(scalar), value, world.batch("reward", examples)),
        "gap": (gap.make_loss(scalar), value, world.batch("gap", examples)),
        "ppo": (ppo, {"policy": policy, "value": value}, world.experience(ROWS)),
    }


@pytest.fixture(scope="module")
def gradient(cases: Any, make_mesh: Any) -> Any:
    """gradient(training, mesh) -> (loss, gradient) on the host, and the gradient's shardings; each computed once."""
    found: dict[Any, Any] = {}

    def compute(training: str, shape: tuple[int, int, int]) -> Any:
        if (training, shape) not in found:
            mesh, (loss, params, batch) = make_mesh(*shape), cases[training]
            places = param_sharding(params, mesh)
            with jax.set_mesh(mesh):
                program = jax.jit(jax.value_and_grad(lambda p, b: loss(p, b, KEY)[0]), out_shardings=(None, places))
                result = program(jax.device_put(params, places), put(batch, batch_sharding(mesh)))
            found[training, shape] = jax.device_get(result), [leaf.sharding for leaf in jax.tree.leaves(result[1])]
        return found[training, shape]

    return compute


@pytest.mark.parametrize("training", TRAININGS)
@pytest.mark.parametrize("shape", MESHES)
def test_losses_and_gradients_do_not_depend_on_the_mesh(gradient: Any, training: str, shape: Any) -> None:
    (loss, gradients), places = gradient(training, shape)
    (expected_loss, expected), _ = gradient(training, ONE)
    np.testing.assert_allclose(loss, expected_loss, rtol=1e-5)
    largest = max(np.abs(leaf).max() for leaf in jax.tree.leaves(expected))
    assert largest > 1e-3
    for found, wanted in zip(jax.tree.leaves(gradients), jax.tree.leaves(expected), strict=True):
        np.testing.assert_allclose(found, wanted, rtol=1e-5, atol=1e-5 * largest)
    assert any(not place.is_fully_replicated for place in places)


def sums(prompts: Any, responses: Any, rows: Any) -> list[float]:
    """Of every text another number; the reference counts too."""
    return [sum(map(float, y.split())) / 7 - len(row.reference) for y, row in zip(responses, rows, strict=True)]


@pytest.fixture(scope="module")
def rolled(world: World, cases: Any, make_mesh: Any) -> Any:
    """rolled(mesh, temperature, algorithm) -> (completions, experience, metrics) on the host, a text reward included.

    Groups of two; each computed once, and a mesh's programs are those of all its temperatures.
    """
    found: dict[Any, Any] = {}
    params = cases["ppo"][1]
    frozen = {"anchor": world.draw(world.language, 2), "scorer": world.draw(world.scalar, 3)}
    template = StandInTemplate(world)
    texts = TextScorer(
        [Weighted(TextReward("sums", sums), 0.1)],
        lambda tokens_NT: [template.text(row) for row in np.asarray(tokens_NT).tolist()],
    )

    def score(name: str, temperature: float, *args: Any) -> Any:
        config = RlConfig(temperature=temperature)
        make = make_score(world.language, world.scalar, config, ALGORITHMS[name], samples=2, reward=centered_gap)
        return make(*args)

    programs: dict[Any, Any] = {}

    def compute(shape: tuple[int, int, int], temperature: float, name: str) -> Any:
        if (shape, temperature, name) not in found:
            mesh = make_mesh(*shape)
            engine = programs.setdefault(shape, world.engine)
            program = programs.setdefault((shape, name, temperature), jax.jit(partial(score, name, temperature)))
            with jax.set_mesh(mesh):
                place = partial(jax.tree.map, jax.device_put)
                models = [place(tree, param_sharding(tree, mesh)) for tree in (params, frozen)]
                prompts: RolloutPrompts = put(world.rollout_prompts(ROWS), batch_sharding(mesh))
                at, asked = jnp.float32(temperature), (prompts.prompt_BP, prompts.prompt_mask_BP)
                drawn = engine.complete(models[0]["policy"], *asked, KEY, Sampling(at), 0)
                text_N, of_texts = texts(prompts, drawn, [Triple("7", "8", "9")] * ROWS)
                text_B = put(text_N, batch_sharding(mesh))
                scored = program(*models, prompts, drawn, text_B, jnp.float32(0.2))
            experience, metrics = jax.device_get(scored)
            found[shape, temperature, name] = jax.device_get(drawn), experience, metrics | jax.device_get(of_texts)
        return found[shape, temperature, name]

    return compute


@pytest.mark.parametrize(("temperature", "name"), [(0.0, "ppo"), (1.0, "ppo"), (1.0, "grpo")])
@pytest.mark.parametrize("shape", MESHES)
def test_a_rollout_does_not_depend_on_the_mesh(rolled: Any, shape: Any, temperature: float, name: str) -> None:
    """Greedy and sampled answers, what their texts earn, their log-probs, values, whitened advantages and returns."""
    drawn, experience, metrics = rolled(shape, temperature, name)
    expected_drawn, expected, expected_metrics = rolled(ONE, temperature, name)
    np.testing.assert_array_equal(drawn.tokens_BT, expected_drawn.tokens_BT)
    np.testing.assert_array_equal(experience.tokens_BL, expected.tokens_BL)
    for found, wanted in zip(jax.tree.leaves(experience), jax.tree.leaves(expected), strict=True):
        np.testing.assert_allclose(found, wanted, rtol=1e-5, atol=3e-5)
    for key in metrics:
        np.testing.assert_allclose(metrics[key].value, expected_metrics[key].value, rtol=1e-4, atol=1e-4)
    assert metrics["reward/sums"].value == expected_metrics["reward/sums"].value != 0.0
