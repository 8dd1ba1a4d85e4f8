"""The tables of prepared pairs in the terminal, where texts of the data are neither markup nor commands."""

import io
from types import SimpleNamespace
from typing import Any

from rich.console import Console, RenderableType

from pit_jax.config import Config, DataConfig
from pit_jax.data.inspection import Duplicates, Overlap, Padding, Span
from pit_jax.report.data import folds_table, lengths_table, marked, overlap_table, padding_table, source_lines

REPORT = {
    "sources": {
        "pairs:a.jsonl": {
            "read": 1200,
            "kept": 1197,
            "left out by rates": 7,
            "message lists in strings": 4,
            "tokens": 4000,
            "unknown tokens": 50,
            "dropped": {"prompt is empty": 2, "too long": 1},
            "first dropped at": {"prompt is empty": "a.jsonl, line 5: found ''"},
        },
        "notes": {
            **{"read": 3, "kept": 3, "left out by rates": 0, "dropped": {}, "first dropped at": {}},
            **{"message lists in strings": 0, "tokens": 9, "unknown tokens": 0},
        },
    },
    "lengths before drops": {
        "prompt": {"50%": 7, "90%": 12, "99%": 30, "100%": 44},
        "prefix": {"50%": 8, "90%": 13, "99%": 31, "100%": 45},
    },
}


def printed(what: RenderableType) -> str:
    console = Console(width=120, record=True, file=io.StringIO())
    console.print(what)
    return console.export_text()


def test_every_drop_has_a_count_a_reason_and_a_place() -> None:
    assert source_lines(REPORT) == [
        "pairs:a.jsonl: 1,200 read, 1,197 kept, 7 of them left out by rates; dropped:",
        "  4 rows with message lists as JSON strings, read as lists",
        "  1.25% of the tokens are unknown to the tokenizer (50)",
        "  2 x prompt is empty (first at a.jsonl, line 5: found '')",
        "  1 x too long",
        "notes: 3 read, 3 kept, 0 of them left out by rates; dropped: none",
    ]


def test_what_the_loss_counts_is_marked() -> None:
    """Where colours are missing too; brackets and commands of the data stay what they are."""
    row = [Span("ask [red]", False), Span("answer [/b]\x1b[2J", True)]
    assert printed(marked(row)) == "ask [red]⟦answer [/b]␛[2J⟧\n"


def test_lengths_stand_beside_their_limit() -> None:
    """An answer's EOS counts; a prefix has no limit of its own."""
    data: Any = SimpleNamespace(report=REPORT)
    config = Config(data=DataConfig(prompt_length=48, response_length=20))
    lines = [line.split() for line in printed(lengths_table(config, data)).splitlines()]
    assert lines == [
        ["text", "p50", "p90", "p99", "max", "limit"],
        ["prompt", "7", "12", "30", "44", "48"],
        ["prefix", "8", "13", "31", "45"],
    ]


def test_duplicates_and_overlaps() -> None:
    text = printed(folds_table([Duplicates("sft", 1000, 5, 6, 3, 4, 2)]))
    assert text.splitlines()[1].split() == ["sft", "1,000", "5", "6", "3", "4", "2"]
    text = printed(overlap_table([Overlap("rl", 50, 2, 3, "[red]near\x1b")]))
    assert text.splitlines()[1].split() == ["rl", "50", "2", "3", "[red]near␛"]


def test_what_widths_save_is_shown() -> None:
    table = padding_table([Padding("gap", 1234, 87.25, (96, 384), {1: 0.7726, 4: 0.051})])
    assert [line.split() for line in printed(table).splitlines()] == [
        ["text", "rows", "tokens", "widths", "1", "4"],
        ["gap", "1,234", "87.2", "96", "384", "77.3%", "5.1%"],
    ]
