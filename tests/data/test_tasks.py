"""The seqio side. Imports TensorFlow (0.9 GB), so it stands apart from the other data tests."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from pit_jax.batch import Triple
from pit_jax.config import DataConfig
from pit_jax.data import tasks
from pit_jax.data.features import FEATURES, KINDS, Layout, build
from pit_jax.data.folds import FOLDS
from pit_jax.data.text.templates import Template
from pit_jax.data.text.tokenizers import SEPARATORS, hf_vocabulary, load_tokenizer, train_tokenizer
from pit_jax.data.tf import tensorflow_and_seqio
from tests.data.text.sentencepiece_models import SETTINGS, train

Sources = dict[str, dict[str, list[tuple[int, Triple]]]]


@pytest.fixture(scope="module")
def template(tmp_path_factory: pytest.TempPathFactory) -> Template:
    texts = ["write a kind note to anna", "hello anna, see you at noon"] * 20
    return Template(train_tokenizer(texts, vocab_size=320, folder=tmp_path_factory.mktemp("tasks") / "tokenizer"))


def layout_of(template: Template) -> Layout:
    tokenizer = template.tokenizer
    lengths = {kind: 128 for kind in KINDS}
    return Layout(tokenizer.pad_id, tokenizer.eos_id, tuple(template.improver_suffix), lengths, 32, 32)


def mixture_of(sources: Sources, rates: Sequence[float], template: Template) -> Any:
    rows = (triple for folds in sources.values() for numbered in folds.values() for _, triple in numbered)
    return tasks.build_mixture(sources, rates, template, tasks.encode(rows, template))


def triples(count: int, word: str) -> list[Triple]:
    return [Triple(f"{word} {i} 🙂", f"see you{'!' * (i % 4)}\n", f"no {i}", i / 4) for i in range(count)]


def numbered(sizes: dict[str, int], fold: str = "sft") -> tuple[Sources, list[Triple]]:
    """Sources with rows in one fold, and the list that ids point into."""
    everything: list[Triple] = []
    sources: Sources = {}
    for name, size in sizes.items():
        rows = triples(size, name)
        sources[name] = {f: [] for f in FOLDS} | {fold: list(enumerate(rows, len(everything)))}
        everything += rows
    return sources, everything


@pytest.mark.parametrize("kind", KINDS)
def test_converters_give_what_the_row_builders_give(template: Template, kind: str) -> None:
    sources, everything = numbered({"a": 50})
    mixture = mixture_of(sources, [1.0], template)
    rows = tasks.read(mixture, "sft", [kind], layout_of(template))[kind]
    examples = tasks.tokenise(everything, template, tasks.encode(everything, template))
    expected = build(kind, examples, layout_of(template)) | {"id": np.arange(50, dtype=np.int32)}
    assert rows.keys() == expected.keys()
    for name, array in expected.items():
        assert rows[name].dtype == array.dtype
        np.testing.assert_array_equal(rows[name], array, err_msg=name)


def test_tokens_are_the_template_s(template: Template) -> None:
    triple = Triple("write a note", "see you", "no")
    (example,) = tasks.tokenise([triple], template, tasks.encode([triple], template))
    assert list(example.prompt) == template.policy_prompt(triple.prompt)
    assert list(example.prefix) == template.improver_prefix(triple.prompt)
    assert list(example.chosen) == template.response(triple.chosen)
    assert list(example.rejected) == template.response(triple.rejected)


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
    template: Template, sizes: tuple[int, int], rates: tuple[float, float], expected: tuple[int, int]
) -> None:
    sources, _ = numbered({"a": sizes[0], "b": sizes[1]})
    mixture = mixture_of(sources, rates, template)
    ids = tasks.read(mixture, "sft", ["prompts"], layout_of(template))["prompts"]["id"]
    assert len(set(ids.tolist())) == len(ids)
    first = ids < sizes[0]
    assert (int(first.sum()), int((~first).sum())) == expected
    turns = np.arange(1, len(ids) + 1)
    exact = rates[0] / sum(rates) * turns
    assert (np.abs(np.cumsum(first) - exact) <= 1.0).all(), "every prefix follows the rates"
    again = tasks.read(mixture, "sft", ["prompts"], layout_of(template))["prompts"]["id"]
    np.testing.assert_array_equal(ids, again)


def test_a_source_without_rows_in_a_fold_sits_it_out(template: Template) -> None:
    sources, _ = numbered({"a": 30, "b": 4})
    sources["b"] = {fold: sources["b"]["sft"] if fold == "rm" else [] for fold in FOLDS}
    mixture = mixture_of(sources, [1.0, 1.0], template)
    ids = tasks.read(mixture, "sft", ["prompts"], layout_of(template))["prompts"]["id"]
    assert ids.tolist() == list(range(30))


def test_building_twice_finds_the_registered_names_and_other_contents_get_others(template: Template) -> None:
    sources, _ = numbered({"a": 3})
    first, second = (mixture_of(sources, [1.0], template) for _ in range(2))
    assert first is second
    changed, _ = numbered({"a": 4})
    assert mixture_of(changed, [1.0], template).name != first.name
    assert mixture_of(sources, [2.0], template).name != first.name


def test_folds_are_splits(template: Template) -> None:
    rows = list(enumerate(triples(8, "a")))
    sources = {"a": {fold: rows[2 * i : 2 * i + 2] for i, fold in enumerate(FOLDS)}}
    mixture = mixture_of(sources, [1.0], template)
    assert set(mixture.splits) == set(FOLDS)
    for i, fold in enumerate(FOLDS):
        ids = tasks.read(mixture, fold, ["prompts"], layout_of(template))["prompts"]["id"]
        assert ids.tolist() == [2 * i, 2 * i + 1]


def test_over_long_examples_are_counted_by_reason_and_never_cut(template: Template) -> None:
    size = len(template.tokenizer.encode("xyz xyz"))
    data = DataConfig(prompt_length=size, response_length=size + 1)
    rows = [
        Triple("xyz xyz", "xyz xyz", "xyz"),
        Triple("xyz xyz x", "xyz", "no"),
        Triple("xyz", "xyz xyz x", "no"),
        Triple("xyz", "no", "xyz xyz x"),
    ]
    lengths, keep, drops = tasks.admit(rows, template, tasks.encode(rows, template), data)
    assert keep.tolist() == [True, False, False, False]
    assert lengths[0].tolist() == [size + 1, size + 1, size, len(template.tokenizer.encode("xyz"))]
    assert drops == {
        f"prompt over {size} tokens": 1,
        f"chosen answer over {size + 1} tokens with its EOS": 1,
        f"rejected answer over {size + 1} tokens with its EOS": 1,
    }


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
