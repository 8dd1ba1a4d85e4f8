"""What SFT, reward models, DPO and SPA share: one network, one stream of rows, one loop."""

import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from pit_jax.config import OptimizerConfig
from pit_jax.data.rows import Rows, as_rows, count_tokens
from pit_jax.data.stream import Stream, whole_batches
from pit_jax.errors import UserError
from pit_jax.files import Row
from pit_jax.masked import Mean
from pit_jax.model.networks import Params, trunk_of
from pit_jax.parallel.sharding import abstract_params, batch_sharding, init_sharded, put_rows, replicated, row_shards
from pit_jax.run.code import package_code
from pit_jax.run.context import Context
from pit_jax.run.frozen import as_trained, trains_fully
from pit_jax.run.params import Models
from pit_jax.run.programs import Shapes
from pit_jax.run.stage import Stage
from pit_jax.training.head import HeadFit, fitted
from pit_jax.training.optimizer import make_optimizer
from pit_jax.training.session import Session
from pit_jax.training.state import Partition, plan_state
from pit_jax.training.step import Loss, Remembering, alone, compile_step, make_train_step, split
from pit_jax.training.trace import asked_rounds

LOG_EVERY = 20  # updates a row of metrics
MOST_READ = 4096  # rows that a head is fitted to: 300 MB at most for four scores of a width of 4,096


@dataclass(frozen=True)
class Task:
    """One supervised training: what to minimise, on which rows, how long, and what the best checkpoint maximises."""

    loss: Loss | Remembering
    make_batch: Callable[..., Any]  # the batch dataclass, from named arrays
    rows: Rows | Mapping[str, np.ndarray]
    heldout: Rows | Mapping[str, np.ndarray]
    optimizer: OptimizerConfig
    steps: int
    batch_size: int
    accumulate: int
    seed: int  # of the order of the rows
    score: Callable[[dict[str, float]], float] | None  # None: the last checkpoint is the best
    patience: int = 0  # evaluations without a better score that end the training; 0 = it goes on to the last update
    beside: Mapping[str, Params] = field(default_factory=dict)
    """Frozen models that the loss finds in the parameters by these names."""
    head_fit: HeadFit | None = None
    """How the head is fitted before the first update; None = the given one is trained as it is."""
    phase: str = ""  # of the stage: the folder in its own


def fit(context: Context, task: Task, models: Models, start: Callable[[], Params]) -> None:
    """Train the network that the stage leaves and finish the stage; children read its best held-out checkpoint."""
    round, digest = train(context, task, models, start)
    context.folder.finish(round=round, digest=digest)


def train(context: Context, task: Task, models: Models, start: Callable[[], Params]) -> tuple[int, str]:
    """From the newest checkpoint, or from `start()`, to the last step; (round, digest) of the best checkpoint.

    `start` is called only where something must be trained from it.
    """
    context.folder.begin(context.config, data_fingerprint=context.data.fingerprint, package=package_code())
    config, mesh, name, folder = context.config, context.mesh, str(context.stage.id), context.folder.of(task.phase)
    full, network = trains_fully(config, name), models.network(context.stage)
    # Of adapters the frozen weights are needed in any case; weights trained in full come from the checkpoint.
    begun = None if full else models.partition(name, start())
    trainable = abstract_params(network.init, mesh) if begun is None else begun.trainable
    optimizer = make_optimizer(task.optimizer, task.steps)
    extras = task.loss.extras if isinstance(task.loss, Remembering) else {}
    plan = plan_state(trainable, optimizer, replicated(mesh), seed=config.seed, extras=extras)
    frozen = None if begun is None else begun.frozen
    partition = Partition(trainable, {**(frozen or {}), **task.beside} or None)
    check_score(task, partition.combine(trainable))
    step = compile_step(
        make_train_step(task.loss, optimizer, accumulate=task.accumulate, params_dtype=config.transformer.params_dtype),
        state_sharding=plan.sharding,
        batch_sharding=batch_sharding(mesh),
        frozen=partition.frozen,
    )
    measure = heldout_metrics(context, task)
    rows, flops = as_rows(task.rows), flops_per_token(context)
    stream = Stream(rows, batch_size=task.batch_size, seed=task.seed)
    shown = f"{name}/{task.phase}" if task.phase else name
    bar = context.screen.bar(shown, task.steps)

    def show(row: Row) -> None:
        if row["phase"] == "train":
            bar.show(row["step"], f"loss {row['loss']:.3f}")
        if row["phase"] == "eval" or row["step"] == 1:
            context.screen.row(shown, row)

    session = Session(
        folder.path,
        plan.abstract,
        lambda: plan.begin(before(begun or models.partition(name, start()), context, task), extras),
        rounds=task.steps,
        keep=config.checkpoint.keep,
        log_every=LOG_EVERY,
        show=show,
        say=context.screen.say,
        profile=asked_rounds(config.profile),
    )
    with session:
        bar.show(session.start)
        for done in session.rounds():
            # Before the first update there is nothing to choose, unless the head is fitted.
            if (done or task.head_fit) and (done % config.checkpoint.every == 0 or done == session.last):
                session.settle()
                metrics = measure(partition.combine(session.state.params))
                session.evaluated(done, metrics, score=task.score(metrics) if task.score else float(done))
                if task.patience and done - session.best_round() >= task.patience * config.checkpoint.every:
                    context.screen.say(
                        f"{shown}: no better held-out score in {task.patience} evaluations; it ends after {done} of "
                        f"{session.last} updates, and the checkpoint of {session.best_round()} is kept"
                    )
                    break
            if done == session.last:
                break
            session.heed_notice(done)
            numbers = stream.rows(done)
            batch = put_rows(mesh, task.make_batch, rows.batch(numbers))
            tokens = count_tokens(rows, numbers)
            session.performance.clock.lap("data")
            session.update(step, batch)
            session.performance.ran(tokens, 0, {"update": tokens * flops} if flops else {})
            session.end_round(done)
        best = session.best()
    assert best is not None, "a supervised checkpoint always has a score"
    return best


def before(partition: Partition, context: Context, task: Task) -> Params:
    """What is trained, as it is before the first update: with a head that is fitted first where the task has one."""
    trainable: Params = partition.trainable
    if task.head_fit is None:
        return trainable
    rows, size, name = as_rows(task.rows), task.batch_size // task.accumulate, str(context.stage.id)
    stream, count = Stream(rows, batch_size=size, seed=task.seed), min(len(rows), MOST_READ)
    bar = context.screen.bar(f"{name} head", count)

    def batches() -> Iterator[Any]:
        for index in range(-(-count // size)):
            yield put_rows(context.mesh, task.make_batch, stream.batch(index))
            bar.show(min((index + 1) * size, count))

    head, figures = fitted(task.head_fit, partition.combine(trainable), batches())
    told = ", ".join(f"{name} {figure:.3f}" for name, figure in figures.items())
    context.screen.say(f"{name}: the head is fitted to {count:,} rows over the trunk as it is: {told}")
    return {**trainable, "head": head}


def flops_per_token(context: Context) -> float:
    """Operations of an update for one of its tokens, in a row of the widest width; 0 where the stage does not say."""
    stage, config = context.stage, context.config
    shapes = Shapes(config, context.data.layout, context.vocab_size)
    load = as_trained(stage.loads(shapes), config, str(stage.id)).get("update") if isinstance(stage, Stage) else None
    return load.work.flops / load.work.tokens if load is not None and load.work.tokens else 0.0


def check_score(task: Task, params: Params) -> None:
    """UserError, before anything is trained, where the loss does not report what checkpoints are chosen by."""
    rows = as_rows(task.rows)
    fields = rows.batch(np.arange(min(task.batch_size, len(rows))))
    batch = task.make_batch(**{name: jax.ShapeDtypeStruct(x.shape, x.dtype) for name, x in fields.items()})
    _, metrics = jax.eval_shape(alone(task.loss), params, batch, jax.random.key(0))
    if task.score:
        task.score(dict.fromkeys(metrics, 0.0))


def with_head(context: Context, models: Models, name: str) -> Params:
    """The weights that the stage starts from under a fresh head, which is drawn by the `name` of the model."""
    before = context.stage.init_from
    assert before is not None, f"stage {context.stage.id} starts from no SFT weights"
    head = init_sharded(context.scalar_model.init_head, context.key("init", name), context.mesh)
    return {**trunk_of(models.load(before)), **head}


def heldout_metrics(context: Context, task: Task) -> Callable[[Params], dict[str, float]]:
    """params -> metrics over all whole held-out batches; the last, smaller part of more than one is left out.

    A batch is read in as many pieces as one of an update, where it divides: what fits there fits here.
    """
    shards, loss = row_shards(context.mesh), alone(task.loss)

    @jax.jit
    def evaluate_batch(params: Params, batch: Any) -> dict[str, Mean]:
        size = len(jax.tree.leaves(batch)[0])
        pieces = split(batch, 1 if size % (task.accumulate * shards) else task.accumulate)
        means = jax.lax.map(lambda piece: loss(params, piece, jax.random.key(0))[1], pieces)
        totals: dict[str, Mean] = jax.tree.map(lambda x: jnp.sum(x, axis=0), means)
        return totals

    rows = as_rows(task.heldout)
    batches = whole_batches(rows, task.batch_size, shards=shards)

    def evaluate(params: Params) -> dict[str, float]:
        total: dict[str, Mean] = {}
        for numbers in batches:
            batch = put_rows(context.mesh, task.make_batch, rows.batch(numbers))
            for name, mean in evaluate_batch(params, batch).items():
                total[name] = total[name] + mean if name in total else mean
        return {name: mean.value for name, mean in total.items()}

    return evaluate


def by(metric: str, *, sign: float = 1.0) -> Callable[[dict[str, float]], float]:
    """The score of a checkpoint: a held-out metric, or with sign -1 what it should be small in.

    The score raises UserError where the loss does not report the metric.
    """

    def score(metrics: dict[str, float]) -> float:
        value = metrics.get(metric, math.nan)
        if math.isnan(value):
            raise UserError(
                f"checkpoints are chosen by the metric {metric!r}, and the loss reports {', '.join(sorted(metrics))}; "
                "report it, or choose by another one"
            )
        return sign * value

    return score
