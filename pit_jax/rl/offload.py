"""What of RL waits in the host's memory while others work: rl.offload."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any

import jax
from jax.sharding import Mesh

from pit_jax.errors import UserError
from pit_jax.rl.roles import Roles
from pit_jax.training.session import Session
from pit_jax.training.sharing import distinct

HOST = "pinned_host"


@dataclass(frozen=True)
class Offload:
    """Moves between the devices' memory and their hosts'; no number changes on the way."""

    optimizer: bool
    frozen: bool

    @staticmethod
    def of(asked: str, mesh: Mesh) -> "Offload":
        """What a value of rl.offload means. UserError for devices that cannot address pinned memory of their host."""
        kinds = {memory.kind for memory in mesh.devices.flat[0].addressable_memories()}
        if asked != "none" and HOST not in kinds:
            raise UserError(
                f"--rl.offload={asked}: these devices have the memories {', '.join(sorted(kinds))} and no {HOST}; "
                "use --rl.offload=none"
            )
        return Offload(asked in ("optimizer", "both"), asked in ("frozen", "both"))

    @contextmanager
    def during_rollout(self, session: Session) -> Iterator[None]:
        """The optimizer's state waits on the host. The session's state must not be saved or updated meanwhile."""
        if not self.optimizer:
            yield
            return
        usual = jax.tree.map(lambda x: x.sharding, session.state.opt_state)
        session.state = replace(session.state, opt_state=_moved(session.state.opt_state, HOST))
        yield
        session.state = replace(session.state, opt_state=jax.device_put(session.state.opt_state, usual))

    @contextmanager
    def during_updates(self, roles: Roles) -> Iterator[None]:
        """Frozen models wait on the host, but for the weights under what is trained."""
        if not self.frozen:
            yield
            return
        _replace(roles, HOST)
        yield
        _replace(roles, "device")


def _replace(roles: Roles, kind: str) -> None:
    """Put the frozen models and samplers of `roles` into a memory, an array of several models once."""
    staying = {id(x) for x in jax.tree.leaves(roles.under)}
    arrays, places = distinct((roles.frozen, roles.samplers))
    frozen, samplers = places.fill([x if id(x) in staying else _moved(x, kind) for x in arrays])
    roles.frozen.update(frozen)
    roles.samplers.update(samplers)


def _moved(tree: Any, kind: str) -> Any:
    return jax.device_put(tree, jax.tree.map(lambda x: x.sharding.with_memory_kind(kind), tree))
