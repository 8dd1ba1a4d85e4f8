"""What each phase of SPA did, from its manifest."""

from collections.abc import Mapping
from typing import Any

from rich.table import Table

from pit_jax.report.render import number

# column: where it stands in a manifest, what it is multiplied by, digits behind the point
COLUMNS: dict[str, tuple[tuple[str, ...], float, int]] = {
    "pairs": (("pairs", "count"), 1, 0),
    "labels right % (gold)": (("labels", "against gold", "accuracy"), 100, 1),
    "labels right % (truth)": (("labels", "against truth", "accuracy"), 100, 1),
    "taken for noise %": (("training", "noisy"), 100, 1),
    "of these wrong %": (("training", "wrong of noisy"), 100, 1),
    "of all wrong %": (("training", "wrong"), 100, 1),
    "margin": (("training", "margin"), 1, 2),
    "tokens": (("held-out", "tokens"), 1, 1),
    "KL to SFT": (("held-out", "kl"), 1, 2),
    "truth": (("held-out", "truth"), 1, 3),
}


def phase_lines(manifests: Mapping[str, Mapping[str, Any]]) -> list[tuple[str, list[str]]]:
    """(phase, its cells as text, one for each of COLUMNS); a dash where nothing is known."""
    return [(name, [_cell(manifest, *column) for column in COLUMNS.values()]) for name, manifest in manifests.items()]


def phase_table(manifests: Mapping[str, Mapping[str, Any]]) -> Table:
    """A line a phase."""
    table = Table(title="SPA", title_justify="left", box=None, padding=(0, 2, 0, 0))
    table.add_column("phase", no_wrap=True)
    for column in COLUMNS:
        table.add_column(column, justify="right")
    for name, cells in phase_lines(manifests):
        table.add_row(name, *cells)
    return table


def _cell(manifest: Mapping[str, Any], path: tuple[str, ...], times: float, digits: int) -> str:
    value: Any = manifest
    for name in path:
        value = value.get(name) if isinstance(value, Mapping) else None
    return number(None if value is None else times * value, digits)
