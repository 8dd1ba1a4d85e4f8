"""DPO: the anchor is asked once, and one step prefers the chosen answers more."""

from dataclasses import replace
from typing import Any

import jax
import numpy as np
import pytest

from pit_jax.batch import DpoBatch
from pit_jax.config import Config, DpoConfig
from pit_jax.model.scoring import pair_logprobs
from pit_jax.recipes.dpo import make_loss, with_anchor
from pit_jax.run.provenance import StageId
from tests.world import MakeContext, World

DPO = StageId("dpo", "policy")


def test_before_training_the_loss_is_ln_2_and_a_step_prefers_the_chosen(
    world: World, context: MakeContext, make_mesh: Any
) -> None:
    """Six pairs, asked four at a time."""
    config = replace(Config(), improve=replace(Config().improve, batch_size=4))
    tiny, examples, params = context(config, make_mesh(1, 1, 1), DPO), world.examples(6), world.draw(world.language, 0)
    with jax.set_mesh(tiny.mesh):
        rows = with_anchor(tiny, params, world.arrays("reward", examples))
    arrays: dict[str, Any] = dict(rows.batch(np.arange(6)))
    batch = DpoBatch(**arrays)
    chosen_B, rejected_B = pair_logprobs(world.language, params, world.batch("reward", examples))
    np.testing.assert_allclose(arrays["anchor_chosen_B"], chosen_B, rtol=1e-5)
    np.testing.assert_allclose(arrays["anchor_rejected_B"], rejected_B, rtol=1e-5)
    loss = make_loss(world.language, DpoConfig())
    gradient = jax.jit(jax.value_and_grad(lambda p: loss(p, batch, jax.random.key(0)), has_aux=True))
    (before, metrics), direction = gradient(params)
    assert float(before) == pytest.approx(np.log(2), abs=1e-5)
    assert metrics["rewards/margins"].value == pytest.approx(0.0, abs=1e-5)
    (after, metrics), _ = gradient(jax.tree.map(lambda p, g: p - 1e-2 * g, params, direction))
    assert float(after) < float(before) and metrics["rewards/margins"].value > 0
