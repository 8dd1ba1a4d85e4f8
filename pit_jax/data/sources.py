"""Where preference pairs come from: the embedded `notes`, or LAYOUT:LOCATION, a meaning of rows and where they lie."""

import difflib
import math
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from pit_jax.batch import Triple
from pit_jax.config import DataConfig
from pit_jax.data import notes
from pit_jax.data.layouts import LAYOUTS, NOTES, asked, pairs, shares_prompt, with_lists
from pit_jax.data.readers import HUB, TFDS, download_advice, identity, local_files, read_rows, split_location
from pit_jax.data.text.row import Row, Unusable
from pit_jax.errors import UserError
from pit_jax.paths import to_path

_HH = "hub/Anthropic/hh-rlhf"
_TRANCHES = ("helpful-base", "helpful-rejection-sampled", "helpful-online")
SHIPPED: dict[tuple[str, str], tuple[str, ...]] = {
    ("hh", "helpful"): tuple(f"{_HH}/{tranche}@train" for tranche in _TRANCHES),
    ("hh", "harmless"): (f"{_HH}/harmless-base@train",),
    **{("hh", tranche): (f"{_HH}/{tranche}@train",) for tranche in (*_TRANCHES, "harmless-base")},
    ("tldr", "hub"): ("hub/CarperAI/openai_summarize_comparisons@train",),
    ("ultrafeedback", "hub"): ("hub/HuggingFaceH4/ultrafeedback_binarized@train_prefs",),
    ("synthetic_instruct", "hub"): ("hub/Dahoas/synthetic-instruct-gptj-pairwise@train",),
}


Truth = Callable[[str, str], float]  # truth(prompt, answer): what an answer is really worth


def known_truth(data: DataConfig) -> Truth | None:
    """The score by which the pairs of the embedded set were labelled, for judging only; None where nobody knows one.

    It is known for all answers to that set's prompts: of `notes` and of files of the layout `notes`.
    """
    return notes.score if _of_notes(data) else None


Flaws = Callable[[str, str], Sequence[str]]  # flaws(prompt, answer): the names of its flaws, one as often as it occurs


def known_flaws(data: DataConfig) -> Flaws | None:
    """What costs an answer its points, where `known_truth` is the score of the embedded set; else None."""
    return notes.flaws if _of_notes(data) else None


def largest_truth(data: DataConfig) -> float | None:
    """The largest value that `known_truth` gives."""
    return notes.MAX_SCORE if _of_notes(data) else None


def _of_notes(data: DataConfig) -> bool:
    return all(source.partition(":")[0] == NOTES for source in data.sources)


@dataclass
class Reading:
    """What one source gave: pairs, and rows left out."""

    triples: list[Triple] = field(default_factory=list)
    drops: Counter[str] = field(default_factory=Counter)  # rows, by reason
    first: dict[str, str] = field(default_factory=dict)  # of each reason: where it was met first, and what was found
    bad: int = 0  # rows of `drops` that no public data set is known to hold
    tokens: int = 0  # of the pairs that are kept
    unknown: int = 0  # of these, pieces that the tokenizer's vocabulary lacks
    lists: int = 0  # rows with message lists as JSON strings, which were read as lists
    with_prompt: int = 0  # pairs whose row has a prompt column
    without: int = 0  # pairs whose prompt is what their answers share
    first_without: str = ""  # where the first of them is

    def drop(self, where: str, why: Unusable) -> None:
        self.drops[why.reason] += 1
        self.bad += not why.known
        self.first.setdefault(why.reason, f"{where}: {why.found}" if why.found else where)

    def with_lists(self, row: Row) -> Row:
        """`row` with message lists in place of strings that hold them, counted."""
        read = with_lists(row)
        self.lists += read is not row
        return read

    def note_prompt(self, where: str, row: Row) -> None:
        """Count a pair of the layout `pairs` by where its prompt comes from."""
        self.with_prompt += "prompt" in row
        if shares_prompt(row):
            self.without += 1
            self.first_without = self.first_without or where

    def reasons(self) -> str:
        """Every reason with its count and first place, the most frequent first."""
        return "; ".join(
            f"{count} x {reason} (first at {self.first[reason]})" for reason, count in self.drops.most_common()
        )


def read_source(spec: str, data: DataConfig) -> Reading:
    """Pairs of one source and the rows left out of it, all in memory. Raises UserError as `stream_source` does."""
    reading = Reading()
    reading.triples.extend(stream_source(spec, data, reading))
    return reading


def stream_source(spec: str, data: DataConfig, reading: Reading) -> Iterator[Triple]:
    """Pairs of one source, one after the other: `notes`, or LAYOUT:LOCATION (layouts.py, readers.py, SHIPPED).

    Rows left out are counted in `reading`. Raises UserError for an unknown layout, a location that cannot be read, and
    at the end for one without any pair, with a prompt column in some of its rows alone, and for more rows that cannot
    be pairs than `data.max_bad_rows` allows: every reason with its count and first place.
    """
    if spec == NOTES:
        yield from notes.stream(data.notes_pairs, data.notes_seed)
        return
    layout, locations = _locations(spec)
    parse, advice = LAYOUTS[layout].parse, download_advice(layout, locations)
    is_ours = LAYOUTS.source(layout) is None  # a fork's may want the strings
    rows, kept = 0, 0
    for location in locations:
        for where, row in read_rows(location, advice):
            rows += 1
            try:
                if isinstance(row, Unusable):
                    raise row
                row = reading.with_lists(row) if is_ours else row
                triple = parse(row)
            except Unusable as why:
                reading.drop(where, why)
                continue
            except Exception as error:
                if (source := LAYOUTS.source(layout)) is None:
                    raise
                what = f"{type(error).__name__}: {error}"
                raise UserError(f"{where}: the layout {layout!r} of {source.file} raised {what}") from error
            if parse is pairs:
                reading.note_prompt(where, row)
            kept += 1
            yield triple
    if reading.bad > data.max_bad_rows * rows:
        share = math.ceil(1000 * reading.bad / rows) / 1000
        raise UserError(
            f"data source {spec}: {reading.bad:,} of {rows:,} rows cannot be pairs, and data.max_bad_rows="
            f"{data.max_bad_rows:g} allows {int(data.max_bad_rows * rows):,}: {reading.reasons()}. Mend or remove "
            f"them, or leave them out, counted, with --data.max-bad-rows={share:g}"
        )
    if reading.with_prompt and reading.without:
        raise UserError(
            f"data source {spec}: {reading.without:,} of {rows:,} rows have no prompt column (first at "
            f"{reading.first_without}), others have one; give every row a prompt, or none where answers begin with it"
        )
    if not kept:
        raise UserError(f"data source {spec}: no pair in {rows:,} rows: {reading.reasons() or 'there are none'}")


def read_asked(location: str) -> tuple[list[str], list[str | None]]:
    """(prompts, answers to improve; None where the policy answers first) of a file, folder or data set of such rows.

    Raises UserError for a location that cannot be read, and for rows without a prompt: every reason, its count and
    first place.
    """
    found, reading, rows = list[tuple[str, str | None]](), Reading(), 0
    address = split_location(location)[0]
    if not address.startswith((HUB, TFDS)) and not to_path(address).exists():
        raise UserError(f"{location}: no such file or folder; pass rows with a `prompt`, and an `answer` to improve")
    for where, row in read_rows(location, ""):
        rows += 1
        try:
            if isinstance(row, Unusable):
                raise row
            found.append(asked(reading.with_lists(row)))
        except Unusable as why:
            reading.drop(where, why)
    if reading.drops:
        left_out = sum(reading.drops.values())
        raise UserError(f"{location}: {left_out:,} of {rows:,} rows cannot be improved: {reading.reasons()}")
    return [prompt for prompt, _ in found], [answer for _, answer in found]


def source_code(spec: str) -> dict[str, str]:
    """The code of a fork's layout that a source is read with: what is prepared depends on it too."""
    return LAYOUTS.code(spec.partition(":")[0])


def source_files(spec: str) -> list[Path]:
    """The files that a source is read from, gs:// ones too: what is prepared depends on their contents.

    Raises UserError as `read_source` does for a spec or a path.
    """
    if spec == NOTES:
        return []
    return [path for location in _locations(spec)[1] for path in local_files(location)]


def source_identity(spec: str) -> str:
    """What a source is beside the contents of its files, wherever these lie. Raises UserError as `source_files`."""
    if spec == NOTES:
        return spec
    layout, locations = _locations(spec)
    return f"{layout}:{' '.join(map(identity, locations))}"


def _locations(spec: str) -> tuple[str, tuple[str, ...]]:
    """(layout, the locations that a spec names)."""
    layout, colon, location = spec.partition(":")
    if layout not in LAYOUTS:
        nearest = difflib.get_close_matches(layout, LAYOUTS.names(), n=1, cutoff=0.0)[0]
        raise UserError(
            f"data source {spec!r}: unknown layout {layout!r}; did you mean {nearest!r}? "
            f"Sources are notes and LAYOUT:LOCATION, with a layout of {', '.join(LAYOUTS.names())}"
        )
    if not location:
        raise UserError(f"data source {spec!r} names no file; write '{layout}:PATH'{_offered(layout)}")
    address, split = split_location(location)
    if shipped := SHIPPED.get((layout, address)):
        return layout, tuple(f"{split_location(part)[0]}@{split}" if split else part for part in shipped)
    if not address.startswith((HUB, TFDS)) and not to_path(address).exists():
        raise UserError(f"data source {spec!r}: {address}: no such file or folder; check the path{_offered(layout)}")
    return layout, (location,)


def _offered(layout: str) -> str:
    names = [f"{layout}:{name}" for known, name in SHIPPED if known == layout]
    return f", or take what the hub has: {', '.join(names)}" if names else ""
