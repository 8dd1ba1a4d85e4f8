"""Tables for the terminal, and names that must not become markup there."""

import io
from dataclasses import replace

import numpy as np
from rich.console import Console, RenderableType

from pit_jax.config import GatesConfig
from pit_jax.evaluation.gap_quality import Gate, gates, measure
from pit_jax.evaluation.results import Results
from pit_jax.evaluation.systems import SystemId
from pit_jax.report.tables import control_lines, gates_table, rewrites_table, summary_table
from tests.report.conftest import results

HOSTILE = "[red]x[/] [/b] [link=a]"
COMMAND = "\x1b[2J"  # clears a screen


def printed(what: RenderableType, width: int = 120) -> str:
    console = Console(width=width, record=True, file=io.StringIO())
    console.print(what)
    return console.export_text()


def test_the_summary_holds_the_deltas() -> None:
    text = printed(summary_table(results()))
    lines = [line for line in text.splitlines() if "PIT x2 vs policy" in line and "rubric" in line]
    assert len(lines) == 3
    assert "+8.0" in lines[1] and "+4.6 to +11.4" in lines[1] and "n = 1,024" in text


def test_what_was_kept_is_told_at_the_headline_temperature() -> None:
    """And what the gap would have made of the first improvement, once."""
    lines = [" ".join(line.split()) for line in printed(rewrites_table(results())).splitlines()]
    assert lines[0] == "rewrites of the policy's answers at T 0.8, and their flaws"
    figures = "90.0 [89.0, 91.0] 12.5 [11.0, 14.0] 40.0 401/291/1,507"
    assert lines[2:4] == [f"PIT x1 {figures}", f"SFT improver x1 {figures}"]
    assert " ".join(lines[4:]) == (
        "PIT x1 kept where the gap is above 0 (62.5%): +30.0, +28.0 to +32.2, by the truth; of 700 rewrites that "
        "differ in truth the gap is right on 85.2%, correlation 0.71"
    )


def test_a_terminal_of_80_columns_holds_what_was_kept() -> None:
    """Of data without a truth too."""
    found = results()
    whole = printed(rewrites_table(found), width=80)
    assert "401/291/1,507" in whole and "…" not in whole
    bare = [replace(row, flaws=None, gap=None) for row in found.rewrites]
    lines = printed(rewrites_table(replace(found, rewrites=bare)), width=80).splitlines()
    assert lines[2].split()[-2:] == ["40.0", "–"] and not any("gap" in line for line in lines)


def test_the_terminal_names_what_does_not_hold() -> None:
    assert str(control_lines(results())).splitlines() == [
        "controls at T 0.8, rubric: longest −60.0, copy 0.0, empty −100.0",
        "controls at T 0.8, gap: longest +12.5 (does not hold), copy 0.0, empty −100.0",
    ]


def test_hostile_names_are_printed_as_they_are() -> None:
    """Of a fork's judge, and of a branch."""
    found, branch = results(), SystemId("branch-improver", 1, HOSTILE)
    rows = [replace(row, judge=HOSTILE, left=branch) for row in found.rows]
    controls = [replace(control, row=replace(control.row, judge=HOSTILE)) for control in found.controls]
    rewrites = [replace(row, system=branch) for row in found.rewrites]
    hostile = Results([HOSTILE], 0.8, 6.0, rows, controls, found.systems, rewrites)
    text = printed(summary_table(hostile), width=200)
    assert text.count(f"{HOSTILE} x1 vs policy") == text.count(f" {HOSTILE} ") == len(rows)
    assert f"{HOSTILE} x1" in printed(rewrites_table(hostile), width=200)
    assert f"controls at T 0.8, {HOSTILE}: longest" in printed(control_lines(hostile), width=200)


def test_no_name_commands_the_terminal() -> None:
    found = results()
    rows = [replace(row, judge=COMMAND) for row in found.rows]
    controls = [replace(control, row=replace(control.row, judge=COMMAND)) for control in found.controls]
    hostile = Results([COMMAND], 0.8, 6.0, rows, controls, found.systems)
    for text in (printed(summary_table(hostile)), printed(control_lines(hostile))):
        assert COMMAND not in text and "␛[2J" in text


def test_the_gates_say_figure_and_limit() -> None:
    gap_N = np.array([1.0, 2.0])
    quality = measure({name: gap_N for name in ("wl", "ww", "ll", "lw")}, np.array([1, 1]))
    found: list[Gate] = gates(quality, GatesConfig())
    lines = [line.split() for line in printed(gates_table(found)).splitlines()]
    assert lines[0] == ["gates", "of", "the", "gap", "model"] and lines[1] == ["gate", "figure", "limit"]
    assert ["length", "–", "≤", "0.500", "passed"] in lines
    assert ["accuracy", "0.500", "≥", "1.207", "failed"] in lines
    assert len(lines) == 2 + len(found)
