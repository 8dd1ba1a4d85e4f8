"""Eight devices compute what one computes: losses, gradients and rollouts of every stage."""

from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from pit_jax.config import RlConfig
from pit_jax.parallel.sharding import batch_sharding, param_sharding, put
from pit_jax.stages.rm import make_gap_loss, make_reward_loss
from pit_jax.stages.rollout import centered_gap, make_ppo_loss, make_rollout
from pit_jax.stages.sft import make_loss

ROWS, KEY = 8, jax.random.key(0)
ONE, MESHES = (1, 1, 1), [(1, 4, 2), (2, 2, 2)]
STAGES = ("sft", "reward", "gap", "ppo")


@pytest.fixture(scope="module")
def cases(world: Any) -> dict[str, tuple[Any, Any, Any]]:
    """stage -> (loss, params, batch)."""
    language, scalar, examples = world.language, world.scalar, world.examples(ROWS)
    policy, value = world.draw(language, 0), world.draw(scalar, 1)
    ppo = make_ppo_loss(language, scalar, RlConfig(), slot=world.slot)
    return {
        "sft": (make_loss(language, slots=8), policy, world.batch("sft-improver", examples)),
        "reward": (make_reward_loss(scalar), value, world.batch("reward", examples)),
        "gap": (make_gap_loss(scalar), value, world.batch("gap", examples)),
        "ppo": (ppo, {"policy": policy, "value": value}, world.experience(ROWS)),
    }


@pytest.fixture(scope="module")
def gradient(cases: Any, make_mesh: Any) -> Any:
    """gradient(stage, mesh) -> (loss, gradient) on the host, and the shardings of the gradient; each computed once."""
    found: dict[Any, Any] = {}

    def compute(stage: str, shape: tuple[int, int, int]) -> Any:
        if (stage, shape) not in found:
            mesh, (loss, params, batch) = make_mesh(*shape), cases[stage]
            places = param_sharding(params, mesh)
            with jax.set_mesh(mesh):
                program = jax.jit(jax.value_and_grad(lambda p, b: loss(p, b, KEY)[0]), out_shardings=(None, places))
                result = program(jax.device_put(params, places), put(batch, batch_sharding(mesh)))
            found[stage, shape] = jax.device_get(result), [leaf.sharding for leaf in jax.tree.leaves(result[1])]
        return found[stage, shape]

    return compute


@pytest.mark.parametrize("stage", STAGES)
@pytest.mark.parametrize("shape", MESHES)
def test_losses_and_gradients_do_not_depend_on_the_mesh(gradient: Any, stage: str, shape: Any) -> None:
    (loss, gradients), places = gradient(stage, shape)
    (expected_loss, expected), _ = gradient(stage, ONE)
    np.testing.assert_allclose(loss, expected_loss, rtol=1e-5)
    largest = max(np.abs(leaf).max() for leaf in jax.tree.leaves(expected))
    assert largest > 1e-3
    for found, wanted in zip(jax.tree.leaves(gradients), jax.tree.leaves(expected), strict=True):
        np.testing.assert_allclose(found, wanted, rtol=1e-5, atol=1e-5 * largest)
    assert any(not place.is_fully_replicated for place in places)


@pytest.fixture(scope="module")
def rolled(world: Any, cases: Any, make_mesh: Any) -> Any:
    """rolled(mesh, temperature) -> (experience, metrics) on the host."""
    found: dict[Any, Any] = {}
    _, params, _ = cases["ppo"]
    frozen = {"anchor": world.draw(world.language, 2), "scorer": world.draw(world.scalar, 3)}
    ids = {"slot": world.slot, "eos_id": world.eos_id, "pad_id": world.pad_id}

    def rollout(params: Any, frozen: Any, prompts: Any, temperature: jax.Array) -> Any:
        config = RlConfig(temperature=temperature)  # an array, so that one program does for all
        run = make_rollout(world.language, world.scalar, config, **ids, score=centered_gap)
        return run(params, frozen, prompts, KEY, jnp.float32(0.2))

    programs: dict[Any, Any] = {}

    def compute(shape: tuple[int, int, int], temperature: float) -> Any:
        if (shape, temperature) not in found:
            mesh, program = make_mesh(*shape), programs.setdefault(shape, jax.jit(rollout))
            with jax.set_mesh(mesh):
                place = partial(jax.tree.map, jax.device_put)
                inputs = [place(tree, param_sharding(tree, mesh)) for tree in (params, frozen)]
                prompts = put(world.rollout_prompts(ROWS), batch_sharding(mesh))
                found[shape, temperature] = jax.device_get(program(*inputs, prompts, jnp.float32(temperature)))
        return found[shape, temperature]

    return compute


@pytest.mark.parametrize("temperature", [0.0, 1.0])
@pytest.mark.parametrize("shape", MESHES)
def test_a_rollout_does_not_depend_on_the_mesh(rolled: Any, shape: Any, temperature: float) -> None:
    """Greedy and sampled answers, their log-probs, values, whitened advantages and returns."""
    experience, metrics = rolled(shape, temperature)
    expected, expected_metrics = rolled(ONE, temperature)
    np.testing.assert_array_equal(experience.tokens_BL, expected.tokens_BL)
    for found, wanted in zip(jax.tree.leaves(experience), jax.tree.leaves(expected), strict=True):
        np.testing.assert_allclose(found, wanted, rtol=1e-5, atol=3e-5)
    for name in metrics:
        np.testing.assert_allclose(metrics[name].value, expected_metrics[name].value, rtol=1e-4, atol=1e-4)
