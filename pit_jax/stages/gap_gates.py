"""The gap model's gates at work: measured on held-out pairs, enforced before RL."""

import json
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import jax
import numpy as np
from rich.table import Table

from pit_jax.batch import GapBatch
from pit_jax.data.stream import sequential
from pit_jax.evaluation.gap_quality import (
    NAMES,
    GapQuality,
    Gate,
    gates,
    measure,
    restore,
    verdict,
)
from pit_jax.stages.context import Context
from pit_jax.stages.models import load
from pit_jax.stages.rm import tree_gaps
from pit_jax.stages.workspace import write_json

HELDOUT_PAIRS = 1024  # at most, of the distributions and of every figure


def measure_heldout(context: Context) -> GapQuality:
    """Run the gap model over held-out pairs; writes gaps.json and quality.json beside it and prints the gates."""
    params, network = load(context, "rm", "improver"), context.scalar_model
    gaps_of = jax.jit(lambda params, batch: tree_gaps(network, params, batch))
    parts: dict[str, list[np.ndarray]] = {name: [] for name in NAMES}
    rows = {name: column[:HELDOUT_PAIRS] for name, column in context.data.arrays("heldout", "gap").items()}
    for arrays, real in sequential(rows, context.config.rm.batch_size):
        found = jax.device_get(gaps_of(params, context.put_rows(GapBatch, arrays)))
        for name in NAMES:
            parts[name].append(found[name][:real])
    gaps_N = {name: np.concatenate(pieces) for name, pieces in parts.items()}
    quality = measure(gaps_N, *known_differences(context, len(gaps_N["wl"])))
    folder = context.folder("rm", "improver").path
    write_json(folder / "gaps.json", {name: gap_N.tolist() for name, gap_N in gaps_N.items()})
    context.console.print(gates_table(write_quality(context, quality)))
    return quality


def known_differences(context: Context, count: int) -> tuple[np.ndarray, np.ndarray | None]:
    """Chosen minus rejected of the first held-out pairs: tokens, and the true score where a truth is known."""
    rows, truth = context.data.arrays("heldout", "prompts"), context.truth
    chosen_N, rejected_N = (rows[f"{name}_mask_BR"][:count].sum(axis=1, dtype=int) for name in ("chosen", "rejected"))
    if truth is None:
        return chosen_N - rejected_N, None
    pairs = context.data.triples("heldout")[:count]
    return chosen_N - rejected_N, np.array([truth(p.prompt, p.chosen) - truth(p.prompt, p.rejected) for p in pairs])


def write_quality(context: Context, quality: GapQuality) -> list[Gate]:
    """quality.json: the figures, and the gates under the limits of this run. A trunk keeps its own."""
    found, folder = gates(quality, context.config.rm.gates), context.folder("rm", "improver")
    content = {"quality": asdict(quality), "gates": [asdict(gate) for gate in found]}
    if folder.workdir == Path(context.config.workdir):
        write_json(folder.path / "quality.json", content)
    return found


def read_quality(context: Context) -> dict[str, Any] | None:
    """The figures in quality.json; None where nobody has measured them."""
    path = context.folder("rm", "improver").path / "quality.json"
    content: dict[str, Any] | None = json.loads(path.read_text(encoding="utf-8")) if path.exists() else None
    return content and content["quality"]


def gates_table(found: Sequence[Gate]) -> Table:
    """The gates for a terminal; red where one failed."""
    table = Table(title="gates of the gap model", title_justify="left", box=None, padding=(0, 2, 0, 0))
    for column in ("gate", "figure", "limit", ""):
        table.add_column(column, justify="right" if column in ("figure", "limit") else "left", no_wrap=True)
    for gate in found:
        figure = "–" if gate.figure is None else f"{gate.figure:.3f}"
        limit = f"{'≥' if gate.least else '≤'} {gate.limit:.3f}"
        table.add_row(
            gate.name, figure, limit, "passed" if gate.passed else "failed", style="" if gate.passed else "red"
        )
    return table


def require_gates(context: Context) -> dict[str, str]:
    """Check the gap model's figures against the limits of this run before its RL; measure them if nobody has.

    Returns:
        Notes for the lineage: empty, or the failed gates that --rl.ignore-gates let pass.

    Raises:
        ValueError: a gate failed; names the first one, its figure, its limit and what it means.
    """
    folder = context.folder("rm", "improver").path
    figures = read_quality(context)
    found = write_quality(context, measure_heldout(context) if figures is None else restore(figures))
    failed = [gate for gate in found if not gate.passed]
    if not failed:
        return {}
    listed = "; ".join(verdict(gate) for gate in failed)
    if context.config.rl.ignore_gates:
        context.console.print(f"[red]rl-improver: gates of the gap model ignored: {listed}[/]", soft_wrap=True)
        return {"gates": f"ignored: {listed}"}
    first, others = failed[0], ", ".join(gate.name for gate in failed[1:])
    raise ValueError(
        f"stage rl-improver refuses the gap model of {folder}: gate {verdict(first)} ({first.meaning})"
        f"{'; also failed: ' + others if others else ''}. Mend its data or its training (delete {folder} to train it "
        f"again){', move the limit with ' + first.knob if first.knob else ''}, or run anyway with --rl.ignore-gates"
    )
