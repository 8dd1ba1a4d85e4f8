"""The gap model (PIT Eq. 2) over the improver's SFT weights, and a second one that RL is watched with."""

from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import asdict, replace
from functools import partial
from typing import Any, TypedDict

import jax
import numpy as np

from pit_jax.batch import GapBatch, TreeSlots
from pit_jax.config import Config
from pit_jax.data.features import tree_slots
from pit_jax.data.folds import PAIR_FOLDS
from pit_jax.data.negatives import NEGATIVES, negative_pairs
from pit_jax.data.rows import StoredRows
from pit_jax.data.sources import known_truth
from pit_jax.data.stream import sequential
from pit_jax.errors import UserError
from pit_jax.evaluation.controls import CONTROLS, Standing, standing
from pit_jax.evaluation.gap_quality import NAMES, GapQuality, Gate, gates, measure, restore, verdict
from pit_jax.evaluation.judges import builtin as judges
from pit_jax.evaluation.judges.judge import Bench, ask
from pit_jax.files import read_json, write_json
from pit_jax.inference.texts import written
from pit_jax.masked import Mean
from pit_jax.model.networks import Params, ScalarModel
from pit_jax.model.scoring import tree_gaps
from pit_jax.objectives.gap import gap_loss, pair_gap_loss
from pit_jax.parallel.hosts import whole
from pit_jax.parallel.sharding import put_rows
from pit_jax.recipes.comparison.draw import text_engine
from pit_jax.report.tables import gates_table
from pit_jax.run.context import Context
from pit_jax.run.loads import Load, Loads
from pit_jax.run.params import Models
from pit_jax.run.programs import Program, Shapes
from pit_jax.run.provenance import StageId
from pit_jax.run.stage import Batch, Recipe
from pit_jax.run.supervised import Task, train, with_head
from pit_jax.training.head import HeadFit
from pit_jax.training.optimizer import make_optimizer
from pit_jax.training.step import Loss

Objective = Callable[[jax.Array, jax.Array, jax.Array, jax.Array], tuple[jax.Array, dict[str, Mean]]]
"""objective(wl_B, ww_B, ll_B, lw_B) -> the loss of those gaps, and metrics."""

GAP = StageId("rm", "improver")
SECOND = "second-gap"
HELDOUT_PAIRS = 1024  # at most, of the distributions and of every figure but those of controls
CONTROL_PROMPTS = 256  # at most: each control takes two passes over a prompt, and shares are known to 6 points
SECOND_SEED = 1_000_003  # beyond the seeds of any set of runs, whose gap models a second one must not repeat


def run(context: Context) -> None:
    """Train it; of the first gap model, then measure what its gates look at.

    The second gap model starts from the same SFT weights with a head of its own and meets the pairs in another order,
    as the members of the ensembles of arXiv 2310.02743 do. Errors that come from the weights and pairs they share, it
    shares too (arXiv 2312.09244). Its loss has all five terms, whatever rm.gap_loss says: ablations share it.
    """
    config, models, second = context.config.rm, Models(context), context.stage.role == SECOND
    rows, objective = training_rows(context), objective_of(context.config, context.stage.role)
    slots = tree_slots(rows.layout)
    head_fit = HeadFit(partial(tree_gaps, context.scalar_model, slots=slots), partial(over, objective))
    task = Task(
        loss=make_loss(context.scalar_model, objective, slots),
        head_fit=head_fit if config.fit_head and not second else None,
        make_batch=GapBatch,
        rows=rows,
        heldout=context.data.rows("heldout", "gap"),
        optimizer=config.optimizer,
        steps=steps(context.config, context.stage.role),
        batch_size=config.batch_size,
        accumulate=config.accumulate,
        seed=context.config.seed + (SECOND_SEED if second else 0),
        score=mean_accuracy,
        patience=config.patience,
    )
    round, digest = train(context, task, models, lambda: with_head(context, models, SECOND if second else "gap"))
    if not second:
        measure_gates(context, models.own(round))
    context.folder.finish(round=round, digest=digest)


def training_rows(context: Context) -> StoredRows:
    """The pairs that rm.pairs names and, behind them, the negatives that rm.negatives asks for: from the seed, so that
    a resumed training meets the same ones. Those that are longer than the rows of real pairs may be are left out."""
    config, data = context.config.rm, context.data
    rows = data.pairs("gap", config.pairs)
    if not config.negatives:
        return rows
    share, kinds, seed = config.negatives, config.negative_kinds, context.config.seed
    made = negative_pairs(data.triples(*PAIR_FOLDS[config.pairs]), share=share, kinds=kinds, seed=seed)
    negatives = data.rows_of("gap", [triple for _, triple in made]).fitting()
    counts = Counter(made[number][0] for number in negatives.numbers)
    context.screen.say(
        f"{context.stage.id}: {len(negatives):,} negatives beside {len(rows):,} pairs ("
        f"{', '.join(f'{counts[kind]:,} {kind}' for kind in dict.fromkeys(kinds))}); left out, too long or the same to "
        f"the tokenizer: {len(made) - len(negatives):,}"
    )
    return rows.joined(negatives)


def objective_of(config: Config, role: str) -> Objective:
    if role != SECOND and config.rm.gap_loss == "pair":
        return pair_gap_loss
    return partial(gap_loss, label_smoothing=config.rm.label_smoothing)


def make_loss(model: ScalarModel, objective: Objective = gap_loss, slots: TreeSlots | None = None) -> Loss:
    def loss(params: Params, batch: GapBatch, key: jax.Array) -> tuple[jax.Array, dict[str, Mean]]:
        return over(objective, tree_gaps(model, params, batch, slots))

    return loss


def over(objective: Objective, gaps: dict[str, jax.Array]) -> tuple[jax.Array, dict[str, Mean]]:
    """The objective of the four gaps by their names."""
    return objective(gaps["wl"], gaps["ww"], gaps["ll"], gaps["lw"])


def mean_accuracy(metrics: dict[str, float]) -> float:
    """Mean of the five pairwise accuracies."""
    return float(np.mean([value for name, value in metrics.items() if name.startswith("gap/acc_")]))


def steps(config: Config, role: str) -> int:
    return config.rm.second_gap_steps if role == SECOND else config.rm.improver_steps


def measure_gates(context: Context, params: Params) -> list[Gate]:
    """Run the gap model over held-out pairs; gaps.json and quality.json in its folder, and the gates for a person."""
    gaps, folder = heldout_gaps(context, params), context.folder_of(GAP).path
    quality = measure(gaps, *known_differences(context, len(gaps["wl"])))
    quality = replace(quality, controls=heldout_controls(context, params))
    checked_gates = gates(quality, context.config.rm.gates)
    if _own(context):
        write_json(folder / "gaps.json", {name: gap_N.tolist() for name, gap_N in gaps.items()})
    write_quality(context, quality, checked_gates)
    context.screen.say(gates_table(checked_gates))
    return checked_gates


def heldout_gaps(context: Context, params: Params) -> dict[str, np.ndarray]:
    """The four gaps of the first held-out pairs, each [N]."""
    rows, config = context.data.rows("heldout", "gap").first(HELDOUT_PAIRS), context.config.rm
    gaps_of = jax.jit(partial(tree_gaps, context.scalar_model, slots=tree_slots(rows.layout)))
    pieces = []
    for arrays, real in sequential(rows, config.batch_size // config.accumulate):  # what fits in an update
        batch_gaps = whole(gaps_of(params, put_rows(context.mesh, GapBatch, arrays)))
        pieces.append({name: gap_B[:real] for name, gap_B in batch_gaps.items()})
    return {name: np.concatenate([piece[name] for piece in pieces]) for name in NAMES}


def heldout_controls(context: Context, params: Params) -> dict[str, Standing]:
    """What the gap model says of each control against the chosen answers of the first held-out pairs, in both orders.

    Answers that a control leaves as they are do not count. All others are asked at once: controls share the slots of
    their prompts, so their programs.
    """
    texts, triples = text_engine(context), context.data.triples("heldout")[:CONTROL_PROMPTS]
    changed = [
        (control.name, triple, answer)
        for control in CONTROLS
        for triple, answer in zip(triples, control.answers([triple.chosen for triple in triples]), strict=True)
        if answer != triple.chosen
    ]
    names_N = np.array([name for name, _, _ in changed], str)
    prompts = [triple.prompt for _, triple, _ in changed]
    answers = [written(texts.template, answer) for _, _, answer in changed]
    originals = [written(texts.template, triple.chosen) for _, triple, _ in changed]
    scores_N = ask(judges.GAP, prompts, answers, originals, Bench(texts, {GAP: params})).scores_N
    return {control.name: standing(scores_N[names_N == control.name]) for control in CONTROLS}


def known_differences(context: Context, count: int) -> tuple[np.ndarray, np.ndarray | None]:
    """Chosen minus rejected of the first held-out pairs: tokens, and the true score where a truth is known."""
    rows, truth = context.data.rows("heldout", "prompts").first(count), known_truth(context.config.data)
    chosen_N, rejected_N = (rows.tokens_of(name) for name in ("chosen", "rejected"))
    if truth is None:
        return chosen_N - rejected_N, None
    pairs = context.data.triples("heldout")[:count]
    return chosen_N - rejected_N, np.array([truth(p.prompt, p.chosen) - truth(p.prompt, p.rejected) for p in pairs])


def write_quality(context: Context, quality: GapQuality, checked_gates: list[Gate]) -> None:
    """quality.json: the figures, and the gates under the limits of this run."""
    if _own(context):
        content = {"quality": asdict(quality), "gates": [asdict(gate) for gate in checked_gates]}
        write_json(context.folder_of(GAP).path / "quality.json", content)


def _own(context: Context) -> bool:
    """Whether the gap model is this run's: into a parent run nothing is written."""
    return context.folder_of(GAP).run.workdir == context.run.workdir


class _Quality(TypedDict):
    quality: dict[str, Any]


def read_quality(context: Context) -> dict[str, Any] | None:
    """The figures in quality.json; None where nobody has measured them."""
    content: dict[str, Any] | None = read_json(
        context.folder_of(GAP).path / "quality.json", _Quality, cure="delete it to measure it again"
    )
    return content and content["quality"]


def require_gates(context: Context) -> dict[str, str]:
    """Check the gap model's figures against the limits of this run before its RL; measure them if nobody has.

    Returns:
        Notes for the lineage: empty, or the failed gates that --rl.ignore-gates let pass.

    Raises:
        UserError: a gate failed; names the first one, its figure, its limit and what it means.
    """
    folder, figures = context.folder_of(GAP).path, read_quality(context)
    quality = None if figures is None else restore(figures)
    if quality is None or not quality.controls:
        checked_gates = measure_gates(context, Models(context).load(GAP))
    else:
        checked_gates = gates(quality, context.config.rm.gates)
        write_quality(context, quality, checked_gates)
    failed = [gate for gate in checked_gates if not gate.passed]
    if not failed:
        return {}
    listed = "; ".join(verdict(gate) for gate in failed)
    if context.config.rl.ignore_gates:
        context.screen.warn(f"rl-improver: gates of the gap model ignored: {listed}")
        return {"gates": f"ignored: {listed}"}
    first, others = failed[0], ", ".join(gate.name for gate in failed[1:])
    raise UserError(
        f"stage rl-improver refuses the gap model of {folder}: gate {verdict(first)} ({first.meaning})"
        f"{'; also failed: ' + others if others else ''}. Mend its data or its training (delete {folder} to train it "
        f"again){', move the limit with ' + first.knob if first.knob else ''}, or run anyway with --rl.ignore-gates"
    )


def programs(shapes: Shapes, role: str) -> Iterator[Program]:
    config, network = shapes.config.rm, shapes.scalar_model
    optimizer, batch = make_optimizer(config.optimizer, 1), shapes.batch("gap", config.batch_size)
    loss = make_loss(network, objective_of(shapes.config, role), tree_slots(shapes.layout))
    part = shapes.partition(network, str(StageId("rm", role)))
    yield shapes.step(
        "update", loss, optimizer, part.trainable, batch, accumulate=config.accumulate, frozen=part.frozen
    )


def loads(shapes: Shapes, role: str) -> Loads:
    """Batch trees an update, trained."""
    config, length = shapes.config, shapes.layout.row_lengths["gap"]
    tree = shapes.passes.tree(tree_slots(shapes.layout), length)
    return {"update": Load(steps(config, role), config.rm.batch_size * tree.trained())}


def batches(config: Config, role: str) -> Iterator[Batch]:
    yield "--rm.batch-size", config.rm.batch_size, config.rm.accumulate


def check(config: Config, role: str) -> None:
    """UserError for kinds of negatives that nobody makes."""
    for kind in config.rm.negative_kinds:
        _ = NEGATIVES[kind]


RECIPE = Recipe(run=run, check=check, batches=batches, programs=programs, loads=loads)
