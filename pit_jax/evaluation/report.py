"""The one page a person opens: workdir/report/index.html, built from what the stages left behind."""

import json
import math
import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jinja2
from rich.table import Table
from rich.text import Text

from pit_jax.evaluation import paper_sections, records, sections, trails
from pit_jax.evaluation.sections import Section

STAGES = ("sft-policy", "sft-improver", "rm-policy", "rm-improver", "rl-policy", "rl-improver")
FOLDERS = (*STAGES, "improve", "evaluate", "paper")
RESULTS = ("judge_names", "headline_temperature", "rows", "controls", "systems", "max_score")
TRAILS_SHOWN = 8
PREFIXES = ("", "k", "M", "G", "T", "P", "E")


@dataclass(frozen=True)
class Headline:
    """The first sentence. `tone` is good, bad or even: where the 95% interval lies against 0."""

    text: str
    detail: str
    tone: str


def build(workdir: Path, places: Mapping[str, Path] | None = None) -> Path:
    """Write workdir/report/index.html from the files that exist; a section without its file names the stage to run.

    Args:
        workdir: folder of the run.
        places: folders of stages, and of `data`, that lie elsewhere: a branch reads those of its trunk.

    Returns:
        The path of the page, replaced in one piece: a reader never sees half of it.

    Raises:
        ValueError: no such folder, or a file in it that is not what a stage writes.
    """
    workdir = Path(workdir)
    if not workdir.is_dir():
        raise ValueError(
            f"report: asked for {workdir}, found no such folder; run a stage with --workdir={workdir} first"
        )
    elsewhere = places or {}

    def place(name: str) -> Path:
        return elsewhere.get(name, workdir / name)

    results = _results(workdir / "evaluate" / "results.json")
    rows = results["rows"] if results else []
    return render(
        "report.html.j2",
        workdir / "report" / "index.html",
        name=workdir.resolve().name,
        headline=headline(results) if results else None,
        groups=_by_temperature(rows),
        bar=_Bar(rows),
        tone=tone,
        controls=results["controls"] if results else [],
        headline_temperature=results["headline_temperature"] if results else None,
        systems=results["systems"] if results else [],
        max_score=results["max_score"] if results else None,
        paper=paper_sections.build(workdir),
        curves=_curves(place),
        trails=trails.sample(records.read_lines(workdir / "improve" / "trails.jsonl"), TRAILS_SHOWN),
        documents=_documents(place),
    )


def render(template: str, target: Path, **values: Any) -> Path:
    """Write the page that a template makes of the values, in one piece, and return its path."""
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(Path(__file__).with_name("templates")),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {"number": number, "signed": signed, "percent": percent, "scaled": scaled}
    page = environment.get_template(template).render(**values)
    target.parent.mkdir(exist_ok=True)
    draft = target.with_name(f"{target.name}.tmp")
    draft.write_text(page, encoding="utf-8")
    os.replace(draft, target)
    return target


def headline(results: dict[str, Any]) -> Headline | None:
    """One improvement against the policy, at the headline temperature, by the first judge; None without any row."""
    rows = results["rows"]
    judge = results["judge_names"][0] if results["judge_names"] else None

    def rank(row: dict[str, Any]) -> tuple[bool, ...]:
        at_temperature = row["temperature"] == results["headline_temperature"]
        return (row["judge"] != judge, not at_temperature, row["left"] != "PIT x1", row["right"] != "policy")

    if not rows:
        return None
    row = min(rows, key=rank)
    texts = {
        "good": f"{row['left']} beats {row['right']} by {abs(row['delta']):.1f} points",
        "bad": f"{row['left']} loses to {row['right']} by {abs(row['delta']):.1f} points",
        "even": f"{row['left']} and {row['right']} cannot be told apart ({signed(row['delta'])} points)",
    }
    detail = (
        f"win {row['win']:.1f}% − lose {row['lose']:.1f}%, 95% interval {signed(row['low'])} to {signed(row['high'])}; "
        f"judged by {row['judge']} on {row['n']:,} held-out prompts, both sampled at temperature {row['temperature']}."
    )
    return Headline(texts[tone(row)], detail, tone(row))


def tone(row: dict[str, Any]) -> str:
    """good, bad or even: the 95% interval lies above 0, below 0, or holds it."""
    return "good" if row["low"] > 0 else "bad" if row["high"] < 0 else "even"


def summary_table(results: dict[str, Any]) -> Table:
    """The deltas for a terminal; green and red where the interval excludes 0."""
    counts = ", ".join(f"{n:,}" for n in sorted({row["n"] for row in results["rows"]}))
    title = f"win − lose at matched temperature T, n = {counts} prompts"
    table = Table(title=title, title_justify="left", box=None, padding=(0, 1, 0, 0))
    for column in ("T", "judge", "systems", "win/lose/tie %", "delta", "95% interval"):
        table.add_column(column, justify="left" if column in ("judge", "systems") else "right", no_wrap=True)
    styles = {"good": "green", "bad": "red", "even": ""}
    for position, row in enumerate(results["rows"]):
        following = results["rows"][position + 1 : position + 2]
        table.add_row(
            f"{row['temperature']:g}",
            row["judge"],
            f"{row['left']} vs {row['right']}",
            "/".join(number(row[name], 1) for name in ("win", "lose", "tie")),
            signed(row["delta"]),
            f"{signed(row['low'])} to {signed(row['high'])}",
            style=styles[tone(row)],
            end_section=bool(following) and following[0]["temperature"] != row["temperature"],
        )
    return table


def control_lines(results: dict[str, Any]) -> str:
    """For a terminal, one line a judge with the deltas of the controls; what does not hold says so."""
    lines = []
    for judge in results["judge_names"]:
        rows = [row for row in results["controls"] if row["judge"] == judge]
        found = [f"{row['left']} {signed(row['delta'])}{'' if row['holds'] else ' (does not hold)'}" for row in rows]
        lines.append(f"controls at T {results['headline_temperature']:g}, {judge}: {', '.join(found)}")
    return "\n".join(lines)


def paper_table(results: dict[str, Any]) -> Table:
    """Table 1 of workdir/paper/results.json for a terminal: every system against the policy, by every judge."""
    temperature, count = results["headline_temperature"], results["prompts"]
    title = f"win − lose against the policy at temperature {temperature:g}, n = {count:,} prompts"
    table = Table(title=title, title_justify="left", box=None, padding=(0, 2, 0, 0))
    table.add_column("system", no_wrap=True)
    table.add_column("tokens", justify="right", no_wrap=True)
    for judge in results["judge_names"]:
        table.add_column(Text(judge), justify="right", no_wrap=True)
        table.add_column("95% interval", justify="right", no_wrap=True)
    styles = {"good": "green", "bad": "red", "even": ""}
    tokens = {system["name"]: system["tokens_mean"] for system in results["systems"] or ()}
    for line in paper_sections.lines(results["table"] or (), results["judge_names"]):
        cells: list[str | Text] = [Text(line.label), number(tokens.get(line.label), 1)]
        for row in line.cells:
            texts = (signed(row["delta"]), f"{signed(row['low'])} to {signed(row['high'])}") if row else ("–", "–")
            cells += [Text(text, styles[tone(row)] if row else "") for text in texts]
        table.add_row(*cells)
    return table


def number(value: Any, digits: int = 2) -> str:
    """A number for a table; an en dash for what is missing or not finite."""
    if not isinstance(value, int | float) or not math.isfinite(value):
        return "–"
    return f"{value:,.{digits}f}"


def percent(share: Any) -> str:
    """A share as a percentage, or an en dash."""
    return number(100.0 * share, 1) if isinstance(share, int | float) else number(share)


def signed(value: Any, digits: int = 1) -> str:
    """+12.5, −3.0 (a real minus sign), 0.0, or an en dash."""
    text = number(value, digits)
    if text == "–" or round(value, digits) == 0:
        return text.removeprefix("-")
    return f"{value:+,.{digits}f}".replace("-", "−")


def scaled(value: Any) -> str:
    """Three digits and a prefix: 1.23 G for 1.23e9."""
    if not isinstance(value, int | float) or not math.isfinite(value):
        return "–"
    rounded = float(f"{value:.3g}")
    thousands = min(int(math.log10(max(abs(rounded), 1.0)) // 3), len(PREFIXES) - 1)
    return f"{rounded / 1000**thousands:g} {PREFIXES[thousands]}".rstrip()


@dataclass(frozen=True)
class _Bar:
    """Places deltas on a track whose middle is 0 and whose ends are +-`scale`."""

    rows: Sequence[dict[str, Any]]

    @property
    def scale(self) -> float:
        ends = [abs(row[end]) for row in self.rows for end in ("low", "high") if math.isfinite(row[end])]
        return min(100.0, math.ceil(max([*ends, 1.0]) / 10) * 10.0)

    def place(self, value: float) -> float:
        """Percent from the left end."""
        return round(50 + 50 * max(-1.0, min(1.0, value / self.scale)), 2) if math.isfinite(value) else 50.0


def _by_temperature(rows: Sequence[dict[str, Any]]) -> list[tuple[float, list[dict[str, Any]]]]:
    return [
        (t, [row for row in rows if row["temperature"] == t]) for t in dict.fromkeys(row["temperature"] for row in rows)
    ]


def _results(path: Path) -> dict[str, Any] | None:
    results = records.read_json(path)
    if results is not None and (missing := [name for name in RESULTS if name not in results]):
        raise ValueError(
            f"{path}: asked for what --stage=evaluate writes, found nothing under {', '.join(missing)}; "
            f"delete {path.parent} and run that stage again"
        )
    return results


def _curves(place: Callable[[str], Path]) -> list[Section]:
    metrics = {stage: records.read_metrics(place(stage) / "metrics.jsonl") for stage in STAGES}
    done = {model: records.read_json(place(f"rl-{model}") / "done.json") for model in ("policy", "improver")}
    return [
        sections.reinforcement("improver", metrics["rl-improver"], done["improver"]),
        sections.gaps(
            records.read_json(place("rm-improver") / "gaps.json"),
            metrics["rm-improver"],
            records.read_json(place("rm-improver") / "quality.json"),
            records.read_json(place("evaluate") / "gap_outputs.json"),
        ),
        sections.reinforcement("policy", metrics["rl-policy"], done["policy"]),
        sections.reward_models(metrics["rm-policy"], metrics["rm-improver"]),
        sections.fine_tuning(metrics["sft-policy"], metrics["sft-improver"]),
    ]


def _documents(place: Callable[[str], Path]) -> list[tuple[str, str]]:
    """(name, pretty JSON) of the configs, lineages and the data report that exist."""
    names = [("data", "report.json"), *((stage, f"{file}.json") for stage in FOLDERS for file in ("config", "lineage"))]
    found = [(f"{stage}/{file}", records.read_json(place(stage) / file)) for stage, file in names]
    return [(name, json.dumps(content, indent=2, ensure_ascii=False)) for name, content in found if content is not None]
