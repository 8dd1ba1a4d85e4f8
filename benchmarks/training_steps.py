"""Whole updates of SFT and of a reward model against torch and transformers, in turns, float32, the same threads.

    python -m benchmarks.training_steps [--shapes 1.8M 10M 40M] [--steps sft reward] [--times 9]

Rows are full: 8 of 256 tokens for SFT, 8 pairs of them for the reward model. An update is the loss, its gradient,
clipping by the global norm, and AdamW. Beside the ratio stands what the floor takes: the matrix products of the
update (pit_jax/model/flops.py) at the rate at which this machine multiplies two large matrices.
"""

import os
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from rich.console import Console

from benchmarks.peers import Peer, Turns, table_of
from benchmarks.results import keep
from benchmarks.shapes import SHAPES, VOCABULARY, limits, peak_flops, seconds, shape_of, shapes_parser
from pit_jax.batch import RewardBatch, SftBatch
from pit_jax.config import OptimizerConfig
from pit_jax.model.flops import Passes
from pit_jax.model.networks import LanguageModel, ScalarModel
from pit_jax.parallel.host_memory import keep_freed_memory
from pit_jax.recipes import reward, sft
from pit_jax.training.optimizer import make_optimizer
from pit_jax.training.state import create_state
from pit_jax.training.step import Loss, make_train_step

ROWS, LENGTH = 8, 256


def sft_work(name: str) -> tuple[Any, Loss, Any, float]:
    """(parameters, loss, batch, operations of an update)."""
    shape = shape_of(name)
    model = LanguageModel(shape, VOCABULARY)
    tokens_BL = jax.random.randint(jax.random.key(1), (ROWS, LENGTH), 5, VOCABULARY)
    places_BL = jnp.broadcast_to(jnp.arange(LENGTH, dtype=jnp.int32), tokens_BL.shape)
    ones_BL = jnp.ones_like(tokens_BL)
    batch = SftBatch(tokens_BL, tokens_BL, ones_BL > 0, places_BL, ones_BL)
    row = Passes(shape, VOCABULARY).read(LENGTH, logits=LENGTH)
    return model.init(jax.random.key(0)), sft.make_loss(model, slots=LENGTH), batch, ROWS * row.trained().flops


def reward_work(name: str) -> tuple[Any, Loss, Any, float]:
    """The same of pairs."""
    shape = shape_of(name)
    model = ScalarModel(shape, VOCABULARY)
    chosen_BL, rejected_BL = jax.random.randint(jax.random.key(1), (2, ROWS, LENGTH), 5, VOCABULARY)
    ones_BL = jnp.ones_like(chosen_BL)
    batch = RewardBatch(chosen_BL, rejected_BL, ones_BL, ones_BL, jnp.zeros(ROWS))
    row = Passes(shape, VOCABULARY).score(LENGTH)
    return model.init(jax.random.key(0)), reward.make_loss(model), batch, 2 * ROWS * row.trained().flops


WORK = {"sft": sft_work, "reward": reward_work}


def updates(params: Any, loss: Loss, batch: Any) -> Callable[[], float]:
    """Seconds of the next update, every time that it is called."""
    optimizer = make_optimizer(OptimizerConfig(learning_rate=1e-4), 1)
    step = jax.jit(make_train_step(loss, optimizer, accumulate=1), donate_argnums=0)
    state = create_state(params, optimizer, seed=0, extras={})

    def update() -> float:
        nonlocal state

        def work() -> Any:
            nonlocal state
            state, metrics = step(state, batch)
            return state.params, metrics

        return seconds(work)

    return update


def main() -> None:
    parser = shapes_parser(__doc__, list(SHAPES), 9, "updates")
    parser.add_argument("--steps", nargs="+", default=list(WORK), choices=list(WORK))
    given = parser.parse_args()
    keep_freed_memory()
    versions, peak, turned = {}, peak_flops(), {}
    for step in given.steps:
        for name in given.shapes:
            params, loss, batch, flops = WORK[step](name)
            rows = ROWS * (1 + (step == "reward"))
            job = {"work": step, "threads": os.cpu_count(), "vocabulary": VOCABULARY, "shape": SHAPES[name]}
            with Peer("torch_peer.py", {**job, "rows": rows, "length": LENGTH}) as peer:
                versions = peer.ready
                turns = Turns.of(updates(params, loss, batch), peer.seconds, given.times)
            turned[f"{step} {name}"] = turns.figures(tokens=rows * LENGTH, flops=flops, peak=peak)
    Console().print(table_of(f"updates in turns, n = {given.times}; peak {peak / 1e9:.0f} GFLOP/s", turned))
    keep(given.results, "training_steps", {**limits(peak), **versions, **turned})


if __name__ == "__main__":
    main()
