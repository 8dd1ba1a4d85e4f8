"""The prepared pairs for a person to look at, in the terminal and as workdir/inspect/index.html."""

import math
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
from rich.table import Table
from rich.text import Text

from pit_jax.config import Config
from pit_jax.data.folds import FOLDS, TRAINING_FOLDS
from pit_jax.data.inspection import Duplicates, Overlap, Padding, Span, duplicates, overlaps, padding, spans, spread
from pit_jax.data.preparation import FOLD_KINDS
from pit_jax.data.store import Prepared
from pit_jax.evaluation.readers import Reading, reading
from pit_jax.paths import resolved, to_path
from pit_jax.report.render import render
from pit_jax.run.screen import Screen
from pit_jax.terminal import plain_text, visible

EXAMPLES = 10  # of a page: what a person reads
FEW = 5_000  # pairs of a fold: 720 are too few and 17,000 enough; what lies between was not measured
OPEN, CLOSE = "⟦", "⟧"
KINDS = {"sft-policy": "policy", "sft-improver": "improver"}


def build(config: Config, data: Prepared, screen: Screen) -> Path:
    """Show counts, drops, lengths, duplicates, overlaps and examples; returns the page. Needs no device."""
    folds = {fold: data.triples(fold) for fold in FOLDS}
    repeated, shared, padded = duplicates(folds), overlaps(folds), padded_kinds(config, data)
    rows = examples(data)
    for line in source_lines(data.report):
        screen.say(line)
    looks = [
        *reading_lines(reading(folds, folds["heldout"])),
        *too_few(config, {fold: len(folds[fold]) for fold in TRAINING_FOLDS}),
    ]
    for line in looks:
        screen.say(line)
    for title, table in (
        ("rows of each fold that repeat an earlier one (near: the same words)", folds_table(repeated)),
        ("held-out rows whose prompt a training fold holds", overlap_table(shared)),
        ("tokens before drops", lengths_table(config, data)),
        ("share of padding in training rows, by data.buckets", padding_table(padded)),
    ):
        screen.say(f"\n{title}", style="bold")
        screen.say(table)
    for name, row in rows[0].items() if rows else ():
        screen.say(f"\n{name} SFT, an example; the loss counts what is in {OPEN}{CLOSE}", style="bold")
        screen.say(marked(row))
    page = render(
        "data.html.j2",
        to_path(config.workdir) / "inspect" / "index.html",
        name=resolved(to_path(config.workdir)).name,
        folder=str(data.folder),
        sources=data.report["sources"],
        folds=data.report["folds"],
        duplicates=[asdict(counts) for counts in repeated],
        overlaps=[asdict(overlap) for overlap in shared],
        lengths=data.report["lengths before drops"],
        limits=limits(config),
        padding=[asdict(kind) for kind in padded],
        buckets=config.data.buckets,
        examples=rows,
        looks=looks,
    )
    screen.say(f"data report: {page}")
    return page


def padded_kinds(config: Config, data: Prepared) -> list[Padding]:
    """Of each kind of rows that a training reads, in batches of its size."""
    batch_sizes = {"sft": config.sft.batch_size, "rm": config.rm.batch_size}
    kinds = [(fold, kind) for fold in batch_sizes if fold in data.filled for kind in FOLD_KINDS[fold]]
    return [padding(data.rows(fold, kind), batch_sizes[fold]) for fold, kind in kinds]


def examples(data: Prepared) -> list[dict[str, list[Span]]]:
    """Rows of the SFT fold at even distances, of both models, by the name of the model; none where it is empty."""
    if "sft" not in data.filled:
        return []
    backend = data.tokenizer.backend
    rows = {name: data.rows("sft", kind) for kind, name in KINDS.items()}

    def first(fields: Mapping[str, Any]) -> dict[str, np.ndarray]:
        return {key: np.asarray(column)[0] for key, column in fields.items()}

    def decode(ids: list[int]) -> str:
        return str(backend.decode(ids, skip_special_tokens=False))

    return [
        {name: spans(first(fields.batch(np.array([row]))), decode) for name, fields in rows.items()}
        for row in spread(len(rows["policy"]), EXAMPLES)
    ]


def limits(config: Config) -> dict[str, int]:
    """Most tokens of each text by knob; an answer's EOS counts."""
    data = config.data
    return {"prompt": data.prompt_length, "chosen": data.response_length - 1, "rejected": data.response_length - 1}


def source_lines(report: Mapping[str, Any]) -> list[str]:
    """Rows read and kept of each source, and each reason for a drop with its count and first place."""
    lines = []
    for name, source in report["sources"].items():
        read, kept, left_out = (source[key] for key in ("read", "kept", "left out by rates"))
        dropped = "" if source["dropped"] else " none"
        lines.append(f"{name}: {read:,} read, {kept:,} kept, {left_out:,} of them left out by rates; dropped:{dropped}")
        if lists := source["message lists in strings"]:
            lines.append(f"  {lists:,} rows with message lists as JSON strings, read as lists")
        if unknown := source["unknown tokens"]:
            lines.append(f"  {unknown / source['tokens']:.2%} of the tokens are unknown to the tokenizer ({unknown:,})")
        first = source["first dropped at"]
        for reason, count in source["dropped"].items():
            lines.append(f"  {count:,} x {reason}" + (f" (first at {first[reason]})" if reason in first else ""))
    return lines


def reading_lines(read: Reading | None) -> list[str]:
    """What two quick readers say of the labels, and what of it there is too little of."""
    if read is None:
        return [
            "labels: too few pairs for a first look; each of two readers needs some, and there must be held-out ones"
        ]
    rise = read.right - read.half
    lines = [
        f"labels: two quick readers of {read.read:,} pairs each agree with {read.right:.1%} of {read.asked:,} held-out "
        f"labels and with each other on {read.agree:.1%}; readers of half the pairs with {read.half:.1%}"
    ]
    if (wrong := read.wrong_labels) is None:
        lines.append("  labels that words do not tell: no estimate of how many are wrong")
    else:
        lines.append(
            f"  at most {wrong.value:.1%} of the labels are wrong ({wrong.low:.1%} to {wrong.high:.1%}): what both "
            "readers miss is laid to the labels"
        )
    if rise > 2 * math.sqrt(read.right * (1 - read.right) / read.asked):
        lines.append(f"  twice the pairs brought {rise:.1%} more: more pairs would still teach")
    return lines


def too_few(config: Config, counts: Mapping[str, int]) -> list[str]:
    """Says so where a model that starts from nothing has too few pairs to learn from, by the smallest fold."""
    fold = min(counts, key=lambda name: counts[name])
    if config.base or counts[fold] >= FEW:
        return []
    return [
        f"too little for a model from a random start: {counts[fold]:,} pairs in fold {fold}. On the world `plans` its "
        "policy scored 0.4 of 8 points with 720 pairs a fold, 4.1 with 17,000; start from a checkpoint, --base"
    ]


def marked(row: list[Span]) -> Text:
    """A row for the terminal, where colours may be missing."""
    texts = ((visible(span.text), span.counts) for span in row)
    pieces = ((f"{OPEN}{text}{CLOSE}", "green") if counts else (text, "") for text, counts in texts)
    return Text.assemble(*pieces)


def folds_table(repeated: list[Duplicates]) -> Table:
    """Rows of each fold, and how many repeat an earlier one or contradict another."""
    table = _table("fold", "rows", "prompt", "near prompt", "pair", "near pair", "swapped")
    for counts in repeated:
        fold, *numbers = asdict(counts).values()
        table.add_row(fold, *(f"{number:,}" for number in numbers))
    return table


def overlap_table(shared: list[Overlap]) -> Table:
    """Held-out rows whose prompt a training fold holds."""
    table = _table("fold", "of", "exact", "near", "example")
    for overlap in shared:
        table.add_row(
            overlap.fold,
            *(f"{n:,}" for n in (overlap.heldout, overlap.exact, overlap.near)),
            plain_text(overlap.example[:200]),
        )
    return table


def lengths_table(config: Config, data: Prepared) -> Table:
    """Percentiles of tokens before drops, beside the limits."""
    table = _table("text", "p50", "p90", "p99", "max", "limit")
    for name, values in data.report["lengths before drops"].items():
        table.add_row(name, *map(str, values.values()), str(limits(config).get(name, "")))
    return table


def padding_table(padded: list[Padding]) -> Table:
    """Tokens of a row, the widths of these data, and the share of padding with 1, 2, .. widths."""
    numbers = map(str, padded[0].shares if padded else ())
    table = _table("text", "rows", "tokens", "widths", *numbers)
    for kind in padded:
        shares = (f"{share:.1%}" for share in kind.shares.values())
        widths = " ".join(map(str, kind.widths))
        table.add_row(kind.kind, f"{kind.rows:,}", f"{kind.tokens:.1f}", widths, *shares)
    return table


def _table(*columns: str) -> Table:
    table = Table(box=None, padding=(0, 2, 0, 0))
    for column in columns:
        table.add_column(column, justify="left" if column in ("fold", "text", "example") else "right", overflow="fold")
    return table
