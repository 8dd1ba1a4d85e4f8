"""What SFT and reward modelling share: one network, one stream of batches, one loop."""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import jax
import numpy as np
from rich.progress import Progress

from pit_jax.config import OptimizerConfig
from pit_jax.data.stream import Stream
from pit_jax.masked import Mean
from pit_jax.parallel.sharding import batch_sharding, param_sharding, replicated
from pit_jax.stages.context import Context
from pit_jax.stages.models import Start
from pit_jax.stages.workspace import StageFolder
from pit_jax.training.checkpoint import Checkpoints
from pit_jax.training.loop import run
from pit_jax.training.metrics import MetricsLog
from pit_jax.training.optimizer import make_optimizer
from pit_jax.training.state import TrainState, abstract_state, place_state
from pit_jax.training.step import compile_step, make_train_step

Loss = Callable[[Any, Any, jax.Array], tuple[jax.Array, dict[str, Mean]]]
LOG_EVERY = 20


@dataclass(frozen=True)
class Task:
    """One supervised stage: what to minimise, on which rows, for how long, and what the best checkpoint maximises."""

    folder: StageFolder
    loss: Loss
    make_batch: Callable[..., Any]  # the batch dataclass, from named arrays
    arrays: Mapping[str, np.ndarray]
    heldout: Mapping[str, np.ndarray]
    optimizer: OptimizerConfig
    num_steps: int
    batch_size: int
    accumulate: int
    seed: int  # of the order of the rows
    score: Callable[[dict[str, float]], float]


def heldout_metrics(context: Context, task: Task) -> Callable[[Any], dict[str, float]]:
    """params -> metrics over all whole held-out batches; the last, smaller part is left out."""
    evaluate_batch = jax.jit(lambda params, batch: task.loss(params, batch, jax.random.key(0))[1])
    rows = len(next(iter(task.heldout.values())))
    size = min(task.batch_size, rows)
    batches = [{k: v[i : i + size] for k, v in task.heldout.items()} for i in range(0, rows - size + 1, size)]

    def evaluate(params: Any) -> dict[str, float]:
        total: dict[str, Mean] = {}
        for arrays in batches:
            for name, mean in evaluate_batch(params, context.put_rows(task.make_batch, arrays)).items():
                total[name] = total[name] + mean if name in total else mean
        return {name: mean.value for name, mean in total.items()}

    return evaluate


def summary_line(name: str, row: dict[str, Any]) -> str:
    """One line of a log: the stage, the step and the row's numbers."""
    numbers = (f"{key} {value:.3f}" for key, value in row.items() if key not in ("step", "phase", "time"))
    return f"[bold]{name}[/] {row['phase']} {row['step']} ({row['time']:.0f} s): {', '.join(numbers)}"


def fit(context: Context, task: Task, begin: Callable[[], Start], progress: Progress) -> None:
    """Train (or resume) to `num_steps`, then mark the stage finished with its best held-out checkpoint."""
    task.folder.begin(context.config, data_fingerprint=context.data.fingerprint)
    keep, say = context.config.checkpoint.keep, context.console.print
    with Checkpoints(task.folder.path / "checkpoints", keep=keep, say=say) as checkpoints:
        train(context, task, begin(), checkpoints, progress)
        checkpoints.wait()
        best = checkpoints.best_round()
        assert best is not None
        task.folder.finish(round=best, digest=checkpoints.digest(best))


def train(context: Context, task: Task, begin: Start, checkpoints: Checkpoints, progress: Progress) -> None:
    """From the newest checkpoint, or from `begin`, to `num_steps`."""
    config, mesh, params = context.config, context.mesh, begin.trained
    optimizer = make_optimizer(task.optimizer, task.num_steps)
    fresh, sharding = place_state(
        params, optimizer, param_sharding(params, mesh), replicated(mesh), seed=config.seed, extras={}
    )
    checkpoints.check_space(fresh)
    restored = checkpoints.restore_latest(abstract_state(fresh))
    start, state = restored if restored is not None else (0, fresh)
    bar = progress.add_task(task.folder.name, total=task.num_steps, completed=start, note="")

    def show(row: dict[str, Any]) -> None:
        if row["phase"] == "train":
            progress.update(bar, completed=row["step"], note=f"loss {row['loss']:.3f}")
        if row["phase"] == "eval" or row["step"] == 1:
            context.console.print(summary_line(task.folder.name, row), soft_wrap=True)

    log = MetricsLog(task.folder.path, every=LOG_EVERY, resume_round=start, on_row=show)
    step = compile_step(
        make_train_step(task.loss, optimizer, accumulate=task.accumulate),
        state_sharding=sharding,
        batch_sharding=batch_sharding(mesh),
        frozen=begin.frozen,
    )
    stream = Stream(task.arrays, batch_size=task.batch_size, seed=task.seed)
    heldout = heldout_metrics(context, task)

    def supply(state: TrainState) -> Iterator[Any]:
        yield context.put_rows(task.make_batch, stream.batch(int(state.round)))

    def evaluate(state: TrainState, round: int) -> dict[str, float] | None:
        if round == 0 or (round % config.checkpoint.every and round != task.num_steps):
            return None
        metrics = heldout(begin.whole(state.params))
        log.eval(round, metrics)
        return metrics

    def save(state: TrainState, round: int, metrics: dict[str, float] | None) -> None:
        if metrics is not None and round > start:
            checkpoints.save(round, state, score=task.score(metrics))

    def record(round: int, metrics: dict[str, Mean]) -> None:
        log.train(round, metrics)
        if round == 1:
            log.flush()  # the first loss is shown at once

    run(state, step, supply, evaluate=evaluate, save=save, log=record, num_rounds=task.num_steps)
    log.close()
