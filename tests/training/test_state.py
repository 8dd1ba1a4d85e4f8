"""training/state.py: what a state holds, where its leaves live, who owns its buffers."""

from types import ModuleType
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from jax.sharding import NamedSharding, PartitionSpec

from pit_jax.config import OptimizerConfig
from pit_jax.parallel.mesh import mesh_of
from pit_jax.training.optimizer import make_actor_critic_optimizer
from pit_jax.training.state import Partition, abstract_state, create_state, plan_state, state_sharding
from tests.trees import structure

SPLIT = PartitionSpec(None, "fsdp", "tensor")


def test_a_fresh_state(toy: ModuleType) -> None:
    state = create_state(toy.toy_params(), optax.adam(1e-3), seed=5, extras={"kl_coef": jnp.float32(0.2)})
    assert int(state.step) == 0 and int(state.round) == 0
    assert state.step.dtype == state.round.dtype == jnp.int32
    assert jnp.array_equal(jax.random.key_data(state.key), jax.random.key_data(jax.random.key(5)))
    assert float(state.extras["kl_coef"]) == pytest.approx(0.2)


def test_moments_live_where_their_parameters_live(toy: ModuleType) -> None:
    """After initialisation too: zero moments are not gathered on one device."""
    state, sharding, _ = toy.toy_start(mesh_of(2, 2, 2))
    moments = state.opt_state[1][0]
    for kernel in (state.params["blocks"]["kernel"], moments.mu["blocks"]["kernel"], moments.nu["blocks"]["kernel"]):
        assert kernel.sharding.spec == SPLIT
        assert {shard.data.shape for shard in kernel.addressable_shards} == {(2, 4, 4)}
    assert moments.count.sharding.spec == PartitionSpec()
    assert structure(sharding) == structure(state)
    assert all(len(leaf.sharding.device_set) == 8 for leaf in jax.tree.leaves(state))


def test_moments_are_found_below_a_partition(toy: ModuleType) -> None:
    """Two networks with equal inner names: each moment follows its own network's sharding."""
    mesh = mesh_of(2, 2, 2)
    replicated = NamedSharding(mesh, PartitionSpec())
    params = {"policy": toy.toy_params(), "value": toy.toy_params()}
    places = {"policy": toy.toy_sharding(mesh), "value": jax.tree.map(lambda _: replicated, toy.toy_params())}
    optimizer = make_actor_critic_optimizer(OptimizerConfig(), 10, value_learning_rate=1e-2)
    abstract = jax.eval_shape(lambda p: create_state(p, optimizer, seed=0, extras={}), params)
    sharding = state_sharding(abstract, places, replicated)
    assert structure(sharding) == structure(abstract)
    for path, place in jax.tree_util.tree_leaves_with_path(sharding.opt_state):
        name = jax.tree_util.keystr(path, simple=True, separator="/")
        split = name.endswith("policy/blocks/kernel")
        assert place.spec == (SPLIT if split else PartitionSpec()), name
    assert sum(place.spec == SPLIT for place in jax.tree.leaves(sharding.opt_state)) == 2


def test_beginning_copies_the_parameters(toy: ModuleType) -> None:
    """A step donates its state; the parameters it was made from stay readable, and so do the extras."""
    mesh = mesh_of(1, 1, 1)
    replicated = NamedSharding(mesh, PartitionSpec())
    params = jax.device_put(toy.toy_params(), toy.toy_sharding(mesh))
    extras = {"anchor": jax.device_put(jnp.ones(3), replicated)}
    state = plan_state(params, optax.sgd(0.1), replicated, seed=0, extras=extras).begin(params, extras)
    jax.jit(lambda s: jax.tree.map(lambda x: x, s), donate_argnums=0)((state.params, state.extras))
    np.testing.assert_array_equal(params["head"]["kernel"], toy.toy_params()["head"]["kernel"])
    np.testing.assert_array_equal(extras["anchor"], np.ones(3))


def test_a_plan_is_the_state_that_it_begins(toy: ModuleType) -> None:
    """Made from shapes alone: what a checkpoint must fit is known before anything is computed."""
    plan, params, _ = toy.toy_plan(mesh_of(2, 2, 2))
    shapes = jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=x.sharding), params)
    replicated = plan.sharding.step
    planned = plan_state(shapes, plan.optimizer, replicated, seed=3, extras=toy.EXTRAS)
    state = plan.begin(params, toy.EXTRAS)
    assert planned == plan and structure(planned.abstract) == structure(state)
    for abstract, leaf, place in zip(*map(jax.tree.leaves, (planned.abstract, state, plan.sharding)), strict=True):
        assert (abstract.shape, abstract.dtype) == (leaf.shape, leaf.dtype)
        assert abstract.sharding == place and leaf.sharding.is_equivalent_to(place, leaf.ndim)
    extras = jax.tree.map(jnp.asarray, toy.EXTRAS)
    toy.assert_same_bits(state, create_state(params, plan.optimizer, seed=3, extras=extras))


def test_a_partition_puts_the_trained_part_in_its_place() -> None:
    """Nested dicts, joined leaf by leaf; nothing is copied, and without a frozen part nothing is joined."""
    frozen: dict[str, Any] = {"trunk": {"blocks": {"ffn": jnp.ones(2)}, "embedding": jnp.ones(3)}}
    begun, moved = ({"trunk": {"blocks": {"adapter": x}}, "head": x} for x in (jnp.zeros(1), jnp.ones(1)))
    whole = Partition(begun, frozen).combine(moved)
    assert whole["trunk"]["blocks"]["adapter"] is whole["head"] is moved["head"]
    assert whole["trunk"]["blocks"]["ffn"] is frozen["trunk"]["blocks"]["ffn"]
    assert whole["trunk"].keys() == {"blocks", "embedding"} and whole.keys() == {"trunk", "head"}
    assert Partition(begun).combine(moved) is moved


def test_the_abstract_state_keeps_shapes_and_places(toy: ModuleType) -> None:
    state, sharding, _ = toy.toy_start(mesh_of(2, 2, 2))
    leaves = zip(jax.tree.leaves(abstract_state(state, sharding)), jax.tree.leaves(state), strict=True)
    assert all(a.shape == x.shape and a.dtype == x.dtype and a.sharding == x.sharding for a, x in leaves)


def test_parameters_without_a_sharding_are_our_mistake(toy: ModuleType) -> None:
    mesh = mesh_of(1, 1, 1)
    state = create_state(toy.toy_params(), optax.sgd(0.1), seed=0, extras={})
    with pytest.raises(AssertionError, match="params and their shardings differ"):
        state_sharding(state, {"head": toy.toy_sharding(mesh)["head"]}, NamedSharding(mesh, PartitionSpec()))
