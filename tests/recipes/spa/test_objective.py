"""The loss of SPA's phases: which labels it takes for noise, by which margins, and what it leaves alone."""

from dataclasses import replace
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from pit_jax.batch import SpaBatch
from pit_jax.config import Config
from pit_jax.masked import Mean
from pit_jax.model.scoring import pair_logprobs
from pit_jax.objectives.dpo import dpo_loss
from pit_jax.objectives.spa import refined_dpo_loss
from pit_jax.parallel.sharding import batch_sharding, param_sharding, put, replicated
from pit_jax.recipes.spa.objective import ANCHOR, make_loss, parted
from pit_jax.recipes.spa.reading import read_pairs
from pit_jax.recipes.spa.schedule import Phase, phase_of
from pit_jax.training.state import plan_state
from pit_jax.training.step import compile_step, make_train_step
from tests.world import World

KEY, ROWS = jax.random.key(0), 8
SPA = replace(Config().spa, beta=0.3, alpha=0.2, window=4, noise_share=0.25, noise_after=0.0, batch_size=ROWS)
PHASE = phase_of(SPA, 1, 10 * ROWS)


def windowed(margins: Any, seen: int) -> dict[str, Any]:
    return {"window": {"margins_W": jnp.asarray(margins, jnp.float32), "seen": jnp.asarray(seen, jnp.int32)}}


@pytest.fixture(scope="module")
def compute(world: World, both: Any, batch: SpaBatch) -> Any:
    """compute(window, phase) -> (loss, metrics, margins_B)."""
    programs: dict[Phase, Any] = {}

    def run(window: dict[str, Any], phase: Phase = PHASE) -> tuple[float, dict[str, Mean], np.ndarray]:
        if phase not in programs:
            programs[phase] = jax.jit(make_loss(world.language, phase).loss)
        loss, metrics, margins_B = programs[phase](both, batch, KEY, window)
        return float(loss), metrics, np.asarray(margins_B)

    return run


@pytest.fixture(scope="module")
def margins_B(world: World, both: Any, batch: SpaBatch) -> np.ndarray:
    """beta times the log-ratios to the anchor, chosen less rejected, of the model beyond the policy."""
    _, anchor, beyond = read_pairs(world.language, *parted(both), batch, strength=PHASE.strength)
    return PHASE.beta * np.asarray((beyond[0] - anchor[0]) - (beyond[1] - anchor[1]))


def refined(world: World, both: Any, batch: SpaBatch, noisy_B: Any) -> float:
    policy, anchor = (pair_logprobs(world.language, part, batch) for part in parted(both))
    return float(refined_dpo_loss(*policy, *anchor, jnp.asarray(noisy_B, jnp.float32), beta=0.3, alpha=0.2)[0])


@pytest.mark.parametrize("flagged", [0, 3, 8])
def test_labels_below_the_threshold_of_earlier_margins_are_smoothed(
    world: World, both: Any, batch: SpaBatch, compute: Any, margins_B: np.ndarray, flagged: int
) -> None:
    """The threshold of 4 margins and a share of 1/4 lies between the lowest and the next: here at a place of our own.

    That of the batch itself would flag two of its rows, and a window of the policy's margins others.
    """
    sorted_B = np.sort(margins_B)
    ends = [sorted_B[0] - 2, *((sorted_B[:-1] + sorted_B[1:]) / 2), sorted_B[-1] + 2]
    window = [ends[flagged] + 1, ends[flagged] - 1, ends[flagged] + 7, ends[flagged] + 5]
    noisy_B = margins_B < ends[flagged]
    assert noisy_B.sum() == flagged
    loss, metrics, found_B = compute(windowed(window, 4))
    np.testing.assert_allclose(found_B, margins_B, rtol=1e-4, atol=1e-4)
    assert loss == pytest.approx(refined(world, both, batch, noisy_B), rel=1e-5)
    assert metrics["noisy"].value == flagged / ROWS
    assert metrics["wrong"].value == np.mean(batch.wrong_B)
    assert metrics["noisy/wrong"].value == np.mean(noisy_B & np.asarray(batch.wrong_B))


def test_no_label_is_smoothed_before_the_window_is_full_or_its_updates_have_come(compute: Any) -> None:
    """A window below which every pair lies. Two of ten updates pass first: 16 pairs."""
    late = replace(PHASE, noise_after=0.2)
    assert late.pairs_before_noise == 16
    met = [(3, PHASE), (4, PHASE), (8, late), (15, late), (16, late)]
    shares = [compute(windowed([1e6] * 4, seen), phase)[1]["noisy"].value for seen, phase in met]
    assert shares == [0.0, 1.0, 0.0, 0.0, 1.0]


def test_gold_labels_are_those_of_dpo(world: World, both: Any, batch: SpaBatch, compute: Any) -> None:
    """In the phase of the gold pairs, and of held-out pairs in any phase."""
    gold = phase_of(SPA, 0, 10 * ROWS)
    loss, metrics, _ = compute(windowed([1e6] * 4, 100), replace(gold, beta=PHASE.beta))
    held, shown = make_loss(world.language, PHASE).alone(both, batch, KEY)
    policy, anchor = (pair_logprobs(world.language, part, batch) for part in parted(both))
    expected, _ = dpo_loss(*policy, *anchor, beta=PHASE.beta)
    assert loss == pytest.approx(float(expected), rel=1e-5) and float(held) == pytest.approx(float(expected), rel=1e-6)
    assert metrics["noisy"].value == 0.0 and "noisy" not in shown


def test_the_gradient_is_that_of_the_refined_loss(world: World, both: Any, batch: SpaBatch) -> None:
    """Half of the pairs are smoothed; nothing flows through their margins, nor into the anchor."""
    policy, anchor = parted(both)
    loss = make_loss(world.language, PHASE).loss
    _, _, margins_B = loss(both, batch, KEY, windowed([0.0] * 4, 0))
    middle = float(jnp.median(margins_B))
    window, noisy_B = windowed([middle] * 4, 4), (margins_B < middle).astype(jnp.float32)
    assert noisy_B.sum() == ROWS / 2
    held = pair_logprobs(world.language, anchor, batch)

    def plain(params: Any) -> jax.Array:
        return refined_dpo_loss(
            *pair_logprobs(world.language, params, batch), *held, noisy_B, beta=PHASE.beta, alpha=PHASE.alpha
        )[0]

    found = jax.jit(jax.grad(lambda params: loss(params, batch, KEY, window)[0]))(both)
    expected = jax.jit(jax.grad(plain))(policy)
    assert not any(np.any(x) for x in jax.tree.leaves(found.pop(ANCHOR)))
    for x, wanted in zip(jax.tree.leaves(found), jax.tree.leaves(expected), strict=True):
        np.testing.assert_allclose(x, wanted, rtol=1e-4, atol=1e-5 * float(jnp.abs(wanted).max()))


def test_the_window_behind_an_update_holds_its_last_margins(world: World, compute: Any, margins_B: np.ndarray) -> None:
    remembering = make_loss(world.language, PHASE)
    assert int(remembering.extras["window"]["seen"]) == 0 and len(remembering.extras["window"]["margins_W"]) == 4
    after = remembering.remember({**remembering.extras, "other": 7}, jnp.asarray(margins_B))
    assert int(after["window"]["seen"]) == ROWS and after["other"] == 7
    np.testing.assert_array_equal(after["window"]["margins_W"], margins_B[-4:])


@pytest.mark.parametrize(("shape", "accumulate"), [((1, 1, 1), 2), ((2, 2, 2), 1), ((2, 2, 2), 2)])
def test_updates_do_not_depend_on_mesh_or_pieces(
    world: World, both: Any, batch: SpaBatch, make_mesh: Any, shape: Any, accumulate: int
) -> None:
    """Three updates on the same pairs: in the second, and in the third, some of the labels are smoothed."""
    loss, optimizer, found = make_loss(world.language, PHASE), optax.sgd(0.02), []
    for mesh, pieces in ((make_mesh(1, 1, 1), 1), (make_mesh(*shape), accumulate)):
        policy, anchor = (jax.device_put(part, param_sharding(part, mesh)) for part in parted(both))
        plan = plan_state(policy, optimizer, replicated(mesh), seed=0, extras=loss.extras)
        step = compile_step(
            make_train_step(loss, optimizer, accumulate=pieces),
            state_sharding=plan.sharding,
            batch_sharding=batch_sharding(mesh),
            frozen={ANCHOR: anchor},
        )
        with jax.set_mesh(mesh):
            state, shown = plan.begin(policy, loss.extras), []
            for _ in range(3):
                state, metrics = step(state, put(batch, batch_sharding(mesh)))
                shown.append([metrics[name].value for name in ("loss", "noisy", "noisy/wrong", "rewards/margins")])
        found.append((shown, jax.device_get(state.extras["window"]["margins_W"])))
    np.testing.assert_allclose(found[0][0], found[1][0], rtol=1e-4, atol=1e-4)
    np.testing.assert_allclose(found[0][1], found[1][1], rtol=1e-3, atol=1e-4)
    assert [0 < row[1] < 1 for row in found[0][0]] == [False, True, True]
