"""The seqio side. Imports TensorFlow (0.9 GB), so it stands apart from the other data tests."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from pit_jax.data import tasks
from pit_jax.data.features import FEATURES
from pit_jax.data.folds import FOLDS
from pit_jax.data.ragged import RaggedFiles, RaggedWriter
from pit_jax.data.text.templates import Template
from pit_jax.data.text.tokenizers import SEPARATORS, load_tokenizer, train_tokenizer
from pit_jax.data.text.vocabulary import hf_vocabulary
from pit_jax.data.tf import tensorflow_and_seqio
from tests.data.text.sentencepiece_models import SETTINGS, train

Sources = dict[str, dict[str, np.ndarray]]


@pytest.fixture(scope="module")
def template(tmp_path_factory: pytest.TempPathFactory) -> Template:
    texts = ["write a kind note to anna", "hello anna, see you at noon"] * 20
    return Template(train_tokenizer(texts, vocab_size=320, folder=tmp_path_factory.mktemp("tasks") / "tokenizer"))


def numbered(sizes: dict[str, int], fold: str = "sft") -> Sources:
    """Sources with that many examples in one fold."""
    ends = np.cumsum(list(sizes.values()))
    return {
        name: {f: np.arange(end - size, end if f == fold else end - size) for f in FOLDS}
        for (name, size), end in zip(sizes.items(), ends, strict=True)
    }


def mixture_of(sources: Sources, rates: Sequence[float], contents: str = "") -> Any:
    return tasks.build_mixture(sources, rates, contents)


def test_with_tokens_an_example_holds_its_four_features_in_the_same_order(template: Template, tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    rows = [rng.integers(0, 99, rng.integers(1, 9)).tolist() for _ in range(50 * len(FEATURES))]
    sources, margins = numbered({"a": 30, "b": 20}), rng.normal(size=50).astype(np.float32)
    with RaggedWriter(tmp_path, "tokens", np.int32) as writer:
        writer.append(np.concatenate(rows), np.array(list(map(len, rows))))
    tokens = RaggedFiles(tmp_path, "tokens", np.int32)
    named: dict[str, Any] = {"margins": margins, "tokens": tokens, "tokenizer": template.tokenizer}
    mixture = tasks.build_mixture(sources, [2.0, 1.0], "", **named)
    found = list(tasks.examples(mixture, "sft").as_numpy_iterator())
    assert [example["id"] for example in found] == tasks.read(mixture_of(sources, [2.0, 1.0]), "sft").tolist()
    for example in found:
        number = int(example["id"])
        assert example["margin"] == margins[number]
        for i, name in enumerate(FEATURES):
            assert example[name].dtype == np.int32
            assert example[name].tolist() == rows[len(FEATURES) * number + i]


@pytest.mark.parametrize(
    ("sizes", "rates", "expected"),
    [
        ((30, 30), (1.0, 1.0), (30, 30)),
        ((30, 30), (3.0, 1.0), (30, 10)),
        ((90, 30), (3.0, 1.0), (90, 30)),
        ((30, 5), (0.5, 0.5), (6, 5)),
        ((40, 40), (0.7, 0.3), (40, 17)),
    ],
)
def test_a_pass_honours_the_rates_and_repeats_nothing(
    sizes: tuple[int, int], rates: tuple[float, float], expected: tuple[int, int]
) -> None:
    mixture = mixture_of(numbered({"a": sizes[0], "b": sizes[1]}), rates)
    ids = tasks.read(mixture, "sft")
    assert len(set(ids.tolist())) == len(ids)
    first = ids < sizes[0]
    assert (int(first.sum()), int((~first).sum())) == expected
    turns = np.arange(1, len(ids) + 1)
    exact = rates[0] / sum(rates) * turns
    assert (np.abs(np.cumsum(first) - exact) <= 1.0).all(), "every prefix follows the rates"
    np.testing.assert_array_equal(ids, tasks.read(mixture, "sft"))


def test_a_source_without_rows_in_a_fold_sits_it_out() -> None:
    sources = numbered({"a": 30}) | {"b": numbered({"b": 4}, "rm")["b"]}
    assert tasks.read(mixture_of(sources, [1.0, 1.0]), "sft").tolist() == list(range(30))


def test_building_twice_finds_the_registered_names_and_other_contents_get_others() -> None:
    sources = numbered({"a": 3})
    first, second = (mixture_of(sources, [1.0], "x") for _ in range(2))
    assert first is second
    others = (
        mixture_of(numbered({"a": 4}), [1.0], "x"),
        mixture_of(sources, [2.0], "x"),
        mixture_of(sources, [1.0], "y"),
    )
    assert len({first.name, *(other.name for other in others)}) == 4


def test_folds_are_splits() -> None:
    mixture = mixture_of({"a": {fold: np.arange(2 * i, 2 * i + 2) for i, fold in enumerate(FOLDS)}}, [1.0])
    assert set(mixture.splits) == set(FOLDS)
    for i, fold in enumerate(FOLDS):
        assert tasks.read(mixture, fold).tolist() == [2 * i, 2 * i + 1]


def test_tensorflow_is_imported_once_and_sees_no_accelerator() -> None:
    tf, seqio = tensorflow_and_seqio()
    assert (tf.__name__, seqio.__name__) == ("tensorflow", "seqio") and tensorflow_and_seqio() == (tf, seqio)
    assert tf.config.get_visible_devices("GPU") == []


def test_vocabulary_is_the_tokenizer(template: Template, tmp_path: Path) -> None:
    tf, seqio = tensorflow_and_seqio()
    tokenizer = template.tokenizer
    vocabulary = hf_vocabulary(tokenizer)
    text = "write a note 🙂\n"
    ids = tokenizer.encode(text)
    assert isinstance(vocabulary, seqio.Vocabulary)
    assert vocabulary.encode(text) == ids == vocabulary.encode_tf(tf.constant(text)).numpy().tolist()
    assert vocabulary.decode([*ids, tokenizer.eos_id, 9]) == text
    assert vocabulary.decode_tf(tf.constant(ids)).numpy().decode() == text
    assert (vocabulary.pad_id, vocabulary.eos_id) == (tokenizer.pad_id, tokenizer.eos_id)
    assert vocabulary.vocab_size == tokenizer.vocab_size
    tokenizer.save(tmp_path / "copy")
    assert hf_vocabulary(load_tokenizer(tmp_path / "copy")) == vocabulary
    other = train_tokenizer(["other text"] * 3, vocab_size=270, folder=tmp_path / "other")
    assert hf_vocabulary(other) != vocabulary
    assert all(tokenizer.id_of(token) < vocabulary.vocab_size for token in SEPARATORS)
    assert len(FEATURES) == 4


@pytest.mark.parametrize("name", SETTINGS)
def test_a_sentencepiece_vocabulary_is_seqio_s_own(tmp_path: Path, name: str) -> None:
    tf, seqio = tensorflow_and_seqio()
    folder = train(tmp_path, model_type="unigram", **SETTINGS[name])
    ours, theirs = hf_vocabulary(load_tokenizer(folder)), seqio.SentencePieceVocabulary(str(folder / "tokenizer.model"))
    for text in ("write a kind note to anna", "see you  at noon.\n\nbye"):
        ids = theirs.encode(text)
        assert ours.encode(text) == ids == ours.encode_tf(tf.constant(text)).numpy().tolist()
        assert ours.decode(ids) == theirs.decode(ids)
    assert ours.eos_id == theirs.eos_id and ours.vocab_size >= theirs.vocab_size
