"""The minibatches of a round: every rollout once in every pass, in an order that the seed, round and pass decide."""

from dataclasses import fields
from typing import Any

import jax
import numpy as np
import pytest

from pit_jax.batch import Experience
from pit_jax.config import RlConfig
from pit_jax.parallel.sharding import batch_sharding, put
from pit_jax.rl.trainer import Trainer
from tests.world import World

ROWS, EPOCHS, MINIBATCHES = 8, 3, 2


@pytest.fixture(scope="module")
def experience(world: World, make_mesh: Any) -> Experience:
    found: Experience = put(world.experience(ROWS), batch_sharding(make_mesh(2, 2, 2)))
    return found


@pytest.fixture(scope="module")
def trainer_of(make_mesh: Any) -> Any:
    """trainer_of(seed) -> a trainer that can cut rollouts and nothing else."""

    def make(seed: int) -> Trainer:
        config = RlConfig(batch_size=ROWS, epochs=EPOCHS, minibatches=MINIBATCHES)
        known: dict[str, Any] = {"config": config, "mesh": make_mesh(2, 2, 2), "seed": seed}
        settings: dict[str, Any] = {f.name: known.get(f.name) for f in fields(Trainer)}
        return Trainer(**settings)

    return make


def rows(trainer: Trainer, experience: Experience, round: int) -> list[list[float]]:
    """The scores of every minibatch, which tell its rows."""
    return [np.asarray(batch.scores_B).tolist() for batch in trainer.minibatches(experience, round)]


def test_every_pass_meets_every_rollout_once(trainer_of: Any, experience: Experience) -> None:
    found = rows(trainer_of(0), experience, 0)
    assert [len(scores) for scores in found] == [ROWS // MINIBATCHES] * MINIBATCHES * EPOCHS
    passes = [found[i * MINIBATCHES : (i + 1) * MINIBATCHES] for i in range(EPOCHS)]
    everything = sorted(np.asarray(experience.scores_B).tolist())
    assert all(sorted(sum(batches, [])) == everything for batches in passes)
    assert passes[0] != passes[1] != passes[2]


def test_the_order_is_that_of_seed_and_round(trainer_of: Any, experience: Experience) -> None:
    again = rows(trainer_of(0), experience, 1)
    assert again == rows(trainer_of(0), experience, 1)
    assert again != rows(trainer_of(0), experience, 0) and again != rows(trainer_of(1), experience, 1)


def test_a_minibatch_is_made_of_whole_rows_and_lies_over_the_mesh(trainer_of: Any, experience: Experience) -> None:
    """What an algorithm has not is missing there too."""
    host = jax.device_get(experience)
    for batch in trainer_of(0).minibatches(experience, 0):
        places = [int(np.flatnonzero(host.scores_B == score)[0]) for score in np.asarray(batch.scores_B)]
        for found, whole in zip(jax.tree.leaves(batch), jax.tree.leaves(host), strict=True):
            np.testing.assert_array_equal(found, whole[places])
        assert batch.anchor_logprobs_BT is None and len(batch.tokens_BL.sharding.device_set) == 8
