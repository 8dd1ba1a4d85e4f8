"""report/spa.py: a line a phase, from manifests of which some know less."""

import io
from pathlib import Path

from rich.console import Console

from pit_jax.evaluation.results import Results, write_results
from pit_jax.evaluation.systems import DPO_SEED, SystemId, spa
from pit_jax.files import write_json
from pit_jax.report.spa import COLUMNS, phase_lines, phase_table
from tests.report.pages import built, compared

GOLD = {
    "pairs": {"count": 1980},
    "training": {"noisy": 0.0, "wrong": 0.125, "wrong of noisy": None, "margin": 0.25},
    "held-out": {"tokens": 61.25, "kl": 0.5, "truth": None},
}
OWN = {
    "pairs": {"count": 8000},
    "labels": {"by": "sft", "against gold": {"pairs": 900, "accuracy": 0.625}, "against truth": None},
    "training": {"noisy": 0.1, "wrong": 0.3, "wrong of noisy": 0.4, "margin": -1.5},
    "held-out": {"tokens": 70.0, "kl": 2.125, "truth": 3.5},
}


def test_cells_are_figures_and_dashes() -> None:
    """Of gold pairs nobody asks whether their labels are right; where no truth is known there is a dash."""
    (first, gold), (second, own) = phase_lines({"seed": GOLD, "iteration-1": OWN})
    assert (first, second) == ("seed", "iteration-1")
    assert gold == ["1,980", "–", "–", "0.0", "–", "12.5", "0.25", "61.2", "0.50", "–"]
    assert own == ["8,000", "62.5", "–", "10.0", "40.0", "30.0", "-1.50", "70.0", "2.12", "3.500"]
    assert len(COLUMNS) == len(own)


def test_a_phase_of_which_nothing_is_known_is_a_line_of_dashes() -> None:
    assert phase_lines({"iteration-2": {}}) == [("iteration-2", ["–"] * len(COLUMNS))]


def test_the_table_has_a_line_a_phase() -> None:
    console = Console(width=200, record=True, file=io.StringIO())
    console.print(phase_table({"seed": GOLD, "iteration-1": OWN}))
    lines = console.export_text().splitlines()
    assert lines[0].split() == ["SPA"] and all(column in lines[1] for column in COLUMNS)
    assert [line.split()[:3] for line in lines[2:]] == [["seed", "1,980", "–"], ["iteration-1", "8,000", "62.5"]]


def test_the_page_has_a_section_once_there_is_a_phase(tmp_path: Path) -> None:
    """Curves over phases, and the tables once they are made; names of systems are text."""
    (tmp_path / "spa-policy").mkdir()
    assert "SPA" not in built(tmp_path).words
    for name, manifest in (("seed", GOLD), ("iteration-1", OWN)):
        write_json(tmp_path / "spa-policy" / name / "manifest.json", manifest)
    page = built(tmp_path)
    assert page.tags.count("svg") == 1 and "seed 1,980 – – 0.0" in page.words
    assert "against DPO on the gold pairs, and what changes" not in page.words
    rows = [compared(spa(1), DPO_SEED), compared(SystemId("branch-policy", source="<b>mine</b>"), DPO_SEED)]
    results = Results(["rubric"], 1.0, 7.0, rows, [], [])
    write_results(tmp_path / "spa-tables" / "results.json", results)
    page = built(tmp_path)
    assert "SPA x1 vs DPO on the seed" in page.words and "<b>mine</b> vs DPO on the seed" in page.words
    assert "<b>mine" not in page.text and "SPA x1 beats DPO on the seed by 5.0 points" in page.words
