"""The tables and figures of the PIT paper (arXiv 2310.00898) on this run, from workdir/paper/results.json."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from pit_jax.evaluation import figures, gap_quality, records, trails
from pit_jax.evaluation.figures import COLORS, Line, Panel, Series
from pit_jax.evaluation.records import Row

TEXT, NUMBER, MAYBE = (str,), (int, float), (int, float, type(None))
NUMBERS = ("win", "lose", "tie", "delta", "low", "high", "n", "lc_win_rate", "lc_low", "lc_high")
COMPARISON = {"temperature": NUMBER, "judge": TEXT, "left": TEXT, "right": TEXT, **dict.fromkeys(NUMBERS, NUMBER)}
MEASURES = ("score_mean", "score_std", "length_mean", "eos_rate", "copy_rate", "edit_distance", "tokens_mean")
COST = {"name": TEXT, "tokens": NUMBER, "flops": NUMBER}
# What results.json holds: a record by its fields, [a list of them], the kinds of a value; ... stands for any key.
FORM: dict[Any, Any] = {
    "judge_names": [TEXT],
    "headline_temperature": NUMBER,
    "max_score": MAYBE,
    "prompts": NUMBER,
    "systems": [{"name": TEXT, **dict.fromkeys(MEASURES, MAYBE)}],
    "table": [COMPARISON],
    "sweep": [COMPARISON],
    "curriculum": [COMPARISON],
    "ratings": {
        ...: [{"name": TEXT, **dict.fromkeys(("rating", "low", "high", "elo", "elo_low", "elo_high"), NUMBER)}]
    },
    "gap_losses": [{"name": TEXT, "quality": {}}],
    "costs": {"training": [COST], "answers": [COST]},
    "failures": [
        {
            **dict.fromkeys(("prompt", "before", "after", "judge"), TEXT),
            **dict.fromkeys(("score_before", "score_after"), MAYBE),
        }
    ],
}
IMPROVERS = {  # what RL on each reward of the gap-loss ablation gave
    "five terms": "PIT x1",
    "wl over lw alone": "pair-gap x1",
    "difference of two scores": "score-difference x1",
}
CURRICULA = {
    "both stages": "rl-improver",
    "first stage only": "paper/first-only/rl-improver",
    "second stage only": "paper/second-only/rl-improver",
}


@dataclass(frozen=True)
class PaperLine:
    """One line of a table with a cell a judge; None where a judge was not asked."""

    label: str
    cells: list[Row | None]


@dataclass(frozen=True)
class Failure:
    """An improvement that made things worse, and what it changed."""

    row: Row
    changes: list[trails.Change]


@dataclass(frozen=True)
class Paper:
    """What the page shows; a part that is empty is left out."""

    temperature: float
    prompts: int
    max_score: float | None
    judges: list[str]
    table: list[PaperLine]
    answers: list[Row]  # the measures of a system, its tokens and FLOPs an answer, and FLOPs as a multiple of policy's
    training: list[Row]
    sweep: str
    curriculum: list[PaperLine]
    curves: str
    ratings: dict[str, list[Row]]
    gap_losses: list[Row]
    failures: list[Failure]


def build(workdir: Path) -> Paper | None:
    """Everything that workdir/paper/results.json and the metrics of the curricula hold; None without the former.

    Raises:
        ValueError: the file is not what --stage=paper writes; the message names the first thing that is wrong.
    """
    results = read(workdir / "paper" / "results.json")
    if results is None:
        return None
    costs, judges = results["costs"] or {}, results["judge_names"] or []
    table = lines(results["table"] or [], judges)
    metrics = {label: records.read_metrics(workdir / place / "metrics.jsonl") for label, place in CURRICULA.items()}
    ablated = any(rows for label, rows in metrics.items() if CURRICULA[label] != "rl-improver")
    return Paper(
        temperature=results["headline_temperature"],
        prompts=results["prompts"],
        max_score=results["max_score"],
        judges=judges,
        table=table,
        answers=_answers(results["systems"] or [], costs.get("answers") or []),
        training=_training(costs.get("training") or []),
        sweep=sweep(results["sweep"] or [], judges),
        curriculum=lines(results["curriculum"] or [], judges),
        curves=curves(metrics) if ablated else "",
        ratings={
            judge: sorted(rows, key=lambda row: -row["rating"])
            for judge, rows in (results["ratings"] or {}).items()
            if rows
        },
        gap_losses=[_gap_loss(row, table) for row in results["gap_losses"] or []],
        failures=[Failure(row, trails.changes(row["before"], row["after"])) for row in results["failures"] or []],
    )


def read(path: Path) -> Row | None:
    """results.json, checked against FORM; None when there is no such file. ValueError as `build`."""
    results: Row | None = records.read_json(path)
    if results is None:
        return None
    wrong = _wrong(results, FORM, "")
    for i, row in enumerate([] if wrong else results["gap_losses"] or []):
        try:
            gap_quality.restore(row["quality"])
        except (KeyError, TypeError) as error:
            wrong = wrong or f"gap_losses[{i}].quality without {error}"
    if wrong:
        raise ValueError(
            f"{path}: asked for what --stage=paper writes, found {wrong}; delete {path} and run that stage again"
        )
    return results


def _wrong(value: Any, form: Any, where: str) -> str | None:
    """The first thing in a value that does not have its form, and where; a list or a record in a record may be null."""
    if isinstance(form, tuple):
        return None if isinstance(value, form) else f"{value!r:.60} under {where}"
    if not isinstance(value, type(form)):
        return f"{value!r:.60} under {where or 'everything'}"
    children: list[tuple[str, Any, Any]]
    if isinstance(form, list):
        children = [(f"{where}[{i}]", item, form[0]) for i, item in enumerate(value)]
    else:
        asked = dict.fromkeys(value, form[...]) if ... in form else form
        missing = [f"{where}.{name}".strip(".") for name in asked if name not in value]
        if missing:
            return f"nothing under {', '.join(missing)}"
        children = [
            (f"{where}.{name}".strip("."), value[name], inner)
            for name, inner in asked.items()
            if value[name] is not None or isinstance(inner, tuple)
        ]
    return next((found for place, item, inner in children if (found := _wrong(item, inner, place))), None)


def lines(rows: Sequence[Row], judges: Sequence[str]) -> list[PaperLine]:
    """One line a comparison with a cell a judge, in the order of the rows. "policy" on the right is left unsaid."""
    pairs = dict.fromkeys((row["left"], row["right"]) for row in rows)
    found = {(row["left"], row["right"], row["judge"]): row for row in rows}
    return [
        PaperLine(
            left if right == "policy" else f"{left} vs {right}", [found.get((left, right, judge)) for judge in judges]
        )
        for left, right in pairs
    ]


def _answers(systems: Sequence[Row], costs: Sequence[Row]) -> list[Row]:
    """A row a system: its measures, tokens and FLOPs an answer, and how many times the FLOPs of the policy's."""
    flops = {row["name"]: row["flops"] for row in costs}
    measured = {system["name"]: system for system in systems}
    known = [{"name": row["name"], "tokens_mean": row["tokens"]} for row in costs if row["name"] not in measured]
    rows = []
    for system in [*systems, *known]:
        spent, least = flops.get(system["name"]), flops.get("policy")
        times = spent / least if spent is not None and least else None
        rows.append({**dict.fromkeys(MEASURES), **system, "flops": spent, "times": times})
    return rows


def _training(costs: Sequence[Row]) -> list[Row]:
    """The stages with their share of all FLOPs, and the sum."""
    if not costs:
        return []
    total = {"name": "all", **{unit: sum(row[unit] for row in costs) for unit in ("tokens", "flops")}}
    return [{**row, "share": row["flops"] / total["flops"] if total["flops"] else None} for row in [*costs, total]]


def sweep(rows: Sequence[Row], judges: Sequence[str]) -> str:
    """Fig. 3: delta over the temperature that both systems are sampled at, one panel a judge."""
    panels: dict[str, list[Series]] = {}
    for judge in judges:
        asked = sorted((row for row in rows if row["judge"] == judge), key=lambda row: row["temperature"])
        pairs = dict.fromkeys((row["left"], row["right"]) for row in rows)
        for (left, right), color in zip(pairs, COLORS, strict=False):
            mine = [row for row in asked if (row["left"], row["right"]) == (left, right)]
            places, values, lows, highs = (
                [row[name] for row in mine] for name in ("temperature", "delta", "low", "high")
            )
            if mine:
                series = Series(f"{left} vs {right}", places, values, lows, highs, color)
                panels.setdefault(f"judged by {judge}", []).append(series)
    return figures.error_bars(panels, xlabel="temperature", ylabel="delta, points") if panels else ""


def curves(metrics: Mapping[str, list[Row]]) -> str:
    """Fig. 4: training reward of every curriculum over its rounds, and what held-out prompts say of it."""
    panels = []
    for title, phase, name in (
        ("training reward: mean gap of a round's rollouts", "train", "objective/scores"),
        ("held-out gap over the policy's answers", "eval", "objective/scores"),
        ("truth: the hidden score on held-out prompts", "eval", "truth/score"),
    ):
        found = [(label, *records.curve(rows, phase, name)) for label, rows in metrics.items()]
        drawn = [
            Line(label, steps, values, color, faint=phase == "train", dots=phase == "eval")
            for (label, steps, values), color in zip(found, COLORS, strict=False)
            if steps
        ]
        if drawn:
            panels.append(Panel(title, drawn))
    return figures.curves(panels, xlabel="round") if panels else ""


def _gap_loss(row: Row, table: Sequence[PaperLine]) -> Row:
    """A gap model of the ablation: its name, its quality, the least of its five accuracies, and what RL on it gave by
    every judge, if anything was trained on it."""
    quality = gap_quality.restore(row["quality"])
    improved = next((line.cells for line in table if line.label == IMPROVERS.get(row["name"])), [])
    return {
        "name": row["name"],
        **asdict(quality),
        "weakest": min(quality.accuracies.values()),
        "improved": [cell for cell in improved if cell is not None],
    }
