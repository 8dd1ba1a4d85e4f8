"""The one loop of all stages."""

import dataclasses
from collections.abc import Callable, Iterator
from typing import Any

import jax
import numpy as np

from pit_jax.training.state import TrainState
from pit_jax.training.step import Metrics, Step


def run(
    state: TrainState,
    step: Step,
    supply: Callable[[TrainState], Iterator[Any]],
    *,
    evaluate: Callable[[TrainState, int], dict[str, float] | None],
    save: Callable[[TrainState, int, dict[str, float] | None], None],
    log: Callable[[int, Metrics], None],
    num_rounds: int,
    stop_round: Callable[[Metrics], bool] | None = None,
    finish_round: Callable[[TrainState, Metrics], tuple[TrainState, Metrics]] | None = None,
    stop: Callable[[], bool] | None = None,
) -> TrainState:
    """Train from round `state.round` until `num_rounds` rounds are finished; returns the last state.

    The order of a round makes resuming exact: evaluate the old state, save it, *then* draw batches. A run killed
    anywhere starts again from a saved state that no batch of the coming round has touched.

      evaluate(state, r)       held-out metrics of the state after r rounds, or None where it does not evaluate
      save(state, r, scores)   may save; gets what evaluate returned
      stop()                   after a save: True ends the run here, before `num_rounds`
      supply(state)            yields the batches of one round: SFT and RM one, RL its minibatches after a rollout.
                               Depends on `state` only, and reads it before its first yield: the first step
                               donates it (params, round and extras alike)
      stop_round(metrics)      after an update: True drops the rest of the round's batches
      finish_round(state, m)   after a round's updates: may replace extras (KL coefficient, data position) and add
                               metrics; m is the sum over the round's updates
      log(r, m)                metrics of the round that made r rounds finished; raises when they are not finite

    After the last round the state is evaluated and saved once more. ValueError when `supply` yields nothing.
    """
    start = int(state.round)
    for round in range(start, num_rounds + 1):
        save(state, round, evaluate(state, round))
        if round == num_rounds or (stop is not None and stop()):
            break
        totals: Metrics | None = None
        for batch in supply(state):
            state, metrics = step(state, batch)
            _pace(state)
            totals = metrics if totals is None else {name: totals[name] + metrics[name] for name in metrics}
            if stop_round is not None and stop_round(metrics):
                break
        if totals is None:
            raise ValueError(f"no batch for round {round}: the data supply is empty; check the data and the batch size")
        if finish_round is not None:
            places = jax.tree.map(lambda x: x.sharding, state.extras)
            state, totals = finish_round(state, totals)
            assert state.extras.keys() == places.keys(), f"extras changed keys: {state.extras.keys() ^ places.keys()}"
            state = dataclasses.replace(state, extras=jax.device_put(state.extras, places))
        # Set from the host, where it is known, so that reading it never waits for the device.
        finished = jax.device_put(np.int32(round + 1), state.round.sharding)
        state = dataclasses.replace(state, round=finished)
        log(round + 1, totals)
    return state


def _pace(state: TrainState) -> None:
    """Several CPU processes with several devices each deadlock when steps queue up (jax < 0.12): wait for each."""
    if jax.process_count() > 1 and jax.default_backend() == "cpu":
        jax.block_until_ready(state.step)
