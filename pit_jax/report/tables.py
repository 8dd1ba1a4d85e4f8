"""Tables for the terminal; green and red where an interval excludes 0."""

from collections.abc import Sequence
from dataclasses import dataclass

from rich.table import Table
from rich.text import Text

from pit_jax.evaluation.gap_quality import Gate
from pit_jax.evaluation.results import ComparisonRow, PaperResults, Results
from pit_jax.evaluation.rewrites import GapCheck
from pit_jax.evaluation.systems import POLICY, SystemId, pit
from pit_jax.report.render import number, percent, signed
from pit_jax.terminal import plain_text

STYLES = {"good": "green", "bad": "red", "even": ""}


@dataclass(frozen=True)
class PaperLine:
    """One line of a table with a cell a judge; None where a judge was not asked."""

    label: str
    cells: list[ComparisonRow | None]


def gates_table(gates: Sequence[Gate]) -> Table:
    """The gates of the gap model; red where one failed."""
    table = Table(title="gates of the gap model", title_justify="left", box=None, padding=(0, 2, 0, 0))
    for column in ("gate", "figure", "limit", ""):
        table.add_column(column, justify="right" if column in ("figure", "limit") else "left", no_wrap=True)
    for gate in gates:
        figure = "–" if gate.figure is None else f"{gate.figure:.3f}"
        limit = f"{'≥' if gate.least else '≤'} {gate.limit:.3f}"
        table.add_row(
            gate.name, figure, limit, "passed" if gate.passed else "failed", style="" if gate.passed else "red"
        )
    return table


def summary_table(results: Results) -> Table:
    """The deltas of evaluate/results.json."""
    counts = ", ".join(f"{n:,}" for n in sorted({row.n for row in results.rows}))
    title = f"win − lose at matched temperature T, n = {counts} prompts"
    table = Table(title=title, title_justify="left", box=None, padding=(0, 1, 0, 0))
    for column in ("T", "judge", "systems", "win/lose/tie %", "delta", "95% interval"):
        table.add_column(column, justify="left" if column in ("judge", "systems") else "right", no_wrap=True)
    for position, row in enumerate(results.rows):
        following = results.rows[position + 1 : position + 2]
        table.add_row(
            f"{row.temperature:g}",
            plain_text(row.judge),
            plain_text(row.systems),
            "/".join(number(share, 1) for share in (row.win, row.lose, row.tie)),
            signed(row.delta),
            f"{signed(row.low)} to {signed(row.high)}",
            style=STYLES[row.tone],
            end_section=bool(following) and following[0].temperature != row.temperature,
        )
    return table


def rewrites_table(results: Results) -> Table:
    """What was kept and added at the headline temperature, and below it what the gap would have made of the first."""
    rows = [row for row in results.rewrites if row.temperature == results.headline_temperature]
    table = Table(
        title=f"rewrites of the policy's answers at T {results.headline_temperature:g}, and their flaws",
        title_justify="left",
        caption=plain_text("\n".join(gap_line(pit(1), row.gap) for row in rows if row.system == pit(1) and row.gap)),
        caption_justify="left",
        caption_style="",
        box=None,
        padding=(0, 1, 0, 0),
    )
    for column in ("system", "words kept %", "words new %", "copies %", "mended/made/of"):
        table.add_column(column, justify="left" if column == "system" else "right", no_wrap=True)
    for row in rows:
        shares = [f"{percent(of.mean)} [{percent(of.low)}, {percent(of.high)}]" for of in (row.kept, row.new)]
        flaws = f"{row.flaws.mended:,}/{row.flaws.made:,}/{row.flaws.of:,}" if row.flaws else "–"
        table.add_row(*map(plain_text, (str(row.system), *shares, percent(row.copied.mean), flaws)))
    return table


def gap_line(system: SystemId, gap: GapCheck) -> str:
    """What keeping the rewrites with a gap above 0 gives, and how often the gap is right."""
    above = gap.above_zero
    interval = f"{signed(above.low)} to {signed(above.high)}"
    return (
        f"{system} kept where the gap is above 0 ({percent(gap.taken)}%): {signed(above.delta)}, {interval}, by "
        f"the truth; of {gap.pairs:,} rewrites that differ in truth the gap is right on {percent(gap.accuracy)}%, "
        f"correlation {number(gap.correlation)}"
    )


def control_lines(results: Results) -> Text:
    """One line a judge with the deltas of the controls; what does not hold says so."""
    rendered = []
    for judge in results.judges:
        controls = [control for control in results.controls if control.row.judge == judge]
        told = [
            f"{control.row.left} {signed(control.row.delta)}{'' if control.holds else ' (does not hold)'}"
            for control in controls
        ]
        rendered.append(f"controls at T {results.headline_temperature:g}, {judge}: {', '.join(told)}")
    return plain_text("\n".join(rendered))


def lines(rows: Sequence[ComparisonRow], judges: Sequence[str]) -> list[PaperLine]:
    """One line a comparison with a cell a judge, in the order of the rows. The policy on the right is left unsaid."""
    pairs = dict.fromkeys((row.left, row.right) for row in rows)
    cells = {(row.left, row.right, row.judge): row for row in rows}
    return [
        PaperLine(
            str(left) if right == POLICY else f"{left} vs {right}",
            [cells.get((left, right, judge)) for judge in judges],
        )
        for left, right in pairs
    ]


def paper_table(results: PaperResults) -> Table:
    """Table 1: every system against the policy, by every judge."""
    title = f"win − lose against the policy at temperature {results.headline_temperature:g}"
    table = Table(
        title=f"{title}, n = {results.prompts:,} prompts", title_justify="left", box=None, padding=(0, 2, 0, 0)
    )
    table.add_column("system", no_wrap=True)
    table.add_column("tokens", justify="right", no_wrap=True)
    for judge in results.judges:
        table.add_column(plain_text(judge), justify="right", no_wrap=True)
        table.add_column("95% interval", justify="right", no_wrap=True)
    tokens = {system.name: system.tokens_mean for system in results.systems}
    for line in lines(results.table, results.judges):
        cells: list[str | Text] = [plain_text(line.label), number(tokens.get(line.label), 1)]
        for row in line.cells:
            texts = (signed(row.delta), f"{signed(row.low)} to {signed(row.high)}") if row else ("–", "–")
            cells += [Text(text, STYLES[row.tone] if row else "") for text in texts]
        table.add_row(*cells)
    return table
