"""The tables and figures of the PIT paper (arXiv 2310.00898) on this run, from workdir/paper/results.json."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from pit_jax.evaluation.failures import Failure
from pit_jax.evaluation.gap_quality import GapQuality
from pit_jax.evaluation.results import ComparisonRow, CostRow, GapLossRow, PaperResults, RatingRow, read_results
from pit_jax.evaluation.systems import POLICY, SystemRow
from pit_jax.files import Row
from pit_jax.paths import METRICS
from pit_jax.report import diffs, figures, records
from pit_jax.report.figures import COLORS, Line, Panel, Series
from pit_jax.report.tables import PaperLine, lines

CURRICULA = {  # of this run, and of its branches
    "both phases": "rl-improver",
    "first phase only": "paper/first-only/rl-improver",
    "second phase only": "paper/second-only/rl-improver",
}


@dataclass(frozen=True)
class AnswerCost:
    """A system's measures, the operations of one answer, and those as a multiple of the policy's."""

    system: SystemRow
    flops: float | None
    times: float | None


@dataclass(frozen=True)
class GapLoss:
    """A gap model of the ablation, the least of its five accuracies, and what RL on it gave by every judge."""

    name: str
    quality: GapQuality
    weakest: float
    improved: list[ComparisonRow]


@dataclass(frozen=True)
class Worsened:
    """An improvement that made things worse, and what it changed."""

    row: Failure
    changes: list[diffs.Change]


@dataclass(frozen=True)
class Paper:
    """What the page shows; a part that is empty is left out."""

    temperature: float
    prompts: int
    max_score: float | None
    judges: list[str]
    table: list[PaperLine]
    answers: list[AnswerCost]
    training: list[Row]
    sweep: str
    curriculum: list[PaperLine]
    curves: str
    ratings: dict[str, list[RatingRow]]
    gap_losses: list[GapLoss]
    failures: list[Worsened]


def build(workdir: Path, improver: Path) -> Paper | None:
    """Everything that workdir/paper/results.json and the metrics of the curricula hold; None without the former.

    `improver` is the folder of the improver's RL. UserError where the file is not what --stage=paper writes.
    """
    results = read_results(workdir / "paper" / "results.json", PaperResults)
    if results is None:
        return None
    places = {label: improver if name == "rl-improver" else workdir / name for label, name in CURRICULA.items()}
    metrics = {label: records.read_metrics(folder / METRICS) for label, folder in places.items()}
    ablated = any(rows for label, rows in metrics.items() if CURRICULA[label] != "rl-improver")
    return Paper(
        temperature=results.headline_temperature,
        prompts=results.prompts,
        max_score=results.max_score,
        judges=results.judges,
        table=lines(results.table, results.judges),
        answers=_answers(results.systems, results.costs.answers),
        training=_training(results.costs.training),
        sweep=sweep(results.sweep, results.judges),
        curriculum=lines(results.curriculum, results.judges),
        curves=curves(metrics) if ablated else "",
        ratings={judge: rows for judge, rows in results.ratings.items() if rows},
        gap_losses=[
            _gap_loss(row, row.quality, results.table) for row in results.gap_losses if row.quality is not None
        ],
        failures=[Worsened(row, diffs.changes(row.before, row.after)) for row in results.failures],
    )


def _answers(systems: Sequence[SystemRow], costs: Sequence[CostRow]) -> list[AnswerCost]:
    """A row a system: its measures, FLOPs an answer, and how many times the FLOPs of the policy's."""
    flops = {row.name: row.flops for row in costs}
    least = flops.get(str(POLICY))
    rows = []
    for system in systems:
        spent = flops.get(system.name)
        rows.append(AnswerCost(system, spent, spent / least if spent is not None and least else None))
    return rows


def _training(costs: Sequence[CostRow]) -> list[Row]:
    """The stages with their share of all FLOPs, and the sum."""
    if not costs:
        return []
    total = CostRow("all", sum(row.tokens for row in costs), sum(row.flops for row in costs))
    return [asdict(row) | {"share": row.flops / total.flops if total.flops else None} for row in [*costs, total]]


def sweep(rows: Sequence[ComparisonRow], judges: Sequence[str]) -> str:
    """Fig. 3: delta over the temperature that both systems are sampled at, one panel a judge."""
    panels: dict[str, list[Series]] = {}
    for judge in judges:
        asked = sorted((row for row in rows if row.judge == judge), key=lambda row: row.temperature)
        pairs = dict.fromkeys(row.systems for row in rows)
        for systems, color in zip(pairs, COLORS, strict=False):
            mine = [row for row in asked if row.systems == systems]
            if mine:
                places, values = [row.temperature for row in mine], [row.delta for row in mine]
                ends = [row.low for row in mine], [row.high for row in mine]
                panels.setdefault(f"judged by {judge}", []).append(Series(systems, places, values, *ends, color))
    return figures.error_bars(panels, xlabel="temperature", ylabel="delta, points") if panels else ""


def curves(metrics: Mapping[str, list[Row]]) -> str:
    """Fig. 4: training reward of every curriculum over its rounds, and what held-out prompts say of it."""
    panels = []
    for title, phase, name in (
        ("training reward: mean gap of a round's rollouts", "train", "objective/scores"),
        ("held-out gap over the policy's answers", "eval", "objective/scores"),
        ("truth: the hidden score on held-out prompts", "eval", "truth/score"),
    ):
        measured = [(label, *records.curve(rows, phase, name)) for label, rows in metrics.items()]
        drawn = [
            Line(label, steps, values, color, faint=phase == "train", dots=phase == "eval")
            for (label, steps, values), color in zip(measured, COLORS, strict=False)
            if steps
        ]
        if drawn:
            panels.append(Panel(title, drawn))
    return figures.curves(panels, xlabel="round") if panels else ""


def _gap_loss(row: GapLossRow, quality: GapQuality, table: Sequence[ComparisonRow]) -> GapLoss:
    improved = [comparison for comparison in table if comparison.left == row.system and comparison.right == POLICY]
    return GapLoss(row.name, quality, min(quality.accuracies.values()), improved)
