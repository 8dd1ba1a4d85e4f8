"""Pairs read by three models in one pass each: against the functions that read one model, and the plain logits."""

from dataclasses import replace
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from pit_jax.batch import SpaBatch
from pit_jax.model.networks import LanguageModel
from pit_jax.model.rows import Sequences
from pit_jax.model.scoring import pair_logprobs, pair_rows
from pit_jax.parallel.sharding import batch_sharding, param_sharding, put
from pit_jax.recipes.spa.objective import parted
from pit_jax.recipes.spa.reading import pieces_of, read_pairs
from tests.world import World

STRENGTH = 0.5


@pytest.fixture(scope="module")
def read(world: World, both: Any, batch: SpaBatch) -> Any:
    """What the three models say on one device, all logits at once: (chosen_B, rejected_B) each."""
    return jax.jit(partial(read_pairs, world.language, strength=STRENGTH))(*parted(both), batch)


def assert_same(found: Any, expected: Any) -> None:
    for x_B, wanted_B in zip(jax.tree.leaves(found), jax.tree.leaves(expected), strict=True):
        np.testing.assert_allclose(x_B, wanted_B, rtol=1e-5, atol=1e-4)


def plainly_beyond(model: LanguageModel, both: Any, batch: SpaBatch, strength: float) -> list[np.ndarray]:
    """Of chosen and rejected rows: the log-probs of all logits at once, in float64, one row after the other."""
    tokens_BL, segments_BL, mask_BL = (np.asarray(x) for x in pair_rows(batch))
    rows = Sequences.alone(jnp.asarray(segments_BL))
    policy_BLV, anchor_BLV = (
        np.asarray(model.logits(params, model.hidden(params, jnp.asarray(tokens_BL), rows)), np.float64)
        for params in parted(both)
    )
    sums = []
    for b, tokens_L in enumerate(tokens_BL):
        total = 0.0
        for place in np.flatnonzero(mask_BL[b]):
            logits_V = (1 + strength) * policy_BLV[b, place - 1] - strength * anchor_BLV[b, place - 1]
            total += logits_V[tokens_L[place]] - np.log(np.sum(np.exp(logits_V)))
        sums.append(total)
    return np.split(np.array(sums), 2)


def test_policy_and_anchor_are_read_as_by_themselves(world: World, both: Any, batch: SpaBatch, read: Any) -> None:
    """To the last bit where the logits fit: the policy's sums are those that a DPO stage would train."""
    policy, anchor = (jax.jit(partial(pair_logprobs, world.language))(part, batch) for part in parted(both))
    assert_same(read[:2], (policy, anchor))
    assert float(jnp.abs(policy[0] - anchor[0]).min()) > 0.1, "two models"


@pytest.mark.parametrize("caps", [{}, {"logit_softcap": 2.0, "logit_divisor": 1.5}], ids=["plain", "capped"])
def test_the_model_beyond_is_that_of_the_mixed_logits(world: World, both: Any, batch: SpaBatch, caps: Any) -> None:
    """Those that the models give, behind a softcap and a divisor where there are some."""
    model = LanguageModel(replace(world.config, **caps), world.vocab)
    with jax.numpy_rank_promotion("allow"):
        expected = plainly_beyond(model, both, batch, STRENGTH)
    assert_same(read_pairs(model, *parted(both), batch, strength=STRENGTH)[2], expected)


def test_no_strength_is_the_policy_itself(world: World, both: Any, batch: SpaBatch) -> None:
    policy, _, beyond = read_pairs(world.language, *parted(both), batch, strength=0.0)
    assert_same(beyond, policy)


@pytest.mark.parametrize("limit", [1, 2 * 16 * 40 * 4 * 3])
def test_pieces_change_nothing(world: World, both: Any, batch: SpaBatch, read: Any, limit: int) -> None:
    """A slot at a time, and two, which the slots of a row are no multiple of."""
    model = LanguageModel(replace(world.config, logits_bytes=limit), world.vocab)
    slots = batch.chosen_BL.shape[1] - 1
    hidden_BTD = jnp.zeros((16, slots, world.config.width))
    assert pieces_of(model, parted(both)[0], hidden_BTD) == (slots if limit == 1 else -(-slots // 2))
    assert_same(jax.jit(partial(read_pairs, model, strength=STRENGTH))(*parted(both), batch), read)


@pytest.mark.parametrize("limit", [1, 2**30], ids=["in pieces", "at once"])
def test_a_mesh_reads_what_one_device_reads(
    world: World, both: Any, batch: SpaBatch, read: Any, make_mesh: Any, limit: int
) -> None:
    model, mesh = LanguageModel(replace(world.config, logits_bytes=limit), world.vocab), make_mesh(2, 2, 2)
    with jax.set_mesh(mesh):
        parts = [jax.device_put(part, param_sharding(part, mesh)) for part in parted(both)]
        program = jax.jit(partial(read_pairs, model, strength=STRENGTH))
        assert_same(jax.device_get(program(*parts, put(batch, batch_sharding(mesh)))), read)


def test_gradients_flow_into_the_policy_alone(world: World, both: Any, batch: SpaBatch) -> None:
    """Of the sums of the policy as `pair_logprobs` has them; of anchor and model beyond there are none."""

    def total(which: int, params: Any, anchor: Any) -> jax.Array:
        chosen_B, rejected_B = read_pairs(world.language, params, anchor, batch, strength=STRENGTH)[which]
        return jnp.sum(chosen_B - 2 * rejected_B)

    def plain(params: Any) -> jax.Array:
        chosen_B, rejected_B = pair_logprobs(world.language, params, batch)
        return jnp.sum(chosen_B - 2 * rejected_B)

    policy, anchor = parted(both)
    expected = jax.jit(jax.grad(plain))(policy)
    found, of_anchor = jax.jit(jax.grad(partial(total, 0), argnums=(0, 1)))(policy, anchor)
    for x, wanted in zip(jax.tree.leaves(found), jax.tree.leaves(expected), strict=True):
        np.testing.assert_allclose(x, wanted, rtol=1e-4, atol=1e-4 * float(jnp.abs(wanted).max()))
    others = jax.jit(jax.grad(lambda p, a: total(1, p, a) + total(2, p, a), argnums=(0, 1)))(policy, anchor)
    assert not any(np.any(x) for x in jax.tree.leaves((of_anchor, others)))
