"""The training that SFT, reward models and DPO share: what it refuses, what it measures, and that a kill costs nothing.

One small SFT is trained for most of it.
"""

import json
import math
import shutil
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from pit_jax.batch import SftBatch
from pit_jax.config import AdapterConfig, Config
from pit_jax.data.rows import as_rows
from pit_jax.errors import UserError
from pit_jax.masked import Mean
from pit_jax.recipes.catalogue import GAP, SFT_IMPROVER, SFT_POLICY
from pit_jax.run.context import Context
from pit_jax.run.params import Models
from pit_jax.run.supervised import Task, by, check_score, fit, heldout_metrics, train, with_head
from pit_jax.training.step import alone
from tests.world import MakeContext, World, finish_parents

STEPS, EVERY = 4, 2


def bag_loss(params: Any, batch: SftBatch, key: jax.Array) -> tuple[jax.Array, dict[str, Mean]]:
    """A loss that is compiled in no time: of words without order, and a pull of all weights towards 0."""
    word_BL = jnp.mean(params["embedding"][batch.tokens_BL], axis=-1)
    pull = sum(jnp.mean(jnp.square(leaf)) for leaf in jax.tree.leaves(params))
    losses_BL = jnp.square(word_BL - 0.1 * batch.targets_BL.astype(jnp.float32)) + pull
    mean = Mean.of(losses_BL, batch.mask_BL)
    return mean.sum / mean.count, {"loss": mean, "words": Mean.of(word_BL, batch.mask_BL)}


def task_of(context: Context, **changes: Any) -> Task:
    rows, heldout = (context.data.rows(fold, "sft-policy") for fold in ("sft", "heldout"))
    task = Task(
        loss=bag_loss,
        make_batch=SftBatch,
        rows=rows,
        heldout=heldout,
        optimizer=replace(context.config.sft.optimizer, learning_rate=1e-2),
        steps=STEPS,
        batch_size=8,
        accumulate=1,
        seed=0,
        score=by("loss", sign=-1.0),
    )
    return replace(task, **changes)


@pytest.fixture
def small(place: MakeContext) -> Callable[..., Context]:
    """small(adapter) -> a context of the policy's SFT that saves every second update."""

    def make(adapter: AdapterConfig | None = None) -> Context:
        base = Config(adapter=adapter or AdapterConfig())
        return place(replace(base, checkpoint=replace(base.checkpoint, every=EVERY)), SFT_POLICY)

    return make


def rows(context: Context, phase: str) -> dict[int, dict[str, Any]]:
    lines = (context.folder.path / "metrics.jsonl").read_text().splitlines()
    found = {row.pop("step"): row for row in map(json.loads, lines) if row["phase"] == phase}
    return {step: {name: value for name, value in row.items() if name != "time"} for step, row in found.items()}


def digests(context: Context) -> dict[str, str]:
    """A sum of every leaf of the last checkpoint."""
    path = context.folder.path / "checkpoints" / str(STEPS) / "meta" / "metadata"
    return {name: leaf["digest"] for name, leaf in json.loads(path.read_text())["leaves"].items()}


def never() -> Any:
    raise AssertionError("asked for the weights that training starts from")


def test_a_killed_training_ends_as_if_it_had_not_been(small: Any) -> None:
    """Killed behind its third update: it goes on from the second, and ends with the same numbers to the last bit."""
    context = small()
    task, models = task_of(context), Models(context)
    with jax.set_mesh(context.mesh):
        fit(context, task, models, models.root)
        done, curve, ended = context.folder.done(), rows(context, "eval"), digests(context)
        losses = rows(context, "train")
        assert list(losses) == [1, EVERY, STEPS], "the first update is shown at once, the others with an evaluation"
        assert done is not None and list(curve) == [EVERY, STEPS] and curve[STEPS]["loss"] < curve[EVERY]["loss"]
        assert done["round"] == STEPS, "the best checkpoint is the one with the lowest held-out loss"
        (context.folder.path / "done.json").unlink()
        shutil.rmtree(context.folder.path / "checkpoints" / str(STEPS))
        fit(context, task, models, never)
    assert (context.folder.done(), rows(context, "eval"), digests(context)) == (done, curve, ended)
    assert rows(context, "train") == losses


def test_the_best_checkpoint_is_what_children_read(small: Any) -> None:
    """By the score, whatever its sign: here by the highest loss, which is that of the earlier checkpoint."""
    context = small()
    models = Models(context)
    with jax.set_mesh(context.mesh):
        round, digest = train(context, task_of(context, score=by("loss")), models, models.root)
    assert round == EVERY and len(digest) == 12 and context.folder.done() is None


def test_adapters_are_trained_alone_and_need_what_lies_below(small: Any) -> None:
    """A checkpoint holds the adapters; a resumed run asks for the weights below them again."""
    context = small(AdapterConfig(rank=2))
    task, models = task_of(context), Models(context)
    asked: list[None] = []

    def start() -> Any:
        asked.append(None)
        return models.root()

    with jax.set_mesh(context.mesh):
        fit(context, task, models, start)
        ended = digests(context)
        shutil.rmtree(context.folder.path / "checkpoints" / str(STEPS))
        fit(context, task, models, start)
    assert len(asked) == 2 and digests(context) == ended
    trained = [name for name in ended if name.startswith("params")]
    assert trained and all("adapter" in name for name in trained)


def test_a_loss_that_lacks_its_metric_is_refused_before_training(small: Any) -> None:
    context = small()
    task = task_of(context, score=by("accuracy"))
    with pytest.raises(UserError) as error, jax.set_mesh(context.mesh):
        train(context, task, Models(context), never)
    assert str(error.value) == (
        "checkpoints are chosen by the metric 'accuracy', and the loss reports loss, words; report it, or choose by "
        "another one"
    )
    assert not (context.folder.path / "metrics.jsonl").exists() and not (context.folder.path / "checkpoints").exists()


def test_a_loss_that_fails_on_its_batch_fails_before_training(small: Any) -> None:
    """The shapes of one batch are enough to find out."""

    def broken(params: Any, batch: SftBatch, key: jax.Array) -> tuple[jax.Array, dict[str, Mean]]:
        return (batch.tokens_BL[:, :3] + batch.tokens_BL).sum(), {}

    with pytest.raises(TypeError, match="incompatible shapes"):
        check_score(task_of(small(), loss=broken), {})


def test_a_metric_by_name() -> None:
    assert by("loss", sign=-1.0)({"loss": 2.0, "accuracy": 0.5}) == -2.0
    assert by("accuracy")({"loss": 2.0, "accuracy": 0.5}) == 0.5
    for metrics in ({"loss": 1.0}, {"loss": 1.0, "accuracy": math.nan}):
        with pytest.raises(UserError, match="chosen by the metric 'accuracy'"):
            by("accuracy")(metrics)


def test_heldout_metrics_are_those_of_all_whole_batches(small: Any, world: World) -> None:
    """24 held-out rows, 8 or 10 at a time: means over tokens of 24 and of 20 rows, not means of means."""
    context = small()
    params = world.draw(world.language, 0)
    for size, counted in ((8, 24), (10, 20), (64, 24)):
        task = task_of(context, batch_size=size)
        with jax.set_mesh(context.mesh):
            found = heldout_metrics(context, task)(params)
        rows: dict[str, Any] = {
            name: np.asarray(x) for name, x in as_rows(task.heldout).batch(np.arange(counted)).items()
        }
        batch = SftBatch(**rows)
        _, expected = jax.jit(alone(task.loss))(params, batch, jax.random.key(0))
        assert found == {name: pytest.approx(mean.value, rel=1e-5) for name, mean in expected.items()}


def test_heldout_rows_are_read_in_the_pieces_of_an_update(small: Any, world: World) -> None:
    """What accumulation makes fit, fits here too; 10 rows, which do not divide by 4, are read at once."""
    context, seen = small(), list[int]()

    def noting_loss(params: Any, batch: SftBatch, key: jax.Array) -> tuple[jax.Array, dict[str, Mean]]:
        seen.append(batch.tokens_BL.shape[0])
        return bag_loss(params, batch, key)

    params = world.draw(world.language, 0)
    for size, piece in ((8, 2), (10, 10)):
        whole, pieces = (task_of(context, loss=noting_loss, batch_size=size, accumulate=parts) for parts in (1, 4))
        with jax.set_mesh(context.mesh):
            expected, found = (heldout_metrics(context, task)(params) for task in (whole, pieces))
        assert found == {name: pytest.approx(value, rel=1e-6) for name, value in expected.items()}
        assert set(seen) == {size, piece}
        seen.clear()


def test_each_width_is_traced_once_and_no_batch_is_wider_than_it_needs(small: Any) -> None:
    """Rows of two widths: update and held-out loss see each of them, and are traced for nothing else."""
    context, traced = small(), list[int]()

    def counting_loss(params: Any, batch: SftBatch, key: jax.Array) -> tuple[jax.Array, dict[str, Mean]]:
        traced.append(batch.tokens_BL.shape[1])
        return bag_loss(params, batch, key)

    def bucketed(rows: Any) -> Any:
        return replace(rows, layout=replace(rows.layout, buckets={rows.kind: (8,)}))

    task = task_of(context, loss=counting_loss, batch_size=2, steps=12)
    task = replace(task, rows=bucketed(task.rows), heldout=bucketed(task.heldout))
    with jax.set_mesh(context.mesh):
        fit(context, task, Models(context), lambda: Models(context).root())
    wide = context.data.layout.row_lengths["sft-policy"]
    assert set(traced[1:]) == {8, wide}, "the first one only looks at the metrics' names"
    assert sorted(traced[1:]) == [8, 8, wide, wide]


def test_a_head_is_drawn_by_name_over_the_weights_it_starts_from(place: MakeContext) -> None:
    context = finish_parents(place(Config(), GAP))
    models = Models(context)
    gap, again, other = (with_head(context, models, name) for name in ("gap", "gap", "second-gap"))
    np.testing.assert_array_equal(gap["head"]["kernel"], again["head"]["kernel"])
    assert np.abs(gap["head"]["kernel"] - other["head"]["kernel"]).min() > 0
    for found, wanted in zip(jax.tree.leaves(gap["trunk"]), jax.tree.leaves(models.load(SFT_IMPROVER)), strict=True):
        np.testing.assert_array_equal(found, wanted)
    with pytest.raises(AssertionError, match="stage sft-policy starts from no SFT weights"):
        with_head(replace(context, stage=context.run.stage(SFT_POLICY)), models, "gap")


def test_a_training_ends_where_nothing_gets_better(small: Any) -> None:
    """By a score that falls from the first evaluation on: after two more, or never without patience."""
    context, seen = small(), list[float]()

    def falling(metrics: dict[str, float]) -> float:
        seen.append(metrics["loss"])
        return -float(len(seen))

    task, models = task_of(context, score=falling, steps=5 * EVERY, patience=2), Models(context)
    with jax.set_mesh(context.mesh):
        round, _ = train(context, task, models, models.root)
        assert round == EVERY and list(rows(context, "eval")) == [EVERY, 2 * EVERY, 3 * EVERY]
        assert train(context, task, models, never)[0] == EVERY, "the last evaluation again, and no update more"
        assert list(rows(context, "eval")) == [EVERY, 2 * EVERY, 3 * EVERY]
        train(context, replace(task, patience=0), models, never)
    assert list(rows(context, "eval"))[-1] == 5 * EVERY
