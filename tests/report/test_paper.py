"""evaluation/paper.py: what --stage=paper writes, on the page and in the terminal."""

import io
import json
from collections.abc import Callable
from dataclasses import asdict
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from rich.console import Console

from pit_jax.evaluation.gap_quality import measure
from pit_jax.report import page, paper

HOSTILE = "<script>'$\\frac$&[red]\""
JUDGES = ("rubric", "gap")
SYSTEMS = ("policy", "chosen", "PIT x1", "PIT x2", "PIT x3", "SFT improver x1", "Self-Refine", "best of 2", "DPO")
PARTS = ("systems", "table", "sweep", "curriculum", "ratings", "gap_losses", "costs", "failures")
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


def compared(left: str, right: str, judge: str, temperature: float, delta: float) -> dict[str, Any]:
    """A row: win 30 + delta, lose 30, the interval +-3.5."""
    who = {"temperature": temperature, "judge": judge, "left": left, "right": right}
    share = {"win": 30 + delta, "lose": 30.0, "tie": 40 - delta, "delta": delta, "n": 1024, "flipped": None}
    ends = {"low": delta - 3.5, "high": delta + 3.5, "lc_low": 48 + delta / 3, "lc_high": 52 + delta / 3}
    lengths = {"left_tokens": 25.0, "right_tokens": 24.0, "win_tokens": 1.5, "lose_tokens": None}
    return who | share | ends | lengths | {"lc_win_rate": 50 + delta / 3}


def system(name: str, place: int) -> dict[str, Any]:
    edits = None if name in ("policy", "chosen") else 0.1
    scores = {"score_mean": 5.0 + 0.1 * place, "score_std": 0.8, "length_mean": 24.0 + place, "eos_rate": 0.995}
    drawn = None if name == "chosen" else 24.0 * (1 + place)
    return {
        "name": name,
        "temperature": 1.0,
        "copy_rate": edits,
        "edit_distance": edits,
        "tokens_mean": drawn,
        **scores,
    }


def gap_loss(name: str, spread: float) -> dict[str, Any]:
    rng, centers = np.random.default_rng(0), {"wl": 2.0, "ww": 0.0, "ll": 0.0, "lw": -2.0}
    gaps = {key: rng.normal(center * spread, 1.0, 300) for key, center in centers.items()}
    return {"name": name, "quality": asdict(measure(gaps, rng.integers(-5, 6, 300), np.linspace(1, 4, 300)))}


def costs(*rows: tuple[str, float, float]) -> list[dict[str, Any]]:
    return [{"name": name, "tokens": tokens, "flops": flops} for name, tokens, flops in rows]


def paper_results() -> dict[str, Any]:
    """Deltas: 2 points a place among SYSTEMS, less 4 by the gap; the sweep loses 1 point a tenth of temperature."""
    pairs = (("PIT x1", "policy"), ("Self-Refine", "policy"), ("PIT x1", "Self-Refine"))
    ablations = (("first-only x1", "policy"), ("second-only x1", "policy"), ("PIT x1", "first-only x1"))
    failure = {"prompt": "write to anna about the club", "judge": "rubric", "score_before": 6.0, "score_after": 3.0}
    texts = {"before": "dear anna , bring a cake . warmly", "after": "dear anna , bring cake cake . warmly"}
    return {
        "judge_names": list(JUDGES),
        "headline_temperature": 1.0,
        "max_score": 7.0,
        "prompts": 1024,
        "systems": [system(name, place) for place, name in enumerate(SYSTEMS)],
        "table": [
            compared(name, "policy", judge, 1.0, 2.0 * place - 4.0 * (judge == "gap"))
            for place, name in enumerate(SYSTEMS[1:], 1)
            for judge in JUDGES
        ],
        "sweep": [
            compared(*pair, judge, tenths / 10, 12.0 - 4.0 * i - tenths)
            for tenths in (2, 4, 6, 8, 10)
            for judge in JUDGES
            for i, pair in enumerate(pairs)
        ],
        "curriculum": [compared(*pair, judge, 1.0, 6.5) for pair in ablations for judge in JUDGES],
        "ratings": {
            judge: [
                {"name": name, "rating": at, "low": at - 9, "high": at + 9, "elo": 1500 + at, "elo_low": 1440.0}
                | {"elo_high": 1570.0}
                for name, at in (("policy", -40.0), ("PIT x1", 35.0), ("Self-Refine x1", 5.0))
            ]
            for judge in JUDGES
        },
        "gap_losses": [gap_loss("five terms", 1.0), gap_loss("wl over lw alone", 0.1)],
        "costs": {
            "training": costs(("sft-policy", 1.4e6, 1e12), ("rl-improver", 1.0e7, 3e12)),
            "answers": costs(*((name, 24.0, 2.5e6 * (1 + place)) for place, name in enumerate(SYSTEMS))),
        },
        "failures": [failure | texts, failure | texts | {"judge": "gap", "score_before": None, "score_after": -2.31}],
    }


def metrics(rise: float) -> str:
    rows: list[dict[str, Any]] = []
    for step in range(40):
        rows.append({"step": step, "phase": "train", "objective/scores": rise * step, "curriculum/stage": 0.0})
        if step % 5 == 0:
            rows.append({"step": step, "phase": "eval", "objective/scores": rise * step, "truth/score": 5 + rise})
    return "".join(json.dumps(row) + "\n" for row in rows)


@pytest.fixture
def write(tmp_path: Path) -> Callable[..., Path]:
    """write(results, curves=True) -> the working folder that holds them."""

    def save(results: Any, *, curves: bool = False) -> Path:
        (tmp_path / "paper").mkdir(exist_ok=True)
        (tmp_path / "paper" / "results.json").write_text(json.dumps(results))
        for i, place in enumerate(paper.CURRICULA.values() if curves else ()):
            (tmp_path / place).mkdir(parents=True)
            (tmp_path / place / "metrics.jsonl").write_text(metrics(0.1 * (i + 1)))
        return tmp_path

    return save


class Page(HTMLParser):
    """The tags and the words of a page; an open tag that is not closed in its turn fails."""

    def __init__(self, workdir: Path) -> None:
        super().__init__()
        self.text = page.build(workdir).read_text(encoding="utf-8")
        self.tags: list[str] = []
        self.open: list[str] = []
        self.found: list[str] = []
        self.feed(self.text)
        assert self.open == []
        self.words = " ".join(" ".join(self.found).split())

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        if tag not in ("meta", "br"):
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.found.append(data)


def test_every_table_and_figure_is_on_the_page(write: Callable[..., Path]) -> None:
    page = Page(write(paper_results(), curves=True))
    places = [page.words.index(title) for title in TITLES]
    assert places == sorted(places)
    assert page.tags.count("svg") == 3  # the sweep, the rewards, and the curves of rl-improver itself
    for words in (
        "on 1,024 held-out prompts, at temperature 1.0 unless",
        "PIT x1 +4.0 +0.5 to +7.5 34.0 / 30.0 / 36.0 51.3 49.3 to 53.3 0.0 −3.5 to +3.5 30.0 / 30.0 / 40.0 50.0",
        "PIT x1 5.20 0.80 26.0 72.0 7.5 M 3.0 10.0 10.0 99.5",
        "chosen 5.10 0.80 25.0 – 5 M 2.0 – – 99.5",
        "rl-improver 10 M 3 T 75.0 all 11.4 M 4 T 100.0",
        "PIT x1 vs first-only x1 +6.5",
        "PIT x1 +35.0 +26.0 to +44.0 1,535.0 1,440.0 to 1,570.0",
        "before rubric 6.00 dear anna , bring a cake . warmly",
        "PIT x1 gap −2.31 dear anna , bring a cake cake . warmly",  # "a" is struck out, the second "cake" is new
    ):
        assert words in page.words
    assert "<del>a</del> " in page.text and "<ins>cake</ins> " in page.text
    for words in ("judged by rubric", "PIT x1 vs Self-Refine", "second stage only", "held-out gap over the policy"):
        assert words in page.text


def test_ratings_are_sorted_and_open_ends_are_dashes(write: Callable[..., Path]) -> None:
    results = paper_results()
    results["ratings"]["gap"][0] |= {"low": float("-inf"), "high": float("inf")}
    page = Page(write(results))
    table = page.words[page.words.index("judged by gap Bradley-Terry") :]
    assert table.index("PIT x1") < table.index("Self-Refine x1") < table.index("policy −40.0 – to – 1,460.0")


def test_the_gap_losses_are_told_by_their_qualities(write: Callable[..., Path]) -> None:
    results = paper_results()
    page = Page(write(results))
    for row in results["gap_losses"]:
        quality = row["quality"]
        weakest = 100 * min(quality["accuracies"].values())
        assert f"{row['name']} 300 {100 * quality['accuracies']['wl_lw']:.1f} {weakest:.1f}" in page.words


def test_the_gap_losses_are_told_by_what_rl_made_of_them() -> None:
    """2 points a place, PIT x1 at the second; nobody trained on the other model."""
    results = paper_results()
    table = paper.lines(results["table"], JUDGES)
    five, pair = (paper._gap_loss(row, table)["improved"] for row in results["gap_losses"])
    assert [(cell["judge"], cell["left"], cell["delta"]) for cell in five] == [
        ("rubric", "PIT x1", 4.0),
        ("gap", "PIT x1", 0.0),
    ]
    assert pair == []


@pytest.mark.parametrize("empty", [None, "container"])
def test_parts_that_are_missing_leave_their_section_out(write: Callable[..., Path], empty: str | None) -> None:
    results = paper_results()
    for name in PARTS:
        results[name] = type(results[name])() if empty and name != "costs" else None
    page = Page(write(results | {"max_score": None}))
    assert "The paper's tables and figures" in page.words
    assert [title for title in TITLES if title in page.words] == []
    assert "svg" not in page.tags


def test_costs_without_systems_and_systems_without_costs(write: Callable[..., Path]) -> None:
    page = Page(write(paper_results() | {"systems": []}))
    assert "PIT x1 – – – 24.0 7.5 M 3.0 – – –" in page.words
    page = Page(write(paper_results() | {"costs": {"training": [], "answers": None}}))
    assert "PIT x1 5.20 0.80 26.0 72.0 – – 10.0" in page.words and "What training cost" not in page.words


def test_a_judge_that_was_not_asked_leaves_a_dash(write: Callable[..., Path]) -> None:
    results = paper_results()
    results["table"] = [row for row in results["table"] if (row["left"], row["judge"]) != ("DPO", "gap")]
    assert "DPO +16.0 +12.5 to +19.5 46.0 / 30.0 / 24.0 55.3 53.3 to 57.3 – –" in Page(write(results)).words


def test_without_a_paper_there_is_no_section(tmp_path: Path) -> None:
    assert paper.build(tmp_path) is None
    assert "The paper's tables" not in Page(tmp_path).words


def test_the_sweep_draws_every_interval() -> None:
    """One temperature is enough; a wider interval, and nothing else, is another figure."""
    row = compared("PIT x1", "policy", "gap", 0.8, 3.0)
    first, wider = (paper.sweep([row | {"low": low}], ["gap", "rubric"]) for low in (-0.5, -1.5))
    assert first.startswith("<svg") and "judged by gap" in first and "judged by rubric" not in first
    assert first != wider == paper.sweep([row | {"low": -1.5}], ["gap", "rubric"])


def replaced(value: Any) -> Any:
    """Every text of a JSON value made hostile; the names of its fields, and of the policy, stay."""
    if isinstance(value, dict):
        return {name: replaced(inner) for name, inner in value.items()}
    if isinstance(value, list):
        return [replaced(inner) for inner in value]
    return f"{HOSTILE} {value}" if isinstance(value, str) and value != "policy" else value


def test_hostile_text_is_escaped(write: Callable[..., Path]) -> None:
    results = replaced(paper_results())
    results["ratings"] = {HOSTILE + judge: rows for judge, rows in results["ratings"].items()}
    shown = Page(write(results))
    assert "script" not in shown.tags and "<script>" not in shown.text
    assert shown.words.count("<script>'$\\frac$") > 50
    console = Console(width=400, record=True, file=io.StringIO())
    console.print(page.paper_table(results))
    assert f"{HOSTILE} PIT x1" in console.export_text()


def test_the_terminal_table_holds_table_1() -> None:
    console = Console(width=120, record=True, file=io.StringIO())
    console.print(page.paper_table(paper_results()))
    lines = console.export_text().splitlines()
    assert "temperature 1, n = 1,024 prompts" in lines[0]
    assert lines[1].split() == ["system", "tokens", "rubric", "95%", "interval", "gap", "95%", "interval"]
    assert [line.split("  ")[0] for line in lines[2:]] == list(SYSTEMS[1:])
    words = " ".join(lines[4].split())
    assert words == "PIT x2 96.0 +6.0 +2.5 to +9.5 +2.0 −1.5 to +5.5"


def broken(**changes: Any) -> dict[str, Any]:
    return paper_results() | changes


def without(name: str) -> dict[str, Any]:
    return {key: value for key, value in paper_results().items() if key != name}


def row_with(**changes: Any) -> dict[str, Any]:
    return broken(table=[compared("PIT x1", "policy", "gap", 1.0, 1.0), compared("a", "b", "gap", 1.0, 1.0) | changes])


@pytest.mark.parametrize(
    ("results", "found"),
    [
        ([], r"\[\] under everything"),
        (without("ratings"), "nothing under ratings"),
        (broken(prompts=None), "None under prompts"),
        (broken(table={}), r"\{\} under table"),
        (broken(table=[None]), r"None under table\[0\]"),
        (row_with(delta="+1"), r"'\+1' under table\[1\].delta"),
        (row_with(low=None), r"None under table\[1\].low"),
        (broken(costs={"training": []}), "nothing under costs.answers"),
        (broken(ratings={"gap": [{"name": "policy"}]}), r"nothing under ratings.gap\[0\].rating, ratings.gap\[0\].low"),
        (broken(failures=[{"prompt": "x"}]), r"nothing under failures\[0\].before"),
        (broken(gap_losses=[{"name": "x", "quality": {"pairs": 3}}]), r"gap_losses\[0\].quality without 'by_confide"),
        (broken(gap_losses=[{"name": "x", "quality": None}]), r"gap_losses\[0\].quality without"),
    ],
)
def test_a_malformed_file_is_one_clear_error(write: Callable[..., Path], results: Any, found: str) -> None:
    message = rf"results.json: asked for what --stage=paper writes, found {found}.*; delete .*results.json and run that"
    with pytest.raises(ValueError, match=message):
        page.build(write(results))


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (0, "0"),
        (999.4, "999"),
        (999.6, "1 k"),
        (1e6, "1 M"),
        (1.234e9, "1.23 G"),
        (-2.5e12, "-2.5 T"),
        (5e22, "50000 E"),
        (None, "–"),
        (float("inf"), "–"),
    ],
)
def test_large_numbers(value: float | None, text: str) -> None:
    assert page.scaled(value) == text
