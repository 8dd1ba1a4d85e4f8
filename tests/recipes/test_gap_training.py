"""Controls of the gap model's training: it can learn, it follows its labels, and its gates refuse what is no gap model.

Answers are random words; the better one holds more good words, and one label in five is wrong. Every model starts
from the same weights and is trained by the same compiled step, on different rows.
"""

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import jax
import numpy as np
import pytest

from pit_jax.batch import GapBatch
from pit_jax.config import GatesConfig, OptimizerConfig
from pit_jax.data.features import Example
from pit_jax.data.stream import Stream
from pit_jax.evaluation.gap_quality import GapQuality, gates, measure
from pit_jax.model.scoring import tree_gaps
from pit_jax.parallel.sharding import batch_sharding, param_sharding, put, replicated
from pit_jax.recipes.gap import make_loss
from pit_jax.training.optimizer import make_optimizer
from pit_jax.training.state import plan_state
from pit_jax.training.step import compile_step, make_train_step

pytestmark = pytest.mark.slow  # six trainings; tests/evaluation/test_gap_quality.py holds the gates to known gaps

FIRST_GOOD, VOCABULARY, LONGEST = 23, 40, 7
WRONG_LABELS = 0.2
PAIRS, HELDOUT, STEPS, BATCH = 2048, 400, 150, 16


def worth(words: Sequence[int]) -> int:
    return sum(1 if word >= FIRST_GOOD else -1 for word in words)


def preferences(count: int, seed: int) -> list[Example]:
    """Pairs that differ in worth, the better one chosen as a rule; longer answers are neither better nor worse."""
    rng = np.random.default_rng(seed)
    found: list[Example] = []
    while len(found) < count:
        prompt, *answers = (rng.integers(6, VOCABULARY, rng.integers(1, LONGEST + 1)).tolist() for _ in range(3))
        rejected, chosen = sorted(answers, key=worth)
        if worth(chosen) > worth(rejected):
            found.append(Example(prompt, [3, *prompt[:6]], chosen, rejected))
    return swapped(found, rng.random(count) < WRONG_LABELS)


def swapped(examples: Sequence[Example], where_N: Sequence[bool] | np.ndarray) -> list[Example]:
    """Chosen and rejected trade places where asked."""
    return [
        replace(e, chosen=e.rejected, rejected=e.chosen) if swap else e
        for e, swap in zip(examples, where_N, strict=True)
    ]


def without_reference(rows: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Gap rows whose references are random words: nothing to learn from them."""
    tokens_BL, nodes_BL = rows["tokens_BL"].copy(), rows["nodes_BL"]
    words_BL = ((nodes_BL == 2) | (nodes_BL == 3)) & (tokens_BL >= 6)
    tokens_BL[words_BL] = np.random.default_rng(0).integers(6, VOCABULARY, words_BL.sum())
    return rows | {"tokens_BL": tokens_BL}


@pytest.fixture(scope="module")
def train(world: Any, make_mesh: Any) -> Callable[..., tuple[Any, list[float]]]:
    """train(rows, steps) -> the parameters after `steps` updates, and the loss of every update."""
    mesh = make_mesh(1, 1, 1)
    model = replace(world, config=replace(world.config, pooled_head=True)).scalar
    optimizer = make_optimizer(OptimizerConfig(learning_rate=1e-2, schedule="constant", weight_decay=0.0), STEPS)
    drawn = world.draw(model, 0)
    params = jax.device_put(drawn, param_sharding(drawn, mesh))
    plan = plan_state(params, optimizer, replicated(mesh), seed=0, extras={})
    step = compile_step(
        make_train_step(make_loss(model), optimizer, accumulate=1),
        state_sharding=plan.sharding,
        batch_sharding=batch_sharding(mesh),
    )

    def run(rows: dict[str, np.ndarray], steps: int = STEPS) -> tuple[Any, list[float]]:
        state, losses, stream = plan.begin(params, {}), [], Stream(rows, batch_size=BATCH, seed=0)
        for index in range(steps):
            columns: dict[str, Any] = stream.batch(index)
            state, metrics = step(state, put(GapBatch(**columns), batch_sharding(mesh)))
            losses.append(metrics["loss"].value)
        return state.params, losses

    return run


@pytest.fixture(scope="module")
def quality(world: Any) -> Callable[[Any], GapQuality]:
    """params -> figures over held-out pairs with true labels and real references."""
    model = replace(world, config=replace(world.config, pooled_head=True)).scalar
    examples = preferences(HELDOUT, 1)
    batch = world.batch("gap", examples)
    lengths_N = np.array([len(e.chosen) - len(e.rejected) for e in examples])
    gaps_of = jax.jit(lambda params, batch: tree_gaps(model, params, batch))
    return lambda params: measure(jax.device_get(gaps_of(params, batch)), lengths_N)


@pytest.fixture(scope="module")
def healthy(world: Any, train: Any, quality: Any) -> GapQuality:
    return quality(train(world.arrays("gap", preferences(PAIRS, 0)))[0])


def failures(found: GapQuality) -> list[str]:
    return [gate.name for gate in gates(found, GatesConfig()) if not gate.passed]


def test_one_batch_is_learned_by_heart(world: Any, train: Any) -> None:
    """16 pairs, wrong labels among them: the five terms fall to nearly nothing, so rows, network and loss fit."""
    _, losses = train(world.arrays("gap", preferences(BATCH, 2)), 250)
    assert losses[0] > 2 and max(losses[-10:]) < 0.05


def test_a_healthy_model_passes(healthy: GapQuality) -> None:
    assert healthy.accuracies["wl_lw"] == pytest.approx(1 - WRONG_LABELS, abs=0.07)
    assert failures(healthy) == []


def test_swapped_labels_turn_the_accuracy_round(world: Any, train: Any, quality: Any, healthy: GapQuality) -> None:
    rows = world.arrays("gap", swapped(preferences(PAIRS, 0), [True] * PAIRS))
    found = quality(train(rows)[0])
    assert found.accuracies["wl_lw"] == pytest.approx(1 - healthy.accuracies["wl_lw"], abs=0.1)
    assert failures(found)[0] == "direction"


def test_shuffled_labels_are_named(world: Any, train: Any, quality: Any) -> None:
    rows = world.arrays("gap", swapped(preferences(PAIRS, 0), np.random.default_rng(1).random(PAIRS) < 0.5))
    found = quality(train(rows)[0])
    assert failures(found)[0] == "accuracy"


def test_a_model_of_length_is_named(world: Any, train: Any, quality: Any) -> None:
    examples = preferences(PAIRS, 0)
    rows = world.arrays("gap", swapped(examples, [len(e.chosen) < len(e.rejected) for e in examples]))
    found = quality(train(rows)[0])
    assert failures(found)[0] == "length"


def test_a_model_that_ignores_its_reference_is_named(world: Any, train: Any, quality: Any) -> None:
    found = quality(train(without_reference(world.arrays("gap", preferences(PAIRS, 0))))[0])
    assert failures(found)[0] == "reference"
    assert found.candidate_share > 0.8
