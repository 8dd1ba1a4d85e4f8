"""training/optimizer.py: schedules by hand, what decays, clipping per network."""

import dataclasses
from types import ModuleType
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from pit_jax.config import OptimizerConfig, RlConfig
from pit_jax.errors import UserError
from pit_jax.training.optimizer import (
    decay_mask,
    make_actor_critic_optimizer,
    make_optimizer,
    make_rl_optimizer,
    schedule,
)

BASE = OptimizerConfig(learning_rate=1.0, warmup=0.2, final=0.1, schedule="linear")


def rates(config: OptimizerConfig, num_steps: int, **overrides: float) -> list[float]:
    rate: Any = schedule(config, num_steps, **overrides)
    return [float(rate(jnp.int32(step))) for step in range(num_steps + 2)]


def test_linear_by_hand() -> None:
    """10 updates, 2 of warm-up: 1/3, 2/3, then 1 falling by 0.9 / 8 an update to 0.1 at update 10, and no further."""
    want = [1 / 3, 2 / 3, *(1 - 0.9 * t / 8 for t in range(9)), 0.1]
    np.testing.assert_allclose(rates(BASE, 10), want, rtol=1e-6)


def test_cosine_by_hand() -> None:
    """Half way down the cosine stands at the middle of 1 and 0.1; a quarter in, at 0.1 + 0.9 (1 + cos 45) / 2."""
    got = rates(dataclasses.replace(BASE, schedule="cosine"), 10)
    np.testing.assert_allclose(
        [got[2], got[4], got[6], got[10]], [1.0, 0.1 + 0.45 * (1 + 0.5**0.5), 0.55, 0.1], rtol=1e-6
    )


def test_constant_and_no_warm_up() -> None:
    config = dataclasses.replace(BASE, schedule="constant", warmup=0.0)
    np.testing.assert_allclose(rates(config, 3), [1.0] * 5)
    np.testing.assert_allclose(rates(config, 3, learning_rate=0.25), [0.25] * 5)


def test_all_warm_up_is_allowed() -> None:
    np.testing.assert_allclose(rates(dataclasses.replace(BASE, warmup=1.0), 3)[:4], [0.25, 0.5, 0.75, 1.0])


def test_only_matrices_decay(toy: ModuleType) -> None:
    params = {
        "embedding": jnp.zeros((5, 4)),
        "blocks": {
            "attention": {"query": jnp.zeros((2, 4, 2, 2))},
            "norm": {"scale": jnp.zeros((2, 4))},
            "ffn": {"up": jnp.zeros((2, 4, 8)), "bias": jnp.zeros((2, 8)), "gain": jnp.zeros((2, 8))},
        },
        "final_norm": {"scale": jnp.zeros(4)},
        "head": {"kernel": jnp.zeros((4, 1)), "bias": jnp.zeros(())},
    }
    flat = jax.tree_util.tree_leaves_with_path(decay_mask(params))
    decayed = {jax.tree_util.keystr(path, simple=True, separator="/") for path, decays in flat if decays}
    assert decayed == {"embedding", "blocks/attention/query", "blocks/ffn/up"}


def test_decay_shrinks_what_has_no_gradient(toy: ModuleType) -> None:
    """With gradient 0 one update is w (1 - lr * decay) for matrices and w for everything else."""
    config = OptimizerConfig(learning_rate=0.1, schedule="constant", warmup=0.0, weight_decay=0.5)
    params = toy.toy_params()
    after = update(make_optimizer(config, 10), params, jax.tree.map(jnp.zeros_like, params))
    np.testing.assert_allclose(after["blocks"]["kernel"], params["blocks"]["kernel"] * 0.95, rtol=1e-6)
    np.testing.assert_array_equal(after["blocks"]["scale"], params["blocks"]["scale"])
    np.testing.assert_array_equal(after["head"]["kernel"], params["head"]["kernel"])


def update(optimizer: Any, params: Any, grads: Any) -> Any:
    with jax.numpy_dtype_promotion("standard"):
        updates, _ = optimizer.update(grads, optimizer.init(params), params)
    return jax.tree.map(jnp.add, params, updates)


def test_the_first_adam_update_by_hand() -> None:
    """Gradient (3, 4), clipped from norm 5 to 1: (0.6, 0.8). Bias-corrected: g / (|g| + eps), eps 0.2: 0.75 and 0.8."""
    config = OptimizerConfig(
        learning_rate=0.1, schedule="constant", warmup=0.0, weight_decay=0.0, eps=0.2, clip_norm=1.0
    )
    after = update(make_optimizer(config, 10), {"w": jnp.zeros(2)}, {"w": jnp.array([3.0, 4.0])})
    np.testing.assert_allclose(after["w"], [-0.075, -0.08], rtol=1e-5)


def test_two_networks_are_clipped_and_paced_apart() -> None:
    """A huge gradient of the value network leaves the policy's update as it would be alone."""
    config = OptimizerConfig(
        learning_rate=0.1, schedule="constant", warmup=0.0, weight_decay=0.0, eps=0.2, clip_norm=1.0
    )
    both = make_actor_critic_optimizer(config, 10, value_learning_rate=0.5)
    params = {"policy": {"w": jnp.zeros(2)}, "value": {"w": jnp.zeros(2)}}
    grads = {"policy": {"w": jnp.array([0.3, 0.4])}, "value": {"w": jnp.array([3e4, 4e4])}}
    after = update(both, params, grads)
    np.testing.assert_allclose(after["policy"]["w"], [-0.1 * 0.3 / 0.5, -0.1 * 0.4 / 0.6], rtol=1e-5)
    np.testing.assert_allclose(after["value"]["w"], [-0.5 * 0.75, -0.5 * 0.8], rtol=1e-5)


@pytest.mark.parametrize("critic", [True, False])
def test_rl_takes_epochs_times_minibatches_updates_a_round(critic: bool) -> None:
    """Five rounds of 2 x 3: a schedule of 30 updates, and with a critic a rate of its own."""
    config = RlConfig(epochs=2, minibatches=3, optimizer=dataclasses.replace(BASE, clip_norm=float("inf")))
    names = ("policy", "value") if critic else ("policy",)
    params = {name: {"w": jnp.zeros(2)} for name in names}
    grads = {name: {"w": jnp.array([3.0, 4.0])} for name in names}

    def rated(updates: int) -> list[float]:
        """What an optimizer over so many updates moves w[0] by at each of the first nine, six of them warm-up."""
        actor_critic = make_actor_critic_optimizer(config.optimizer, updates, value_learning_rate=5e-4)
        return moved(actor_critic if critic else make_optimizer(config.optimizer, updates), params, grads)

    found = moved(make_rl_optimizer(config, 5, critic=critic), params, grads)
    assert config.value_learning_rate == 5e-4 and found == rated(30) != rated(31)


def moved(optimizer: Any, params: Any, grads: Any) -> list[float]:
    state, found = optimizer.init(params), []
    with jax.numpy_dtype_promotion("standard"):
        for _ in range(9):
            updates, state = optimizer.update(grads, state, params)
            found += [float(part["w"][0]) for part in updates.values()]
    return found


def test_other_top_level_keys_are_refused() -> None:
    optimizer = make_actor_critic_optimizer(OptimizerConfig(), 10, value_learning_rate=1e-3)
    with pytest.raises(UserError, match=r"needs params with keys policy and value, found \['head', 'trunk'\]"):
        optimizer.init({"trunk": jnp.zeros(1), "head": jnp.zeros(1)})


def test_a_rate_of_nothing_is_refused() -> None:
    with pytest.raises(UserError, match="a learning rate of 0 gets its number from recipes/choices.py"):
        make_optimizer(OptimizerConfig(learning_rate=0.0), 10)
