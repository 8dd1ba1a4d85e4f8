"""Sources as seqio tasks with the four folds as splits, gathered in one seqio mixture of (x, y_ref, y_w, y_l).

A pass over the mixture is finite and deterministic. Sources take turns so that after every example the shares are
as close to the rates as whole examples allow; the pass ends when the source whose turn it is has no example left, so
none repeats. A source without examples in a fold sits that fold out.

An example is its number, its margin and, where the mixture is built with `tokens`, its FEATURES. The order of a pass
does not depend on them, and TensorFlow takes longer to hand on the tokens of an example than they took to make: what
is on disk already is not read through it again, only put in the order that the mixture gives.
"""

import functools
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from pit_jax.data.features import FEATURES
from pit_jax.data.folds import FOLDS
from pit_jax.data.ragged import Ragged, RaggedFiles
from pit_jax.data.text.tokenizers import Tokenizer
from pit_jax.data.text.vocabulary import hf_vocabulary
from pit_jax.data.tf import tensorflow_and_seqio
from pit_jax.files import digest_of

_CHUNK = 4096  # examples read at once

Sources = Mapping[str, Mapping[str, np.ndarray]]


def build_mixture(
    sources: Sources,
    rates: Sequence[float],
    contents: str,
    *,
    margins: np.ndarray | None = None,
    tokens: RaggedFiles | None = None,
    tokenizer: Tokenizer | None = None,
) -> Any:
    """seqio mixture of one task a source. `sources[name][fold]` holds the numbers [rows] of examples.

    `contents` names what the numbers stand for. With `margins` [examples], `tokens` (a row for each of the FEATURES of
    every example) and their `tokenizer` the examples hold these too. Tasks and mixture are registered under names that
    hold a hash of their contents, and found again if built twice.
    """
    tf, seqio = tensorflow_and_seqio()
    number = seqio.PassThroughVocabulary(size=2**31 - 1)  # any int32
    features = {"id": seqio.Feature(number, add_eos=False, dtype=tf.int32, rank=0)}
    preprocessors = []
    if tokens is not None:
        assert margins is not None and tokenizer is not None, "tokens come with their margins and tokenizer"
        vocabulary = hf_vocabulary(tokenizer)
        features |= {name: seqio.Feature(vocabulary, add_eos=False, dtype=tf.int32) for name in FEATURES}
        features["margin"] = seqio.Feature(number, add_eos=False, dtype=tf.float32, rank=0)
        preprocessors.append(functools.partial(_with_tokens, tokens.rows, margins))
    kind = "numbers" if tokens is None else f"tokens_{digest_of(str(tokens.folder.resolve()))}"
    names = []
    for index, folds in enumerate(sources.values()):  # seqio sorts tasks by name: the number keeps our order
        filled = {fold: numbers for fold, numbers in folds.items() if len(numbers)}
        parts = (part for fold, numbers in filled.items() for part in (fold, numbers.astype(np.int32).tobytes()))
        name = f"pit_jax_{index:03}_{kind}_{digest_of(contents, *parts)}"
        names.append(name)
        if name not in seqio.TaskRegistry.names():
            sizes = {fold: len(numbers) for fold, numbers in filled.items()}
            function = functools.partial(_numbers, filled)
            origin = seqio.FunctionDataSource(function, list(filled), sizes)
            seqio.TaskRegistry.add(name, source=origin, preprocessors=preprocessors, output_features=features)
    mixture = f"pit_jax_mixture_{digest_of(*names, *map(repr, rates))}"
    if mixture not in seqio.MixtureRegistry.names():
        seqio.MixtureRegistry.add(mixture, list(zip(names, map(float, rates), strict=True)), sample_fn=_take_turns)
    return seqio.get_mixture_or_task(mixture)


def read(mixture: Any, fold: str) -> np.ndarray:
    """The numbers [rows] of the examples of one pass over a fold, in its order."""
    assert fold in FOLDS, fold
    if fold not in mixture.splits:
        return np.zeros(0, np.int32)
    chunks = [chunk["id"] for chunk in examples(mixture, fold).batch(_CHUNK).as_numpy_iterator()]
    return np.concatenate(chunks) if chunks else np.zeros(0, np.int32)


def examples(mixture: Any, fold: str) -> Any:
    """One pass over a fold as a dataset; no feature is trimmed."""
    return mixture.get_dataset(None, split=fold, shuffle=False, num_epochs=1, trim_output_features=False)


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


def _numbers(folds: Mapping[str, np.ndarray], split: str, shuffle_files: bool, seed: int | None = None) -> Any:
    tf, _ = tensorflow_and_seqio()
    return tf.data.Dataset.from_tensor_slices({"id": folds[split].astype(np.int32)})


def _with_tokens(tokens: Ragged, margins: np.ndarray, dataset: Any) -> Any:
    """seqio preprocessor: numbers to the features of their examples, a chunk at a time."""
    tf, _ = tensorflow_and_seqio()

    def look_up(numbers: np.ndarray) -> list[np.ndarray]:
        outputs = [margins[numbers]]
        for i in range(len(FEATURES)):
            rows = [tokens[len(FEATURES) * number + i] for number in numbers.tolist()]
            outputs.append(np.concatenate(rows).astype(np.int32))
            outputs.append(np.array([len(row) for row in rows], np.int32))
        return outputs

    def chunk(example: dict[str, Any]) -> dict[str, Any]:
        margin, *flat = tf.numpy_function(look_up, [example["id"]], [tf.float32] + [tf.int32] * (2 * len(FEATURES)))
        features = {"id": example["id"], "margin": tf.ensure_shape(margin, [None])}
        for name, values, lengths in zip(FEATURES, flat[::2], flat[1::2], strict=True):
            values, lengths = tf.ensure_shape(values, [None]), tf.ensure_shape(lengths, [None])
            features[name] = tf.RaggedTensor.from_row_lengths(values, lengths)
        return features

    def dense(features: dict[str, Any]) -> dict[str, Any]:
        return {name: tf.ensure_shape(x, [None] if name in FEATURES else []) for name, x in features.items()}

    return dataset.batch(_CHUNK).map(chunk).unbatch().map(dense)
