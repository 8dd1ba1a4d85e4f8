"""The prepared data set of a run, on disk: built once through seqio, read afterwards without TensorFlow.

Rows are ragged and mapped into memory (`preparation` says which files there are); they are padded when a batch is
asked for (rows.py).
"""

import hashlib
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from pit_jax.batch import Triple
from pit_jax.config import DataConfig, TokenizerConfig, flatten
from pit_jax.data import tasks
from pit_jax.data.features import Layout
from pit_jax.data.folds import PAIR_FOLDS
from pit_jax.data.preparation import FOLD_KINDS, REPORT, build, by_fold
from pit_jax.data.ragged import Ragged, RaggedFiles, mapped
from pit_jax.data.rows import StoredRows
from pit_jax.data.sources import embedded, source_code, source_files, source_identity
from pit_jax.data.text.sentencepiece import model_file
from pit_jax.data.text.stored import Texts, Triples
from pit_jax.data.text.templates import Template
from pit_jax.data.text.tokenizers import WEIGHTS, Tokenizer, load_tokenizer
from pit_jax.data.tokens import Tokeniser
from pit_jax.data.worlds.world import pairs
from pit_jax.errors import UserError
from pit_jax.files import content_digest, read_json, whole_folder
from pit_jax.paths import DONE, local, to_path
from pit_jax.seal import check_file, check_files, read_seal, seal
from pit_jax.terminal import tell

_VERSION = 6  # of the rows and files written here
_SHOWN = 5  # of the inputs that have changed
_SAMPLE = 100  # pairs of a world, whose contents stand for its code


@dataclass(frozen=True)
class Prepared:
    """A finished data folder: tokens and the row-aligned text of every fold."""

    folder: Path
    tokenizer: Tokenizer
    template: Template
    fingerprint: str
    response_slot: int  # T, and R: the longest answer and its EOS, rounded up to a multiple of 4
    report: dict[str, Any]  # per source: read, kept, dropped by reason; per fold: examples; lengths: percentiles
    done: dict[str, Any]  # what `preparation.build` says of it

    def rows(self, fold: str, kind: str) -> StoredRows:
        """The rows of a fold, which batches of `kind` are made of. UserError for a kind that it has no use for, and for
        an empty fold."""
        if kind not in FOLD_KINDS.get(fold, ()):
            raise UserError(f"no rows of kind {kind!r} in fold {fold!r}; prepared are {FOLD_KINDS}")
        if fold not in self.filled:
            raise UserError(self._why_empty(fold))
        return StoredRows(kind, self.layout, self.tokens, self._margins, self._numbers(fold))

    def pairs(self, kind: str, which: str) -> StoredRows:
        """The rows that a model which scores trains on, by --rm.pairs: those of its fold, and behind them those of the
        other folds that their layout holds. UserError as `rows`."""
        own, *others = PAIR_FOLDS[which]
        rows = self.rows(own, kind)
        numbers = [replace(rows, numbers=self._numbers(fold)).fitting().numbers for fold in others]
        return replace(rows, numbers=np.concatenate([rows.numbers, *numbers])) if others else rows

    def rows_of(self, kind: str, triples: Sequence[Triple]) -> StoredRows:
        """Rows of pairs that the data do not hold; `numbers` are those of the pairs, without those that have no tokens
        or whose answers are the same to the tokenizer. The layout is the data's: whether it holds them is not asked."""
        tokens, lengths, refusals = Tokeniser(self.template)(triples)
        kept = np.flatnonzero([why is None for why in refusals])
        return StoredRows(
            kind, self.layout, Ragged.of(tokens, lengths.ravel()), np.zeros(len(triples), np.float32), kept
        )

    def texts(self, tokens_NT: Any) -> list[str]:
        """One text a row of answer tokens, special tokens left out."""
        return [self.template.text(row) for row in np.asarray(tokens_NT).tolist()]

    def triples(self, *folds: str) -> Triples:
        """The folds as text, one behind the other; of one fold, row i belongs to row i of every kind."""
        return Triples(Texts(self.folder), self._margins, np.concatenate([self._numbers(fold) for fold in folds]))

    @property
    def filled(self) -> list[str]:
        """The folds that hold an example."""
        return [fold for fold, found in self.report["folds"].items() if found["examples"]]

    def mixture(self) -> Any:
        """The seqio mixture that gave every fold its order, with the tokens of its examples: (x, y_ref, y_w, y_l)."""
        placed = np.fromfile(self.folder / "placed.bin", np.uint8)
        return tasks.build_mixture(
            by_fold(placed, self.done["starts"], self.done["sources"]),
            self.done["inputs"]["data.rates"],
            self.done["pairs"],
            margins=self._margins,
            tokens=self._token_files,
            tokenizer=self.tokenizer,
        )

    @cached_property
    def layout(self) -> Layout:
        """What all rows share."""
        return Layout(**self.report["layout"])

    @cached_property
    def tokens(self) -> Ragged:
        """The FEATURES of every example."""
        return self._token_files.rows

    @cached_property
    def _token_files(self) -> RaggedFiles:
        return RaggedFiles(self.folder, "tokens", np.dtype(self.done["token_dtype"]))

    @cached_property
    def _margins(self) -> np.ndarray:
        return mapped(self.folder / "margins.bin", np.float32)

    def _numbers(self, fold: str) -> np.ndarray:
        return mapped(self.folder / f"{fold}.bin", np.int32)

    def _why_empty(self, fold: str) -> str:
        sources = self.report["sources"].values()
        read, kept = (sum(source[name] for source in sources) for name in ("read", "kept"))
        drops = [f"{count} x {reason}" for source in sources for reason, count in source["dropped"].items()]
        return (
            f"fold {fold} is empty: of {read} pairs read, {kept} were kept; dropped: {', '.join(drops) or 'nothing'}. "
            "Give more pairs, raise data.prompt_length or data.response_length, or change data.heldout_fraction"
        )


def prepare(
    data: DataConfig, tokenizer: TokenizerConfig, folder: Path, *, say: Callable[[str], None] = tell
) -> Prepared:
    """Build the data set of a run in `folder`, or read it if it is there.

    `folder` appears at once and complete. Raises UserError for unusable sources, settings or tokenizers, for an
    empty fold, for a folder that holds other data (naming what changed), and where it cannot be written.
    """
    folder = to_path(folder)
    _check(data)
    inputs = _inputs(data, tokenizer)
    compared = {name: value for name, (value, _) in inputs.items()}
    if not _is_prepared(folder, inputs):
        with whole_folder(folder) as partial:
            built = build(data, tokenizer, partial, compared, say)
            seal(partial, {**built, "called": {name: called for name, (_, called) in inputs.items()}})
    return open_data(folder)


def _check(data: DataConfig) -> None:
    if len(data.sources) != len({world.name if (world := embedded(spec)) else spec for spec in data.sources}):
        raise UserError(f"data.sources must name each source once; found {data.sources}")
    if len(data.rates) != len(data.sources):
        raise UserError(f"data.rates needs one rate a source: {len(data.sources)} sources, {len(data.rates)} rates")


def _inputs(data: DataConfig, tokenizer: TokenizerConfig) -> dict[str, tuple[Any, str]]:
    """{name: (value, what the user calls it now)} of all that the prepared data depend on.

    These are knobs, and the contents of the files that knobs name: where a file lies is in no name or value.
    """
    knobs = flatten(data, "data.") | flatten(tokenizer, "tokenizer.") | {"version": _VERSION}
    inputs = {name: (value, name) for name, value in knobs.items() if name not in ("data.sources", "tokenizer.path")}
    for number, source in enumerate(data.sources, 1):
        inputs |= {name: (code, name) for name, code in source_code(source).items()}
        inputs[f"source {number}"] = source_identity(source), f"source {number}"
        if world := embedded(source):
            sample = pairs(world, _SAMPLE, data.world_seed)
            inputs[f"world {world.name}"] = hashlib.sha256(repr(sample).encode()).hexdigest(), f"contents of {source}"
        for part, path in enumerate(source_files(source), 1):
            inputs[f"source {number}, file {part}"] = content_digest(local(path)), f"contents of {path}"
    if tokenizer.path:
        named, found = to_path(tokenizer.path), local(to_path(tokenizer.path), but=WEIGHTS)
        model = model_file(found)
        read = sorted(found.glob("*.j*"))  # tokenizer.json, its config, chat_template.jinja
        for path in (*read, model) if model is not None else read:
            inputs[f"tokenizer, {path.name}"] = content_digest(path), f"contents of {named / path.name}"
    return inputs


def _is_prepared(folder: Path, inputs: Mapping[str, tuple[Any, str]]) -> bool:
    """Whether `folder` holds the finished data of `inputs`; raises UserError if it holds anything else."""
    if not folder.exists() or (folder.is_dir() and not any(folder.iterdir())):
        return False
    done = read_seal(folder)
    if done is None:
        raise UserError(
            f"{folder / DONE}: no such file: {folder} exists but holds no finished data set; remove it or choose "
            "another workdir"
        )
    before = done["inputs"]
    now = json.loads(json.dumps({name: value for name, (value, _) in inputs.items()}))
    called = done["called"] | {name: called for name, (_, called) in inputs.items()}
    changed = [
        f"{called[name]}: was {_short(before.get(name, 'absent'))}, now {_short(now.get(name, 'absent'))}"
        for name in sorted(before.keys() | now.keys())
        if before.get(name) != now.get(name)
    ]
    if changed:
        more = [f"and {len(changed) - _SHOWN} more"] if len(changed) > _SHOWN else []
        raise UserError(
            f"{folder} was prepared from other inputs ({'; '.join(changed[:_SHOWN] + more)}); "
            "restore them, or choose another workdir for the new ones"
        )
    return True


def _short(value: Any) -> str:
    """A digest by its first digits."""
    return value[:12] if isinstance(value, str) and len(value) == 64 else str(value)


def open_data(folder: Path) -> Prepared:
    """A finished data folder as it is, whatever it was prepared from. UserError where there is none."""
    done = read_seal(folder)
    if done is None:
        raise UserError(f"{folder / DONE}: asked for prepared data, found none; run --stage=data, or any other, first")
    if done["inputs"]["version"] != _VERSION:
        raise UserError(f"{folder} was prepared by another version of pit_jax; delete it and prepare the data again")
    folder = check_files(folder, done)
    tokenizer = load_tokenizer(folder / "tokenizer")
    if tokenizer.fingerprint != done["tokenizer"]:
        raise UserError(f"{folder}/tokenizer changed since the data were prepared; put it back, or prepare them again")
    report = read_json(folder / REPORT) or {}
    return Prepared(folder, tokenizer, Template(tokenizer), done["fingerprint"], done["response_slot"], report, done)


def read_report(folder: Path) -> dict[str, Any] | None:
    """The report of a finished data folder alone; None where there is no such folder. UserError as `open_data`."""
    done = read_seal(folder)
    return None if done is None else read_json(check_file(folder, REPORT, done))
