"""report/paper.py: what --stage=paper writes, on the page and in the terminal."""

import io
import json
from collections.abc import Callable
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest
from rich.console import Console

from pit_jax.evaluation.failures import Failure
from pit_jax.evaluation.gap_quality import measure
from pit_jax.evaluation.results import CostRow, Costs, GapLossRow, PaperResults, RatingRow, write_results
from pit_jax.evaluation.systems import CHOSEN, DPO, POLICY, SFT_IMPROVER, SystemId, SystemRow, pit
from pit_jax.report import page, paper
from pit_jax.report.tables import paper_table
from tests.report.pages import Page, built, compared, measured, run_of

HOSTILE = "<script>'$\\frac$&[red]\""
JUDGES = ("rubric", "gap")
REFINED, BEST = SystemId("self-refine", 4), SystemId("best-of-n", 2)
FIRST, SECOND = (SystemId("branch-improver", 1, name) for name in ("first-only", "second-only"))
SYSTEMS = (POLICY, CHOSEN, pit(1), pit(2), pit(3), SFT_IMPROVER, REFINED, BEST, DPO)
EMPTY: dict[str, Any] = {name: [] for name in ("systems", "table", "sweep", "curriculum", "gap_losses", "failures")} | {
    "ratings": {},
    "costs": Costs([], []),
}
TITLES = (
    "Table 1: every system against the policy",
    "What an answer costs",
    "What training cost",
    "Figure 3: the improvement temperature",
    "Table 2: the curriculum",
    "Figure 4: rewards of the curricula",
    "Table 3: ratings",
    "What the five terms of the gap loss are for",
    "The worst improvements",
)


def system(name: SystemId, place: int) -> SystemRow:
    edits = None if name in (POLICY, CHOSEN) else 0.1
    scores = {"score_mean": 5.0 + 0.1 * place, "length_mean": 24.0 + place, "eos_rate": 0.995}
    drawn = 0.0 if name == CHOSEN else 24.0 * (1 + place)
    return measured(name, 1.0, copy_rate=edits, edit_distance=edits, tokens_mean=drawn, **scores)


def gap_loss(name: str, spread: float, made: SystemId) -> GapLossRow:
    rng, centers = np.random.default_rng(0), {"wl": 2.0, "ww": 0.0, "ll": 0.0, "lw": -2.0}
    gaps = {key: rng.normal(center * spread, 1.0, 300) for key, center in centers.items()}
    return GapLossRow(name, measure(gaps, rng.integers(-5, 6, 300), np.linspace(1, 4, 300)), made)


def ratings() -> list[RatingRow]:
    found = ((pit(1), 35.0), (SystemId("self-refine", 1), 5.0), (POLICY, -40.0))
    return [RatingRow(name, at, at - 9, at + 9, 1500 + at, 1440.0, 1570.0) for name, at in found]


def paper_results() -> PaperResults:
    """Deltas: 2 points a place among SYSTEMS, less 4 by the gap; the sweep loses 1 point a tenth of temperature."""
    pairs = ((pit(1), POLICY), (REFINED, POLICY), (pit(1), REFINED))
    ablations = ((FIRST, POLICY), (SECOND, POLICY), (pit(1), FIRST))
    texts = "write to anna about the club", "dear anna , bring a cake . warmly", "dear anna , bring cake cake . warmly"
    return PaperResults(
        judges=list(JUDGES),
        headline_temperature=1.0,
        max_score=7.0,
        prompts=1024,
        systems=[system(name, place) for place, name in enumerate(SYSTEMS)],
        table=[
            compared(name, POLICY, judge, 1.0, 2.0 * place - 4.0 * (judge == "gap"))
            for place, name in enumerate(SYSTEMS[1:], 1)
            for judge in JUDGES
        ],
        sweep=[
            compared(*pair, judge, tenths / 10, 12.0 - 4.0 * i - tenths)
            for tenths in (2, 4, 6, 8, 10)
            for judge in JUDGES
            for i, pair in enumerate(pairs)
        ],
        curriculum=[compared(*pair, judge, 1.0, 6.5) for pair in ablations for judge in JUDGES],
        ratings={judge: ratings() for judge in JUDGES},
        gap_losses=[
            gap_loss("five terms", 1.0, pit(1)),
            gap_loss("wl over lw alone", 0.1, SystemId("branch-improver", 1, "pair-gap")),
        ],
        costs=Costs(
            training=[CostRow("sft-policy", 1.4e6, 1e12), CostRow("rl-improver", 1.0e7, 3e12)],
            answers=[CostRow(str(name), 24.0, 2.5e6 * (1 + place)) for place, name in enumerate(SYSTEMS)],
        ),
        failures=[Failure(*texts, 6.0, 3.0, "rubric"), Failure(*texts, None, -2.31, "gap")],
    )


def metrics(rise: float) -> str:
    rows: list[dict[str, Any]] = []
    for step in range(40):
        rows.append({"step": step, "phase": "train", "objective/scores": rise * step, "curriculum/phase": 0.0})
        if step % 5 == 0:
            rows.append({"step": step, "phase": "eval", "objective/scores": rise * step, "truth/score": 5 + rise})
    return "".join(json.dumps(row) + "\n" for row in rows)


@pytest.fixture
def shown(tmp_path: Path) -> Callable[..., Page]:
    """shown(results, curves=True) -> the page of a folder that holds them."""

    def show(results: PaperResults, *, curves: bool = False) -> Page:
        write_results(tmp_path / "paper" / "results.json", results)
        for i, place in enumerate(paper.CURRICULA.values() if curves else ()):
            (tmp_path / place).mkdir(parents=True)
            (tmp_path / place / "metrics.jsonl").write_text(metrics(0.1 * (i + 1)))
        return built(tmp_path)

    return show


def test_every_table_and_figure_is_on_the_page(shown: Callable[..., Page]) -> None:
    page = shown(paper_results(), curves=True)
    places = [page.words.index(title) for title in TITLES]
    assert places == sorted(places)
    assert page.tags.count("svg") == 3  # the sweep, the rewards, and the curves of rl-improver itself
    for words in (
        "on 1,024 held-out prompts, at temperature 1.0 unless",
        "PIT x1 +4.0 +0.5 to +7.5 34.0 / 30.0 / 36.0 51.3 49.3 to 53.3 0.0 −3.5 to +3.5 30.0 / 30.0 / 40.0 50.0",
        "PIT x1 5.20 0.80 26.0 72.0 7.5 M 3.0 10.0 10.0 99.5",
        "chosen 5.10 0.80 25.0 0.0 5 M 2.0 – – 99.5",
        "rl-improver 10 M 3 T 75.0 all 11.4 M 4 T 100.0",
        "PIT x1 vs first-only x1 +6.5",
        "PIT x1 +35.0 +26.0 to +44.0 1,535.0 1,440.0 to 1,570.0",
        "before rubric 6.00 dear anna , bring a cake . warmly",
        "PIT x1 gap −2.31 dear anna , bring a cake cake . warmly",  # "a" is struck out, the second "cake" is new
    ):
        assert words in page.words
    assert "<del>a</del> " in page.text and "<ins>cake</ins> " in page.text
    for words in ("judged by rubric", "PIT x1 vs Self-Refine x4", "second phase only", "held-out gap over the policy"):
        assert words in page.text


def test_ratings_keep_their_order_and_open_ends_are_dashes(shown: Callable[..., Page]) -> None:
    results = paper_results()
    results.ratings["gap"][2] = replace(results.ratings["gap"][2], low=float("-inf"), high=float("inf"))
    page = shown(results)
    table = page.words[page.words.index("judged by gap Bradley-Terry") :]
    assert table.index("PIT x1") < table.index("Self-Refine x1") < table.index("policy −40.0 – to – 1,460.0")


def test_the_gap_losses_are_told_by_their_qualities(shown: Callable[..., Page]) -> None:
    results = paper_results()
    page = shown(results)
    for row in results.gap_losses:
        assert row.quality is not None
        weakest = 100 * min(row.quality.accuracies.values())
        assert f"{row.name} 300 {100 * row.quality.accuracies['wl_lw']:.1f} {weakest:.1f}" in page.words


def test_the_gap_losses_are_told_by_what_rl_made_of_them(tmp_path: Path) -> None:
    """2 points a place, PIT x1 at the second; nobody compared the improver of the other model."""
    write_results(tmp_path / "paper" / "results.json", paper_results())
    found = paper.build(tmp_path, tmp_path / "rl-improver")
    assert found is not None
    five, pair = (row.improved for row in found.gap_losses)
    assert [(cell.judge, cell.left, cell.delta) for cell in five] == [("rubric", pit(1), 4.0), ("gap", pit(1), 0.0)]
    assert pair == []


@pytest.mark.parametrize("name", [*EMPTY, "everything"])
def test_parts_that_are_missing_leave_their_section_out(shown: Callable[..., Page], name: str) -> None:
    """A run without ablations has no curves of other curricula either."""
    results = replace(paper_results(), **(EMPTY if name == "everything" else {name: EMPTY[name]}))
    page = shown(replace(results, max_score=None))
    assert "The paper's tables and figures" in page.words
    gone = {
        "systems": {TITLES[1]},
        "table": {TITLES[0]},
        "sweep": {TITLES[3]},
        "curriculum": {TITLES[4]},
        "ratings": {TITLES[6]},
        "gap_losses": {TITLES[7]},
        "failures": {TITLES[8]},
        "costs": {TITLES[2]},
        "everything": set(TITLES),
    }[name]
    assert {title for title in TITLES if title not in page.words} == gone | {TITLES[5]}


def test_a_gap_model_that_nobody_measured_has_no_line(shown: Callable[..., Page]) -> None:
    results = replace(paper_results(), gap_losses=[GapLossRow("five terms", None, pit(1))])
    assert TITLES[7] not in shown(results).words


def test_systems_without_costs(shown: Callable[..., Page]) -> None:
    page = shown(replace(paper_results(), costs=Costs([], [])))
    assert "PIT x1 5.20 0.80 26.0 72.0 – – 10.0" in page.words and "What training cost" not in page.words


def test_a_judge_that_was_not_asked_leaves_a_dash(shown: Callable[..., Page]) -> None:
    results = paper_results()
    table = [row for row in results.table if (row.left, row.judge) != (DPO, "gap")]
    assert "DPO +16.0 +12.5 to +19.5 46.0 / 30.0 / 24.0 55.3 53.3 to 57.3 – –" in (
        shown(replace(results, table=table)).words
    )


def test_without_a_paper_there_is_no_section(tmp_path: Path) -> None:
    assert paper.build(tmp_path, tmp_path / "rl-improver") is None
    assert "The paper's tables" not in built(tmp_path).words


def test_the_sweep_draws_every_interval() -> None:
    """One temperature is enough; a wider interval, and nothing else, is another figure."""
    row = compared(pit(1), POLICY, "gap", 0.8, 3.0)
    first, wider = (paper.sweep([replace(row, low=low)], ["gap", "rubric"]) for low in (-0.5, -1.5))
    assert first.startswith("<svg") and "judged by gap" in first and "judged by rubric" not in first
    assert first != wider == paper.sweep([replace(row, low=-1.5)], ["gap", "rubric"])


def hostile(value: Any) -> Any:
    """Every text of a JSON value made hostile; the kinds of systems stay, and what is empty."""
    if isinstance(value, dict):
        return {name: inner if name == "kind" else hostile(inner) for name, inner in value.items()}
    if isinstance(value, list):
        return [hostile(inner) for inner in value]
    return f"{HOSTILE} {value}" if isinstance(value, str) and value else value


def hostile_results() -> PaperResults:
    """The ablations are in Table 1 too."""
    results = paper_results()
    content = asdict(replace(results, table=[*results.table, *results.curriculum]))
    found = msgspec.convert(hostile(content), PaperResults)
    return replace(found, ratings={HOSTILE + judge: rows for judge, rows in found.ratings.items()})


def test_hostile_text_is_escaped(shown: Callable[..., Page]) -> None:
    page = shown(hostile_results())
    assert "script" not in page.tags and "<script>" not in page.text
    assert page.words.count("<script>'$\\frac$") > 35
    for words in (f"{HOSTILE} first-only x1", f"judged by {HOSTILE}gap", f"{HOSTILE} rl-improver"):
        assert words in page.words


def printed(results: PaperResults, width: int) -> list[str]:
    console = Console(width=width, record=True, file=io.StringIO())
    console.print(paper_table(results))
    return console.export_text().splitlines()


def test_hostile_names_are_printed_as_they_are() -> None:
    lines = printed(hostile_results(), 400)
    assert lines[1].count(f"{HOSTILE} rubric") == 1
    assert [line for line in lines if line.startswith(f"{HOSTILE} first-only x1 ")]


def test_the_terminal_table_holds_table_1() -> None:
    lines = printed(paper_results(), 120)
    assert "at temperature 1, n = 1,024 prompts" in lines[0]
    assert lines[1].split() == ["system", "tokens", "rubric", "95%", "interval", "gap", "95%", "interval"]
    assert [line.split("  ")[0] for line in lines[2:]] == list(map(str, SYSTEMS[1:]))
    words = " ".join(lines[4].split())
    assert words == "PIT x2 96.0 +6.0 +2.5 to +9.5 +2.0 −1.5 to +5.5"


def test_a_malformed_file_is_one_clear_error(tmp_path: Path) -> None:
    """Every way of being malformed is in tests/evaluation/test_results.py."""
    path = tmp_path / "paper" / "results.json"
    path.parent.mkdir()
    path.write_text("[]")
    with pytest.raises(ValueError, match=r"results.json: asked for what its stage writes, found another form"):
        page.build(run_of(tmp_path))
