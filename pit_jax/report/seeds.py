"""What several seeds say together, for people: a table for the terminal, and workdir/report/index.html."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from rich.table import Table

from pit_jax.evaluation.stats.seeds import curve_over
from pit_jax.files import Row
from pit_jax.paths import METRICS, resolved
from pit_jax.report import figures, records
from pit_jax.report.figures import COLORS, Line, Panel, Repeated
from pit_jax.report.render import number, render, signed
from pit_jax.report.tables import STYLES
from pit_jax.terminal import plain_text

Tables = Mapping[str, Mapping[str, list[Row]]]  # by stage and name of the list: what seeds.aggregate returns
INK = {"good": COLORS[2], "bad": COLORS[3], "even": COLORS[5]}
CURVES = {
    "objective/scores": "proxy: the gap that RL maximises",
    "truth/score": "truth: the hidden score of the answers",
    "objective/kl": "KL to the SFT model, nats a response",
}


@dataclass(frozen=True)
class Group:
    """One list of rows: comparisons, with a figure a judge, or systems, which have none."""

    title: str
    rows: list[Row]
    compares: bool
    figures: list[tuple[str, str]]


def build(workdir: Path, tables: Tables, folders: Mapping[int, Path]) -> Path:
    """Write workdir/report/index.html and return its path.

    Args:
        workdir: the folder of all seeds.
        tables: by stage and list, the rows over seeds.
        folders: by seed, its own working folder, inside `workdir`.
    """
    reports = {seed: folder / "report" / "index.html" for seed, folder in folders.items()}
    links = {seed: f"../{path.relative_to(workdir).as_posix()}" for seed, path in reports.items() if path.is_file()}
    return render(
        "seeds.html.j2",
        workdir / "report" / "index.html",
        name=resolved(workdir).name,
        seeds=list(folders),
        reports=[(seed, links.get(seed)) for seed in folders],
        groups=[_group(f"{stage}: {name}", rows) for stage, lists in tables.items() for name, rows in lists.items()],
        tone=tone,
        curves=_curves([records.read_metrics(folder / "rl-improver" / METRICS) for folder in folders.values()]),
    )


def summary_table(tables: Tables, seeds: Sequence[int]) -> Table:
    """Every comparison over seeds for a terminal; green and red where the interval of the mean excludes 0."""
    title = f"win − lose over seeds {', '.join(map(str, seeds))}: mean, sd and 95% interval of the mean (Student's t)"
    table = Table(title=title, title_justify="left", box=None, padding=(0, 1, 0, 0))
    for column in ("T", "judge", "systems", "mean", "sd", "95% interval", "above 0", "each seed"):
        table.add_column(column, justify="left" if column in ("judge", "systems", "each seed") else "right")
    for stage, lists in tables.items():
        for name, rows in lists.items():
            compared = [row for row in rows if "judge" in row]
            if compared:
                table.add_section()
                table.add_row("", "", plain_text(f"{stage}: {name}"), style="bold")
            for row in compared:
                table.add_row(
                    "–" if row["temperature"] is None else f"{row['temperature']:g}",
                    plain_text(row["judge"]),
                    plain_text(f"{row['left']} vs {row['right']}"),
                    signed(row["mean"]),
                    number(row["sd"], 1),
                    f"{signed(row['low'])} to {signed(row['high'])}",
                    f"{row['above']} of {len(row['values'])}",
                    " ".join(signed(value) for value in row["values"]),
                    style=STYLES[tone(row)],
                )
    return table


def tone(row: Row) -> str:
    """good, bad or even: the interval of the mean lies above 0, below 0, or holds it."""
    return "good" if row["low"] > 0 else "bad" if row["high"] < 0 else "even"


def _group(title: str, rows: list[Row]) -> Group:
    judges = dict.fromkeys(row["judge"] for row in rows if "judge" in row)
    drawn = [(judge, _dots([row for row in rows if row["judge"] == judge])) for judge in judges]
    return Group(title, rows, bool(judges), drawn)


def _dots(rows: Sequence[Row]) -> str:
    """Intervals are drawn as far as a delta goes: that of two seeds may reach many times farther."""
    drawn = [
        Repeated(_label(row), row["values"], row["mean"], max(row["low"], -100), min(row["high"], 100), INK[tone(row)])
        for row in rows
    ]
    return figures.repeats(drawn, xlabel="win − lose, points")


def _label(row: Row) -> str:
    suffix = "" if row["temperature"] is None else f", T {row['temperature']:g}"
    return f"{row['left']} vs {row['right']}{suffix}"


def _curves(metrics: Sequence[list[Row]]) -> str:
    """The curves that every seed has, drawn; empty when there is none."""
    panels = []
    for color, (name, title) in zip(COLORS, CURVES.items(), strict=False):
        steps, spreads = curve_over([records.curve(rows, "eval", name) for rows in metrics])
        if steps:
            mean = [spread.mean for spread in spreads]
            band = [spread.mean - spread.sd for spread in spreads], [spread.mean + spread.sd for spread in spreads]
            panels.append(Panel(title, [Line(name, steps, mean, color, dots=True, band=band)]))
    return figures.curves(panels, xlabel="round") if panels else ""
