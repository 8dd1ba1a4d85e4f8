"""What each phase of SPA did, from its manifest, and what its tables say."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from rich.table import Table

from pit_jax.evaluation.results import ComparisonRow, Results, read_results
from pit_jax.evaluation.systems import SystemRow
from pit_jax.files import read_json
from pit_jax.report import figures
from pit_jax.report.bars import Bar, by_temperature
from pit_jax.report.figures import COLORS, Line, Panel
from pit_jax.report.render import number
from pit_jax.run.folders import Run
from pit_jax.run.provenance import StageId

SPA, TABLES = StageId("spa", "policy"), StageId("spa-tables")
MANIFEST = "manifest.json"

# column: where it stands in a manifest, what it is multiplied by, digits behind the point
COLUMNS: dict[str, tuple[tuple[str, ...], float, int]] = {
    "pairs": (("pairs", "count"), 1, 0),
    "right by gold %": (("labels", "against gold", "accuracy"), 100, 1),
    "right by truth %": (("labels", "against truth", "accuracy"), 100, 1),
    "noise %": (("training", "noisy"), 100, 1),
    "wrong of noise %": (("training", "wrong of noisy"), 100, 1),
    "wrong %": (("training", "wrong"), 100, 1),
    "margin": (("training", "margin"), 1, 2),
    "tokens": (("held-out", "tokens"), 1, 1),
    "KL to SFT": (("held-out", "kl"), 1, 2),
    "truth": (("held-out", "truth"), 1, 3),
}


CURVES = {
    "labels right, by gold labels and by the truth": ("right by gold %", "right by truth %"),
    "truth: the hidden score on held-out prompts": ("truth",),
    "KL to the SFT model, nats an answer": ("KL to SFT",),
    "tokens of an answer": ("tokens",),
}


@dataclass(frozen=True)
class Spa:
    """What the page shows of it."""

    columns: list[str]
    phases: list[tuple[str, list[str]]]
    curves: str
    results: Results | None
    """Of --stage=spa-tables."""

    @property
    def rows(self) -> list[ComparisonRow]:
        return self.results.rows if self.results else []

    @property
    def groups(self) -> list[tuple[float, list[ComparisonRow]]]:
        return by_temperature(self.rows)

    @property
    def bar(self) -> Bar:
        return Bar(self.rows)

    @property
    def systems(self) -> list[SystemRow]:
        return self.results.systems if self.results else []


def build(run: Run) -> Spa | None:
    """All that a run holds of SPA; None where it has none. UserError where the tables are not what the stage writes."""
    manifests = manifests_of(run)
    if not manifests:
        return None
    return Spa(
        columns=list(COLUMNS),
        phases=phase_lines(manifests),
        curves=curves(list(manifests.values())),
        results=read_results(run.folder(TABLES).path / "results.json", Results),
    )


def manifests_of(run: Run) -> dict[str, dict[str, Any]]:
    """What is known of each phase, by its name."""
    folder = run.folder(SPA)
    read = {name: read_json(folder.of(name).path / MANIFEST) for name in folder.stage.phases(run.config)}
    return {name: manifest for name, manifest in read.items() if manifest is not None}


def curves(manifests: Sequence[Mapping[str, Any]]) -> str:
    """Figures over the phases, of which the gold pairs' is 0."""
    panels = []
    for title, columns in CURVES.items():
        lines = []
        for column, color in zip(columns, COLORS, strict=False):
            found = {phase: value(manifest, column) for phase, manifest in enumerate(manifests)}
            known = {phase: x for phase, x in found.items() if x is not None}
            if known:
                lines.append(Line(column, list(known), list(known.values()), color, dots=True))
        if lines:
            panels.append(Panel(title, lines))
    return figures.curves(panels, xlabel="iteration") if len(manifests) > 1 and panels else ""


def phase_lines(manifests: Mapping[str, Mapping[str, Any]]) -> list[tuple[str, list[str]]]:
    """(phase, its cells as text, one for each of COLUMNS); a dash where nothing is known."""
    return [
        (name, [number(value(manifest, column), digits) for column, (*_, digits) in COLUMNS.items()])
        for name, manifest in manifests.items()
    ]


def phase_table(manifests: Mapping[str, Mapping[str, Any]]) -> Table:
    """A line a phase."""
    table = Table(title="SPA", title_justify="left", box=None, padding=(0, 2, 0, 0))
    table.add_column("phase", no_wrap=True)
    for column in COLUMNS:
        table.add_column(column, justify="right")
    for name, cells in phase_lines(manifests):
        table.add_row(name, *cells)
    return table


def value(manifest: Mapping[str, Any], column: str) -> float | None:
    """What stands in a manifest under a column; None where nothing is known."""
    path, times, _ = COLUMNS[column]
    found: Any = manifest
    for name in path:
        found = found.get(name) if isinstance(found, Mapping) else None
    return None if found is None else float(times * found)
