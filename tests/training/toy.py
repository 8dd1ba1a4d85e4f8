"""A toy regression with every feature of a real run: masks, stacked blocks, a head, noise from the key, several means.

Also a program: `python toy.py FOLDER ROUNDS KILL_AT KILL_ROUND` trains in FOLDER, resuming what is there, and kills
itself (SIGKILL) in that round: just after its save was begun (KILL_AT save), between its two updates (update), or
behind them (end).
"""

import dataclasses
import os
import signal
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from pit_jax.config import OptimizerConfig
from pit_jax.masked import Mean, masked_mean
from pit_jax.parallel.mesh import mesh_of
from pit_jax.training.checkpoint import Checkpoints
from pit_jax.training.optimizer import make_optimizer
from pit_jax.training.session import Session
from pit_jax.training.state import StatePlan, TrainState, plan_state
from pit_jax.training.step import Metrics, Step, compile_step, make_train_step

WIDTH, LENGTH, BATCH = 8, 5, 16
CONFIG = OptimizerConfig(learning_rate=1e-2, weight_decay=0.1)


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class ToyBatch:
    inputs_BTD: Any
    targets_BT: Any
    mask_BT: Any  # rows of very different length: unweighted means over micro-batches would be wrong


def toy_batch(index: int, size: int = BATCH) -> ToyBatch:
    rng = np.random.default_rng(index)
    lengths_B = rng.integers(0, LENGTH + 1, size)
    lengths_B[0] = LENGTH
    return ToyBatch(
        rng.normal(size=(size, LENGTH, WIDTH)).astype(np.float32),
        rng.normal(size=(size, LENGTH)).astype(np.float32),
        np.arange(LENGTH)[None] < lengths_B[:, None],
    )


def toy_params() -> dict[str, Any]:
    rng = np.random.default_rng(7)
    kernel_UDD = rng.normal(size=(2, WIDTH, WIDTH)).astype(np.float32) * 0.3
    return {
        "blocks": {"kernel": jnp.asarray(kernel_UDD), "scale": jnp.ones((2, WIDTH), jnp.float32)},
        "head": {"kernel": jnp.asarray(rng.normal(size=WIDTH), jnp.float32), "bias": jnp.zeros((), jnp.float32)},
    }


def toy_loss(params: Any, batch: ToyBatch, key: jax.Array) -> tuple[jax.Array, Metrics]:
    hidden_BTD = batch.inputs_BTD
    for layer in range(2):
        scale_D = params["blocks"]["scale"][layer]
        hidden_BTD = jnp.tanh(hidden_BTD @ params["blocks"]["kernel"][layer]) * scale_D[None, None, :]
    error_BT = hidden_BTD @ params["head"]["kernel"] + params["head"]["bias"] - batch.targets_BT
    square_BT = jnp.square(error_BT)
    metrics = {"loss": Mean.of(square_BT, batch.mask_BT), "right": Mean.of(jnp.abs(error_BT) < 1, batch.mask_BT)}
    return masked_mean(square_BT, batch.mask_BT), metrics


def noisy_loss(params: Any, batch: ToyBatch, key: jax.Array) -> tuple[jax.Array, Metrics]:
    """Depends on the step's key, so that resuming with the wrong key shows."""
    noise_BT = 0.1 * jax.random.normal(key, batch.targets_BT.shape, jnp.float32)
    return toy_loss(params, ToyBatch(batch.inputs_BTD, batch.targets_BT + noise_BT, batch.mask_BT), key)


def toy_sharding(mesh: Mesh) -> dict[str, Any]:
    whole = NamedSharding(mesh, PartitionSpec())
    return {
        "blocks": {"kernel": NamedSharding(mesh, PartitionSpec(None, "fsdp", "tensor")), "scale": whole},
        "head": {"kernel": whole, "bias": whole},
    }


EXTRAS = {"kl_coef": np.float32(0.5)}


def toy_plan(mesh: Mesh, *, accumulate: int = 1, num_steps: int = 10) -> tuple[StatePlan, Any, Step]:
    """The plan of a state on `mesh`, the parameters that it begins with, and the compiled step."""
    optimizer = make_optimizer(CONFIG, num_steps)
    replicated, spread = NamedSharding(mesh, PartitionSpec()), NamedSharding(mesh, PartitionSpec(("data", "fsdp")))
    params = jax.device_put(toy_params(), toy_sharding(mesh))
    plan = plan_state(params, optimizer, replicated, seed=3, extras=EXTRAS)
    step = make_train_step(noisy_loss, optimizer, accumulate=accumulate)
    return plan, params, compile_step(step, state_sharding=plan.sharding, batch_sharding=spread)


def toy_start(mesh: Mesh, *, accumulate: int = 1, num_steps: int = 10) -> tuple[TrainState, TrainState, Step]:
    """A fresh state on `mesh`, its shardings, and the compiled step."""
    plan, params, step = toy_plan(mesh, accumulate=accumulate, num_steps=num_steps)
    return plan.begin(params, EXTRAS), plan.sharding, step


def toy_run(folder: Path, num_rounds: int, kill: tuple[str, int] | None = None) -> TrainState:
    """Train, resuming from `folder`: two updates a round, saved every second round, extras that move.

    With `kill`, die there.
    """
    plan, params, step = toy_plan(mesh_of(2, 2, 2))

    def maybe_die(*place: Any) -> None:
        if place == kill:
            os.kill(os.getpid(), signal.SIGKILL)

    session = Session(
        folder,
        plan.abstract,
        lambda: plan.begin(params, EXTRAS),
        rounds=num_rounds,
        keep=2,
        log_every=3,
        show=lambda row: None,
        say=print,
    )
    with session:
        for done in session.rounds():
            if done % 2 == 0 or done == session.last:
                session.evaluated(done, {"norm": float(jnp.sum(session.state.params["head"]["kernel"]))}, score=None)
                maybe_die("save", done)
            if done == session.last:
                break
            for index in (2 * done, 2 * done + 1):
                session.update(step, toy_batch(index))
                maybe_die("update", done)
            grown = session.state.extras["kl_coef"] * 1.5
            session.end_round(done, metrics={"kl_coef": Mean(grown, jnp.float32(1))}, extras={"kl_coef": grown})
            maybe_die("end", done)
    return session.state


def assert_same_bits(a: Any, b: Any) -> None:
    shape: Any = jax.tree.structure(a)
    assert shape == jax.tree.structure(b)
    for x, y in zip(jax.tree.leaves(a), jax.tree.leaves(b), strict=True):
        is_key = jnp.issubdtype(x.dtype, jax.dtypes.prng_key)
        found, expected = (np.asarray(jax.random.key_data(z) if is_key else z) for z in (x, y))
        np.testing.assert_array_equal(found, expected)


def shifted(state: TrainState, by: float) -> TrainState:
    """The state with parameters moved, to tell rounds apart."""
    return dataclasses.replace(state, params=jax.tree.map(lambda x: x + by, state.params))


def saved(folder: Path, state: TrainState, rounds: int, keep: int = 3) -> None:
    with Checkpoints(folder, keep=keep) as checkpoints:
        for round in range(1, rounds + 1):
            checkpoints.save(round, shifted(state, round), score=None)


if __name__ == "__main__":
    toy_run(Path(sys.argv[1]), int(sys.argv[2]), (sys.argv[3], int(sys.argv[4])))
