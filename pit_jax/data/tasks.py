"""Sources as seqio tasks with the four folds as splits, gathered in one seqio mixture.

A pass over the mixture is finite and deterministic. Sources take turns so that after every example the shares are
as close to the rates as whole examples allow; the pass ends when the source whose turn it is has no example left, so
none repeats. A source without examples in a fold sits that fold out.
"""

import functools
import hashlib
from array import array
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from pit_jax.batch import Triple
from pit_jax.config import DataConfig
from pit_jax.data.features import FEATURES, Arrays, Example, Layout, converter
from pit_jax.data.folds import FOLDS
from pit_jax.data.text.templates import Template
from pit_jax.data.text.tokenizers import hf_vocabulary
from pit_jax.data.tf import tensorflow_and_seqio

_CHUNK = 1024  # examples tokenised at once
_SCALARS = ("margin", "id")  # features that are one number an example

Ids = Mapping[str, Sequence[int]]


def encode(triples: Iterable[Triple], template: Template) -> Ids:
    """Tokens of every text of `triples`, each distinct text encoded once."""
    pieces = ((*template.contents(triple.prompt), triple.chosen, triple.rejected) for triple in triples)
    texts = list({text: None for texts in pieces for text in texts})
    rows = (array("i", row) for row in template.tokenizer.encode_batch(texts))
    return dict(zip(texts, rows, strict=True))


def tokenise(triples: Sequence[Triple], template: Template, ids: Ids) -> list[Example]:
    """Triples as tokens, looked up in `ids`. Raises UserError for a prompt that the chat template cannot hold."""
    return [template.example(triple, ids.__getitem__) for triple in triples]


def too_long(example: Example, frame_length: int, data: DataConfig) -> str | None:
    """Why an example is left out, or None. `frame_length` = constant tokens of a policy prompt of one message; x is the
    rest, what stands between its turns included.

    The rule: x of more than `prompt_length` tokens, or an answer of more than `response_length` with its EOS.
    """
    if len(example.prompt) - frame_length > data.prompt_length:
        return f"prompt over {data.prompt_length} tokens"
    for name in ("chosen", "rejected"):
        if len(getattr(example, name)) + 1 > data.response_length:
            return f"{name} answer over {data.response_length} tokens with its EOS"
    return None


def admit(
    triples: Sequence[Triple], template: Template, ids: Ids, data: DataConfig
) -> tuple[np.ndarray, np.ndarray, Counter[str]]:
    """Lengths [rows, 4] of the features of each triple, which rows are kept, and the drops counted by reason.

    A row whose prompt the chat template cannot hold has no tokens: its lengths are 0.
    """
    lengths = np.zeros((len(triples), len(FEATURES)), np.int64)
    keep = np.ones(len(triples), bool)
    drops = Counter[str]()
    for row, triple in enumerate(triples):
        reason = template.refusal(triple.prompt)
        if reason is None:
            (example,) = tokenise([triple], template, ids)
            lengths[row] = [len(getattr(example, name)) for name in FEATURES]
            reason = too_long(example, template.frame_length, data)
        if reason:
            keep[row] = False
            drops[reason] += 1
    return lengths, keep, drops


def build_mixture(
    sources: Mapping[str, Mapping[str, Sequence[tuple[int, Triple]]]],
    rates: Sequence[float],
    template: Template,
    ids: Ids,
) -> Any:
    """seqio mixture of one task a source. `sources[name][fold]` holds (number, triple); numbers travel with the tokens.

    Tasks and mixture are registered under names that hold a hash of their contents, and found again if built twice.
    """
    tf, seqio = tensorflow_and_seqio()
    vocabulary = hf_vocabulary(template.tokenizer)
    features = {name: seqio.Feature(vocabulary, add_eos=False, dtype=tf.int32) for name in FEATURES}
    number = seqio.PassThroughVocabulary(size=2**31 - 1)  # any int32
    features["margin"] = seqio.Feature(number, add_eos=False, dtype=tf.float32, rank=0)
    features["id"] = seqio.Feature(number, add_eos=False, dtype=tf.int32, rank=0)
    names = []
    for index, (source, folds) in enumerate(sources.items()):  # seqio sorts tasks by name: the number keeps our order
        name = f"pit_jax_{index:03}_{_hash([template.tokenizer.fingerprint, source, *_contents(folds)])}"
        names.append(name)
        if name not in seqio.TaskRegistry.names():
            filled = {fold: rows for fold, rows in folds.items() if rows}
            seqio.TaskRegistry.add(
                name,
                source=seqio.FunctionDataSource(
                    functools.partial(_texts, filled), list(filled), {fold: len(rows) for fold, rows in filled.items()}
                ),
                preprocessors=[functools.partial(_tokens, template, ids)],
                output_features=features,
            )
    mixture = f"pit_jax_mixture_{_hash([*names, *map(repr, rates)])}"
    if mixture not in seqio.MixtureRegistry.names():
        seqio.MixtureRegistry.add(mixture, list(zip(names, map(float, rates), strict=True)), sample_fn=_take_turns)
    return seqio.get_mixture_or_task(mixture)


def read(mixture: Any, fold: str, kinds: Sequence[str], layout: Layout) -> dict[str, Arrays]:
    """All rows of one pass over a fold, for each of `kinds`, with `id` [rows]; no feature is trimmed.

    The same as `seqio.get_dataset` for each kind, but the tokens are made once.
    """
    assert fold in FOLDS, fold
    lengths: dict[str, int | None] = dict.fromkeys(FEATURES, layout.prompt_slot) | dict.fromkeys(_SCALARS)
    lengths |= {"chosen": layout.response_slot, "rejected": layout.response_slot}
    tokens = mixture.get_dataset(None, split=fold, shuffle=False, num_epochs=1, trim_output_features=False).cache()
    rows = {}
    for kind in kinds:
        chunks = list(converter(kind, layout)(tokens, lengths).batch(4 * _CHUNK).as_numpy_iterator())
        rows[kind] = {name: np.concatenate([chunk[name] for chunk in chunks]) for name in chunks[0]}
    return rows


def _take_turns(datasets: Sequence[Any], rates: Sequence[float], seed: int | None = None) -> Any:
    tf, _ = tensorflow_and_seqio()
    if len(datasets) == 1:
        return datasets[0]
    rates_S = tf.constant(rates, tf.float64)

    def step(taken_S: Any, _: Any) -> tuple[Any, Any]:
        choice = tf.argmin((taken_S + 1) / rates_S)
        return taken_S + tf.one_hot(choice, len(rates), dtype=tf.float64), choice

    choices = tf.data.Dataset.counter().scan(tf.zeros(len(rates), tf.float64), step)
    return tf.data.Dataset.choose_from_datasets(list(datasets), choices, stop_on_empty_dataset=True)


def _texts(
    folds: Mapping[str, Sequence[tuple[int, Triple]]], split: str, shuffle_files: bool, seed: int | None = None
) -> Any:
    tf, _ = tensorflow_and_seqio()
    rows = folds[split]
    names = ("prompt", "chosen", "rejected")
    columns: dict[str, Any] = {name: [getattr(triple, name).encode() for _, triple in rows] for name in names}
    columns["margin"] = np.array([triple.margin for _, triple in rows], np.float32)
    columns["id"] = np.array([number for number, _ in rows], np.int32)
    return tf.data.Dataset.from_tensor_slices(columns)


def _tokens(template: Template, ids: Ids, dataset: Any) -> Any:
    """seqio preprocessor: text columns to the token features, a chunk at a time."""
    tf, _ = tensorflow_and_seqio()

    def encode(*columns: np.ndarray) -> list[np.ndarray]:
        triples = [Triple(*(text.decode() for text in row)) for row in zip(*columns, strict=True)]
        examples = tokenise(triples, template, ids)
        outputs = []
        for name in FEATURES:
            rows = [getattr(example, name) for example in examples]
            outputs.append(np.array([token for row in rows for token in row], np.int32))
            outputs.append(np.array([len(row) for row in rows], np.int32))
        return outputs

    def chunk(texts: dict[str, Any]) -> dict[str, Any]:
        columns = [texts[name] for name in ("prompt", "chosen", "rejected")]
        flat = tf.numpy_function(encode, columns, [tf.int32] * (2 * len(FEATURES)))
        features = {name: texts[name] for name in _SCALARS}
        for name, values, lengths in zip(FEATURES, flat[::2], flat[1::2], strict=True):
            values, lengths = tf.ensure_shape(values, [None]), tf.ensure_shape(lengths, [None])
            features[name] = tf.RaggedTensor.from_row_lengths(values, lengths)
        return features

    def dense(features: dict[str, Any]) -> dict[str, Any]:
        return {name: tf.ensure_shape(x, [] if name in _SCALARS else [None]) for name, x in features.items()}

    return dataset.batch(_CHUNK).map(chunk).unbatch().map(dense)


def _contents(folds: Mapping[str, Sequence[tuple[int, Triple]]]) -> Iterator[str]:
    for fold, rows in folds.items():
        yield fold
        for number, triple in rows:
            yield f"{number} {triple!r}"


def _hash(parts: Iterable[str]) -> str:
    digest = hashlib.sha256()
    for part in parts:
        digest.update(part.encode() + b"\0")
    return digest.hexdigest()[:12]
