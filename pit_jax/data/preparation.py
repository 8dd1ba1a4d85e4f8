"""Sources to a data folder, in passes of bounded memory: read, tokenise, then order by the seqio mixture.

What a folder holds (`Example` i is the i-th pair that was read; all of it is written as it comes):
  texts      ragged UTF-8, three rows an example: prompt, chosen, rejected
  tokens     ragged ids, a row for each of the FEATURES of an example; none of one that is left out
  margins    float32 an example
  placed     uint8 an example: the number of its fold, or LEFT_OUT
  <fold>     int32: the examples of a fold in the order of the mixture
"""

import hashlib
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np

from pit_jax.batch import Triple
from pit_jax.config import DataConfig, TokenizerConfig, config_hash
from pit_jax.data import tasks
from pit_jax.data.features import FEATURES, KINDS, Layout, round_up, row_lengths
from pit_jax.data.folds import FOLDS, fold_of
from pit_jax.data.packing import widths_of
from pit_jax.data.ragged import RaggedWriter, utf8
from pit_jax.data.sources import Reading, stream_source
from pit_jax.data.text.contradictions import CONTRADICTION, contradicted, pair_keys
from pit_jax.data.text.stored import TEXTS, Texts
from pit_jax.data.text.templates import Template
from pit_jax.data.text.tokenizers import Tokenizer, load_tokenizer, train_tokenizer
from pit_jax.data.tokens import Tokeniser, admit, with_limits
from pit_jax.errors import UserError
from pit_jax.files import write_json

FOLD_KINDS: dict[str, tuple[str, ...]] = {
    "sft": ("sft-policy", "sft-improver"),
    "rm": ("reward", "gap"),
    "rl": ("prompts",),
    "heldout": KINDS,
}
LEFT_OUT = 255
REPORT = "report.json"
MOST_MEASURED = 5_000  # pairs whose lengths set a limit: 99 of 100 are then known to a third of one
MOST_TRAINED_ON = 50_000  # pairs that a tokenizer is trained on: more change no merge that is used often
_CHUNK = 4096  # pairs in memory at once


@dataclass(frozen=True)
class Read:
    """What the first pass found."""

    readings: Mapping[str, Reading]
    starts: np.ndarray  # [sources + 1] the first example of each source
    folds: np.ndarray  # [examples] uint8
    contradicted: np.ndarray  # [examples] bool, the same pair stands there with its answers swapped
    digest: str  # of all pairs, and where a source ends

    def source(self, name: str) -> slice:
        """The examples of a source."""
        number = list(self.readings).index(name)
        return slice(int(self.starts[number]), int(self.starts[number + 1]))


def build(
    data: DataConfig, config: TokenizerConfig, folder: Path, inputs: Mapping[str, Any], say: Callable[[str], None]
) -> dict[str, Any]:
    """Fill a new folder; returns what its done.json says. Raises UserError as `store.prepare`."""
    read = _read(data, folder, say)
    texts = Texts(folder)
    tokenizer = _make_tokenizer(config, folder / "tokenizer", read, texts, say)
    template = Template(tokenizer)
    say("data: tokenising")
    left_out = _contradictions(data, read, texts)
    data = _with_limits(data, template, texts, len(read.folds))
    lengths, keep = _tokenise(data, template, read, left_out, folder)
    placed = np.where(keep, read.folds, LEFT_OUT).astype(np.uint8)
    _need_examples(read, placed)
    layout = _layout(template, lengths[keep], placed[keep], data.buckets)
    placed.tofile(folder / "placed.bin")
    sources = by_fold(placed, read.starts, data.sources)
    mixture = tasks.build_mixture(sources, data.rates, read.digest)
    counts = {}
    for fold in FOLDS:
        say(f"data: writing fold {fold}")
        numbers = tasks.read(mixture, fold)
        numbers.tofile(folder / f"{fold}.bin")
        owner = np.bincount(np.searchsorted(read.starts, numbers, side="right") - 1, minlength=len(data.sources))
        counts[fold] = Counter({name: int(count) for name, count in zip(data.sources, owner, strict=True) if count})
    write_json(folder / REPORT, _report(data, read, keep, lengths, counts, layout))
    # The digest of the pairs counts too: the same repository of the hub may hold others another day.
    fingerprint = config_hash({**inputs, "tokenizer": tokenizer.fingerprint, "pairs": mixture.name})
    return {
        "fingerprint": fingerprint,
        "tokenizer": tokenizer.fingerprint,
        "inputs": inputs,
        "sources": data.sources,
        "response_slot": layout.response_slot,
        "pairs": read.digest,
        "starts": read.starts.tolist(),
        "token_dtype": str(_dtype(tokenizer)),
    }


def by_fold(placed: np.ndarray, starts: Sequence[int] | np.ndarray, sources: Sequence[str]) -> dict[str, Any]:
    """The numbers of the examples of each source and fold, in the order in which they were read."""
    return {
        source: {
            fold: (start + np.flatnonzero(placed[start:stop] == number)).astype(np.int32)
            for number, fold in enumerate(FOLDS)
        }
        for source, start, stop in zip(sources, starts[:-1], starts[1:], strict=True)
    }


def _chunks(triples: Iterator[Triple]) -> Iterator[list[Triple]]:
    while chunk := list(islice(triples, _CHUNK)):
        yield chunk


def _read(data: DataConfig, folder: Path, say: Callable[[str], None]) -> Read:
    """Pass 1: texts, margins and folds of all pairs."""
    readings: dict[str, Reading] = {}
    starts, folds, digest = [0], list[np.ndarray](), hashlib.sha256()
    number_of, keys = {fold: number for number, fold in enumerate(FOLDS)}, list[np.ndarray]()
    with RaggedWriter(folder, TEXTS, np.uint8) as texts, (folder / "margins.bin").open("wb") as margins:
        for source in data.sources:
            say(f"data: reading {source}")
            reading = readings[source] = Reading()
            starts.append(starts[-1])
            for chunk in _chunks(stream_source(source, data, reading)):
                values, lengths = utf8([text for row in chunk for text in (row.prompt, row.chosen, row.rejected)])
                texts.append(values, lengths)
                margins_N = np.array([row.margin for row in chunk], np.float32)
                margins_N.tofile(margins)
                folds.append(
                    np.array([number_of[fold_of(row.prompt, data.heldout_fraction)] for row in chunk], np.uint8)
                )
                keys.append(pair_keys(chunk))
                starts[-1] += len(chunk)
                for part in (values, lengths, margins_N):
                    digest.update(part.tobytes())
            digest.update(f"up to {starts[-1]}".encode())
    every = np.concatenate(folds) if folds else np.zeros(0, np.uint8)
    against = contradicted(np.concatenate(keys)) if keys else np.zeros(0, bool)
    return Read(readings, np.array(starts), every, against, digest.hexdigest()[:12])


def _contradictions(data: DataConfig, read: Read, texts: Texts) -> np.ndarray:
    """Which examples are left out [examples] because they contradict each other; the first of each source is named.

    Raises UserError where data.contradictions says so.
    """
    left_out = read.contradicted & (data.contradictions != "keep")
    for name, reading in read.readings.items():
        here = np.flatnonzero(left_out[read.source(name)])
        if len(here):
            prompt = texts[read.source(name).start + int(here[0])][0]
            reading.first[CONTRADICTION] = f"pair {here[0] + 1:,} of the source, {prompt[:80]!r}"
            if data.contradictions == "refuse":
                raise UserError(
                    f"data source {name}: {len(here):,} x {CONTRADICTION} (first at {reading.first[CONTRADICTION]}); "
                    "mend them, or leave them out with --data.contradictions=drop"
                )
    return left_out


def _make_tokenizer(
    config: TokenizerConfig, folder: Path, read: Read, texts: Texts, say: Callable[[str], None]
) -> Tokenizer:
    """The given tokenizer, or one trained on texts of the SFT fold alone, of all where that is empty; in `folder`."""
    if config.path:
        say(f"data: loading the tokenizer in {config.path}")
        given = load_tokenizer(config.path, config.template_arguments)
        _ = Template(given).frame  # a chat template that holds no prompt is named by the user's folder
        given.save(folder)
        return load_tokenizer(folder)
    if config.template_arguments:
        raise UserError("tokenizer.template_arguments without tokenizer.path: a tokenizer trained here has no template")
    say("data: training the tokenizer")
    of_sft = read.folds == FOLDS.index("sft")
    rows = np.flatnonzero(of_sft) if of_sft.any() else np.arange(len(of_sft))
    if len(rows) > MOST_TRAINED_ON:  # at even distances
        rows = rows[np.arange(MOST_TRAINED_ON) * len(rows) // MOST_TRAINED_ON]
    pieces = (text for row in rows.tolist() for text in texts[row])
    return train_tokenizer(pieces, vocab_size=config.vocab_size, folder=folder)


def _with_limits(data: DataConfig, template: Template, texts: Texts, examples: int) -> DataConfig:
    """`data` with a number for each limit that it leaves open, from examples at even distances."""
    if data.prompt_length and data.response_length:
        return data
    count = min(examples, MOST_MEASURED)
    _, lengths, _ = Tokeniser(template)([Triple(*texts[row * examples // count]) for row in range(count)])
    return with_limits(data, lengths, template.frame_length)


def _tokenise(
    data: DataConfig, template: Template, read: Read, left_out: np.ndarray, folder: Path
) -> tuple[np.ndarray, np.ndarray]:
    """Pass 2: tokens of the kept pairs on disk; lengths [examples, 4] of all, and which are kept [examples].

    Those of `left_out` [examples], which contradict each other, are not.
    """
    tokenise, texts, unknown = Tokeniser(template), Texts(folder), template.tokenizer.unknown_id
    lengths = np.zeros((len(read.folds), len(FEATURES)), np.int32)
    keep = np.zeros(len(read.folds), bool)
    with RaggedWriter(folder, "tokens", _dtype(template.tokenizer)) as tokens:
        for name, reading in read.readings.items():
            source = read.source(name)
            for start in range(source.start, source.stop, _CHUNK):
                rows = slice(start, min(start + _CHUNK, source.stop))
                values, lengths[rows], refusals = tokenise(texts.read(rows.start, rows.stop))
                refusals = [CONTRADICTION if out else why for why, out in zip(refusals, left_out[rows], strict=True)]
                keep[rows], drops = admit(lengths[rows], refusals, template.frame_length, data)
                reading.drops.update(drops)
                row_kept = np.repeat(keep[rows], lengths[rows].sum(axis=1))
                reading.tokens += int(row_kept.sum())
                reading.unknown += 0 if unknown is None else int((values[row_kept] == unknown).sum())
                tokens.append(values[row_kept], (lengths[rows] * keep[rows, None]).ravel())
    return lengths, keep


def _dtype(tokenizer: Tokenizer) -> np.dtype[Any]:
    """The smallest that holds every id."""
    return np.dtype(np.uint16 if tokenizer.vocab_size <= 1 << 16 else np.int32)


def _need_examples(read: Read, placed: np.ndarray) -> None:
    """UserError for a source without an example. A fold may have none: whoever reads it says so (store.py)."""
    for source, reading in read.readings.items():
        if not (placed[read.source(source)] != LEFT_OUT).any():
            mine = ", ".join(f"{count} x {reason}" for reason, count in reading.drops.most_common())
            raise UserError(
                f"data source {source} kept no example; dropped: {mine}. "
                "Raise data.prompt_length or data.response_length, or take the source out"
            )


def _layout(template: Template, lengths: np.ndarray, folds: np.ndarray, buckets: int) -> Layout:
    """Tight widths and slots over the kept examples: `lengths` [rows, 4] as FEATURES, `folds` [rows] their numbers."""
    suffix, widths = template.improver_suffix, {}
    for kind in KINDS:
        if kind != "prompts":
            used = np.isin(folds, [FOLDS.index(fold) for fold, kinds in FOLD_KINDS.items() if kind in kinds])
            lengths_N = row_lengths(kind, lengths[used] if used.any() else lengths, len(suffix))
            widths[kind] = widths_of(lengths_N, buckets)
    longest_of = dict(zip(FEATURES, map(int, lengths.max(axis=0)), strict=True))
    return Layout(
        pad_id=template.tokenizer.pad_id,
        eos_id=template.tokenizer.eos_id,
        suffix=tuple(suffix),
        row_lengths={kind: found[-1] for kind, found in widths.items()},
        prompt_slot=round_up(max(longest_of["prompt"], longest_of["prefix"]), 4),
        response_slot=round_up(max(longest_of["chosen"], longest_of["rejected"]) + 1, 4),
        buckets={kind: found[:-1] for kind, found in widths.items() if len(found) > 1},
    )


def _report(
    data: DataConfig,
    read: Read,
    keep: np.ndarray,
    lengths: np.ndarray,
    counts: Mapping[str, Counter[str]],
    layout: Layout,
) -> dict[str, Any]:
    sources = {}
    for source, reading in read.readings.items():
        kept = int(keep[read.source(source)].sum())
        sources[source] = {
            "read": kept + sum(reading.drops.values()),
            "dropped": dict(reading.drops),
            "first dropped at": reading.first,
            "kept": kept,
            "message lists in strings": reading.lists,
            "tokens": reading.tokens,
            "unknown tokens": reading.unknown,
            "left out by rates": kept - sum(count[source] for count in counts.values()),
        }
    return {
        "sources": sources,
        "folds": {fold: {"examples": sum(count.values()), "by source": dict(count)} for fold, count in counts.items()},
        "lengths before drops": _percentiles(lengths),
        "limits": {"data.prompt_length": data.prompt_length, "data.response_length": data.response_length},
        "layout": asdict(layout),
    }


def _percentiles(lengths: np.ndarray) -> dict[str, dict[str, int]]:
    known = lengths[lengths.any(axis=1)]  # without rows that the chat template could not hold
    values = np.percentile(known, (50, 90, 99, 100), axis=0, method="higher").astype(int)
    return {
        name: dict(zip(("p50", "p90", "p99", "max"), map(int, values[:, i]), strict=True))
        for i, name in enumerate(FEATURES)
    }
