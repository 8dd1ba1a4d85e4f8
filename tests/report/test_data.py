"""The tables of prepared pairs in the terminal, where texts of the data are neither markup nor commands."""

import io
from dataclasses import replace
from types import SimpleNamespace
from typing import Any

from rich.console import Console, RenderableType

from pit_jax.config import Config, DataConfig
from pit_jax.data.inspection import Duplicates, Overlap, Padding, Span
from pit_jax.evaluation.readers import Reading, Share
from pit_jax.report.data import (
    folds_table,
    lengths_table,
    marked,
    overlap_table,
    padding_table,
    reading_lines,
    source_lines,
    too_few,
)

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


def test_what_two_readers_say_of_labels() -> None:
    """Twice the pairs brought 5 points of 1,000, more than two standard errors; 1 point is within them."""
    read = Reading(500, 1000, half=0.85, right=0.9, agree=0.92, wrong_labels=Share(0.04, 0.03, 0.05))
    assert reading_lines(read) == [
        "labels: two quick readers of 500 pairs each agree with 90.0% of 1,000 held-out labels and with each other on "
        "92.0%; readers of half the pairs with 85.0%",
        "  at most 4.0% of the labels are wrong (3.0% to 5.0%): what both readers miss is laid to the labels",
        "  twice the pairs brought 5.0% more: more pairs would still teach",
    ]
    unread = reading_lines(replace(read, half=0.89, wrong_labels=None))
    assert unread[1:] == ["  labels that words do not tell: no estimate of how many are wrong"]
    assert reading_lines(None)[0].startswith("labels: too few pairs for a first look")


def test_too_few_pairs_for_a_model_that_starts_from_nothing() -> None:
    few = {"sft": 5000, "rm": 4999, "rl": 6000}
    assert too_few(Config(), few)[0].startswith("too little for a model from a random start: 4,999 pairs in fold rm. ")
    assert too_few(Config(base="checkpoints/llama"), few) == too_few(Config(), few | {"rm": 5000}) == []
