"""What waits on the host while others work, and comes back as it was."""

from types import SimpleNamespace
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from jax.sharding import NamedSharding, PartitionSpec

from pit_jax.errors import UserError
from pit_jax.rl.offload import HOST, Offload
from pit_jax.rl.roles import Roles
from pit_jax.training.state import Partition, create_state


@pytest.fixture(scope="module")
def mesh(make_mesh: Any) -> Any:
    return make_mesh(2, 2, 2)


def placed(mesh: Any, value: float) -> jax.Array:
    return jax.device_put(jnp.full(8, value), NamedSharding(mesh, PartitionSpec("fsdp")))


def kinds(tree: Any) -> set[str]:
    return {x.sharding.memory_kind for x in jax.tree.leaves(tree)}


def test_the_optimizer_waits_during_rollouts(mesh: Any) -> None:
    state = create_state({"w": placed(mesh, 1.0)}, optax.adam(0.1), seed=0, extras={})
    session: Any = SimpleNamespace(state=state)
    with Offload.of("optimizer", mesh).during_rollout(session):
        assert kinds(session.state.opt_state) == {HOST} and kinds(session.state.params) == {"device"}
    for found, before in zip(jax.tree.leaves(session.state.opt_state), jax.tree.leaves(state.opt_state), strict=True):
        np.testing.assert_array_equal(found, before)
        assert found.sharding == before.sharding
    with Offload.of("frozen", mesh).during_rollout(session):
        assert kinds(session.state.opt_state) == {"device"}


def test_frozen_models_wait_during_updates_but_not_what_is_trained_over(mesh: Any) -> None:
    """A backbone under adapters is needed; scorer and anchor share another array, which is moved once."""
    backbone, shared, head = (placed(mesh, value) for value in (1.0, 2.0, 3.0))
    frozen = {"anchor": {"b": backbone, "x": shared}, "scorer": {"b": backbone, "x": shared, "h": head}}
    roles = Roles(Partition({"a": head}, {"b": backbone}), None, frozen, {})
    with Offload.of("both", mesh).during_updates(roles):
        anchor, scorer = roles.frozen["anchor"], roles.frozen["scorer"]
        assert anchor["b"] is scorer["b"] is backbone and anchor["x"] is scorer["x"]
        assert kinds((scorer["x"], scorer["h"])) == {HOST}
    assert kinds(roles.frozen) == {"device"} and roles.frozen["anchor"]["x"] is roles.frozen["scorer"]["x"]
    np.testing.assert_array_equal(roles.frozen["scorer"]["h"], np.full(8, 3.0))
    before = dict(roles.frozen)
    with Offload.of("optimizer", mesh).during_updates(roles):
        assert all(roles.frozen[name] is before[name] for name in before)


def test_devices_that_cannot_are_named() -> None:
    device = SimpleNamespace(addressable_memories=lambda: [SimpleNamespace(kind="device")])
    without: Any = SimpleNamespace(devices=np.array([device]))
    assert Offload.of("none", without) == Offload(optimizer=False, frozen=False)
    with pytest.raises(UserError, match=r"--rl.offload=both: .* the memories device and no pinned_host"):
        Offload.of("both", without)
