"""The prepared data set of a run, on disk: built once through seqio, read afterwards without TensorFlow."""

import functools
import hashlib
import json
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from pit_jax.batch import Triple
from pit_jax.config import DataConfig, TokenizerConfig, config_hash, flatten
from pit_jax.data import tasks
from pit_jax.data.features import FEATURES, KINDS, Arrays, Layout, row_lengths
from pit_jax.data.folds import FOLDS, fold_of
from pit_jax.data.sources import Reading, read_source, source_code, source_files
from pit_jax.data.text.sentencepiece import model_file
from pit_jax.data.text.templates import Template
from pit_jax.data.text.tokenizers import Tokenizer, load_tokenizer, train_tokenizer
from pit_jax.data.tf import tensorflow_and_seqio
from pit_jax.errors import UserError
from pit_jax.files import file_digest, read_json, whole_folder, write_json

FOLD_KINDS: dict[str, tuple[str, ...]] = {
    "sft": ("sft-policy", "sft-improver"),
    "rm": ("reward", "gap"),
    "rl": ("prompts",),
    "heldout": KINDS,
}
_VERSION = 2  # of the rows and files written here
_DONE = "done.json"


@dataclass(frozen=True)
class Prepared:
    """A finished data folder: token arrays and the row-aligned text of every fold."""

    folder: Path
    tokenizer: Tokenizer
    template: Template
    fingerprint: str
    response_slot: int  # T, and R: the longest answer and its EOS, rounded up to a multiple of 4
    report: dict[str, Any]  # per source: read, kept, dropped by reason; per fold: examples; lengths: percentiles

    def arrays(self, fold: str, kind: str) -> Arrays:
        """Arrays [rows, ..] with the field names of the batch class of `kind`.

        Raises UserError for a kind that is not prepared in this fold.
        """
        if kind not in FOLD_KINDS.get(fold, ()):
            raise UserError(f"no rows of kind {kind!r} in fold {fold!r}; prepared are {FOLD_KINDS}")
        with np.load(self.folder / f"{fold}.npz", allow_pickle=False) as file:
            return {name.partition("/")[2]: file[name] for name in file.files if name.startswith(f"{kind}/")}

    def texts(self, tokens_NT: Any) -> list[str]:
        """One text a row of answer tokens, special tokens left out."""
        return [self.template.text(row) for row in np.asarray(tokens_NT).tolist()]

    def triples(self, fold: str) -> list[Triple]:
        """The fold as text; row i belongs to row i of every array of the fold."""
        with (self.folder / f"{fold}.jsonl").open(encoding="utf-8") as file:
            return [Triple(**json.loads(line)) for line in file]


def prepare(
    data: DataConfig, tokenizer: TokenizerConfig, folder: Path, *, say: Callable[[str], None] = print
) -> Prepared:
    """Build the data set of a run in `folder`, or read it if it is there.

    `folder` appears at once and complete. Raises UserError for unusable sources, settings or tokenizers, for an
    empty fold, for a folder that holds other data (naming what changed), and where it cannot be written.
    """
    folder = Path(folder)
    _check(data)
    inputs = _inputs(data, tokenizer)
    if not _is_prepared(folder, inputs):
        with whole_folder(folder) as partial:
            _build(data, tokenizer, partial, inputs, say)
    return open_data(folder)


def _check(data: DataConfig) -> None:
    if not data.sources or len(data.sources) != len(set(data.sources)):
        raise UserError(f"data.sources must name at least one source, each once; found {data.sources}")
    if len(data.rates) != len(data.sources):
        raise UserError(f"data.rates needs one rate a source: {len(data.sources)} sources, {len(data.rates)} rates")
    if min(data.rates) <= 0.0:
        raise UserError(f"data.rates must be positive, found {data.rates}")
    if not 0.0 < data.heldout_fraction < 1.0:
        raise UserError(f"data.heldout_fraction must lie between 0 and 1, found {data.heldout_fraction}")
    if not 0.0 <= data.max_bad_rows <= 1.0:
        raise UserError(f"data.max_bad_rows must be a share from 0 to 1, found {data.max_bad_rows}")


def _inputs(data: DataConfig, tokenizer: TokenizerConfig) -> dict[str, Any]:
    """All that the prepared data depend on: knobs, and the contents of the files they name."""
    inputs = flatten(data, "data.") | flatten(tokenizer, "tokenizer.") | {"version": _VERSION}
    for source in data.sources:
        inputs |= source_code(source)
        for path in source_files(source):
            inputs[f"contents of {path}"] = file_digest(path)
    if "notes" in data.sources:
        sample = read_source("notes", DataConfig(notes_pairs=100, notes_seed=data.notes_seed)).triples
        inputs["contents of notes"] = hashlib.sha256(repr(sample).encode()).hexdigest()[:12]
    if tokenizer.path:
        model = model_file(Path(tokenizer.path))
        for path in sorted(Path(tokenizer.path).glob("*.j*")):  # tokenizer.json, its config, chat_template.jinja
            inputs[f"contents of {path}"] = file_digest(path)
        if model is not None:
            inputs[f"contents of {model}"] = file_digest(model)
    return inputs


def _is_prepared(folder: Path, inputs: Mapping[str, Any]) -> bool:
    """Whether `folder` holds the finished data of `inputs`; raises UserError if it holds anything else."""
    if not folder.exists() or (folder.is_dir() and not any(folder.iterdir())):
        return False
    if not (folder / _DONE).is_file():
        raise UserError(f"{folder} exists but holds no finished data set; remove it or choose another workdir")
    before = json.loads((folder / _DONE).read_text())["inputs"]
    now = json.loads(json.dumps(inputs))
    changed = [
        f"{name}: was {before.get(name, 'absent')}, now {now.get(name, 'absent')}"
        for name in sorted(before.keys() | now.keys())
        if before.get(name) != now.get(name)
    ]
    if changed:
        raise UserError(
            f"{folder} was prepared from other inputs ({'; '.join(changed)}); "
            "restore them, or choose another workdir for the new ones"
        )
    return True


def open_data(folder: Path) -> Prepared:
    """A finished data folder as it is, whatever it was prepared from. UserError where there is none."""
    done, report = read_json(folder / _DONE), read_json(folder / "report.json")
    if done is None or report is None:
        raise UserError(f"{folder}: asked for prepared data, found none; run --stage=data, or any other, first")
    tokenizer = load_tokenizer(folder / "tokenizer")
    if tokenizer.fingerprint != done["tokenizer"]:
        raise UserError(f"{folder}/tokenizer changed since the data were prepared; put it back, or prepare them again")
    return Prepared(folder, tokenizer, Template(tokenizer), done["fingerprint"], done["response_slot"], report)


def _build(
    data: DataConfig, config: TokenizerConfig, folder: Path, inputs: dict[str, Any], say: Callable[[str], None]
) -> None:
    readings: dict[str, Reading] = {}
    for source in data.sources:
        say(f"data: reading {source}")
        readings[source] = read_source(source, data)
    read = {source: reading.triples for source, reading in readings.items()}
    drops = {source: reading.drops for source, reading in readings.items()}
    fold = functools.cache(functools.partial(fold_of, heldout_fraction=data.heldout_fraction))
    folds = {source: [fold(triple.prompt) for triple in rows] for source, rows in read.items()}

    with ThreadPoolExecutor(1) as imports:  # seconds, which pass while native code tokenises
        imports.submit(tensorflow_and_seqio)
        tokenizer = _make_tokenizer(config, folder / "tokenizer", read, folds, say)
        template = Template(tokenizer)
        say("data: tokenising")
        ids = tasks.encode((triple for rows in read.values() for triple in rows), template)
    lengths, keep = {}, {}
    for source, rows in read.items():
        lengths[source], keep[source], long = tasks.admit(rows, template, ids, data)
        drops[source].update(long)

    sources, everything = _number(read, folds, keep)
    _need_examples(sources, drops, sum(map(len, read.values())))
    layout = _layout(template, np.concatenate([lengths[s][keep[s]] for s in read]), _kept(folds, keep))
    mixture = tasks.build_mixture(sources, data.rates, template, ids)
    counts: dict[str, Counter[str]] = {}
    for name in FOLDS:
        say(f"data: writing fold {name}")
        numbers = _write_fold(folder, name, mixture, layout, everything)
        owner = np.searchsorted(np.cumsum([int(keep[source].sum()) for source in read]), numbers, side="right")
        counts[name] = Counter(data.sources[number] for number in owner)

    report = {
        "sources": {
            source: {
                "read": len(rows) + sum(drops[source].values()) - int((~keep[source]).sum()),
                "dropped": dict(drops[source]),
                "first dropped at": readings[source].first,
                "kept": int(keep[source].sum()),
                "left out by rates": int(keep[source].sum()) - sum(count[source] for count in counts.values()),
            }
            for source, rows in read.items()
        },
        "folds": {fold: {"examples": sum(count.values()), "by source": dict(count)} for fold, count in counts.items()},
        "lengths before drops": _percentiles(np.concatenate(list(lengths.values()))),
        "layout": asdict(layout),
    }
    # The mixture's name holds a hash of its pairs: the same repository of the hub may hold others another day.
    fingerprint = config_hash(inputs | {"tokenizer": tokenizer.fingerprint, "pairs": mixture.name})
    done = {"fingerprint": fingerprint, "tokenizer": tokenizer.fingerprint, "inputs": inputs}
    write_json(folder / "report.json", report)
    write_json(folder / _DONE, done | {"response_slot": layout.response_slot})


def _make_tokenizer(
    config: TokenizerConfig,
    folder: Path,
    read: Mapping[str, Sequence[Triple]],
    folds: Mapping[str, Sequence[str]],
    say: Callable[[str], None],
) -> Tokenizer:
    """The given tokenizer, or one trained on the texts of the SFT fold alone; saved in `folder` either way."""
    if config.path:
        say(f"data: loading the tokenizer in {config.path}")
        given = load_tokenizer(config.path)
        _ = Template(given).frame  # a chat template that holds no prompt is named by the user's folder
        given.save(folder)
        return load_tokenizer(folder)
    say("data: training the tokenizer")
    texts = [
        text
        for source, rows in read.items()
        for triple, fold in zip(rows, folds[source], strict=True)
        if fold == "sft"
        for text in (triple.prompt, triple.chosen, triple.rejected)
    ]
    return train_tokenizer(texts, vocab_size=config.vocab_size, folder=folder)


def _number(
    read: Mapping[str, Sequence[Triple]], folds: Mapping[str, Sequence[str]], keep: Mapping[str, np.ndarray]
) -> tuple[dict[str, dict[str, list[tuple[int, Triple]]]], list[Triple]]:
    """Kept triples as (number, triple) by source and fold, and the list that the numbers point into."""
    sources: dict[str, dict[str, list[tuple[int, Triple]]]] = {}
    everything: list[Triple] = []
    for source, rows in read.items():
        sources[source] = {fold: [] for fold in FOLDS}
        for triple, fold, kept in zip(rows, folds[source], keep[source], strict=True):
            if kept:
                sources[source][fold].append((len(everything), triple))
                everything.append(triple)
    return sources, everything


def _kept(folds: Mapping[str, Sequence[str]], keep: Mapping[str, np.ndarray]) -> np.ndarray:
    return np.concatenate([np.array(folds[source])[keep[source]] for source in folds])


def _need_examples(
    sources: Mapping[str, Mapping[str, Sequence[Any]]], drops: Mapping[str, Counter[str]], pairs: int
) -> None:
    reasons = functools.reduce(Counter.__add__, drops.values(), Counter[str]())
    why = ", ".join(f"{count} x {reason}" for reason, count in reasons.most_common()) or "nothing"
    for source, folds in sources.items():
        if not any(folds.values()):
            mine = ", ".join(f"{count} x {reason}" for reason, count in drops[source].most_common())
            raise UserError(
                f"data source {source} kept no example; dropped: {mine}. "
                "Raise data.prompt_length or data.response_length, or take the source out"
            )
    for fold in FOLDS:
        if not any(rows[fold] for rows in sources.values()):
            kept = sum(len(rows) for folds in sources.values() for rows in folds.values())
            raise UserError(
                f"fold {fold} is empty: of {pairs} pairs read, {kept} were kept; dropped: {why}. "
                "Give more pairs, raise data.prompt_length or data.response_length, or change data.heldout_fraction"
            )


def _layout(template: Template, lengths: np.ndarray, folds: np.ndarray) -> Layout:
    """Tight row lengths and slots over the kept examples: `lengths` [rows, 4] as FEATURES, `folds` [rows]."""
    suffix = template.improver_suffix
    lengths_of = {}
    for kind in KINDS:
        if kind != "prompts":
            used = np.isin(folds, [fold for fold, kinds in FOLD_KINDS.items() if kind in kinds])
            lengths_of[kind] = _round_up(int(row_lengths(kind, lengths[used], len(suffix)).max()), 8)
    longest_of = dict(zip(FEATURES, map(int, lengths.max(axis=0)), strict=True))
    return Layout(
        pad_id=template.tokenizer.pad_id,
        eos_id=template.tokenizer.eos_id,
        suffix=tuple(suffix),
        row_lengths=lengths_of,
        prompt_slot=_round_up(max(longest_of["prompt"], longest_of["prefix"]), 4),
        response_slot=_round_up(max(longest_of["chosen"], longest_of["rejected"]) + 1, 4),
    )


def _round_up(number: int, multiple: int) -> int:
    return -(-number // multiple) * multiple


def _write_fold(folder: Path, fold: str, mixture: Any, layout: Layout, everything: Sequence[Triple]) -> np.ndarray:
    """Write the arrays and texts of one fold; returns the numbers [rows] of its examples."""
    arrays: Arrays = {}
    numbers = None
    for kind, rows in tasks.read(mixture, fold, FOLD_KINDS[fold], layout).items():
        ids = rows.pop("id")
        assert numbers is None or np.array_equal(numbers, ids), f"rows of {kind} are not aligned in fold {fold}"
        numbers = ids
        arrays |= {f"{kind}/{name}": array for name, array in rows.items()}
    assert numbers is not None
    np.savez(folder / f"{fold}.npz", allow_pickle=False, **arrays)
    with (folder / f"{fold}.jsonl").open("w", encoding="utf-8") as file:
        for number in numbers:
            file.write(json.dumps(asdict(everything[number]), ensure_ascii=False) + "\n")
    return numbers


def _percentiles(lengths: np.ndarray) -> dict[str, dict[str, int]]:
    known = lengths[lengths.any(axis=1)]  # without rows that the chat template could not hold
    values = np.percentile(known, (50, 90, 99, 100), axis=0, method="higher").astype(int)
    return {
        name: dict(zip(("p50", "p90", "p99", "max"), map(int, values[:, i]), strict=True))
        for i, name in enumerate(FEATURES)
    }
