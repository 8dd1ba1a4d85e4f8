"""Ids word by word against the tokenizer's own, on texts made of what could go wrong."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tokenizers
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import Regex, pre_tokenizers

from pit_jax.data.text.tokenizers import Tokenizer, load_tokenizer, train_tokenizer
from pit_jax.data.text.words import PATTERNS, Encoder, cuts_at_spaces, places, sums
from tests.data.text.sentencepiece_models import SETTINGS, train

SPACES = [" ", "  ", "\n", "\t", "\r\n", "\x0b", "\x1c", "\x85", "\xa0", "\u2028", "\u3000", "\u200b"]
WORDS = ["a", "see", "you", "1", "2345", "'s", "'LL", ".", "?!", "é", "e\u0301", "日本", "🙂", "<eos>", "<answer>"]
TEXTS = st.lists(st.lists(st.sampled_from(SPACES + WORDS), max_size=12).map("".join), max_size=8)


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Tokenizer:
    texts = ["hello  anna,\n see you at noon.\n\n", "it's 2345 o'clock ?! "] * 20
    return train_tokenizer(texts, vocab_size=340, folder=tmp_path_factory.mktemp("words") / "tokenizer")


@pytest.fixture(scope="module", params=["as trained", *range(len(PATTERNS))])
def tokenizer(request: pytest.FixtureRequest, trained: Tokenizer, tmp_path_factory: pytest.TempPathFactory) -> Any:
    if request.param == "as trained":
        return trained
    folder = tmp_path_factory.mktemp("words") / "tokenizer"
    trained.save(folder)
    backend = tokenizers.Tokenizer.from_file(str(folder / "tokenizer.json"))
    backend.pre_tokenizer = split(PATTERNS[request.param])
    backend.save(str(folder / "tokenizer.json"))
    return load_tokenizer(folder)


def split(pattern: str) -> Any:
    parts = pre_tokenizers.Split(Regex(pattern), "isolated"), pre_tokenizers.ByteLevel(False, use_regex=False)
    return pre_tokenizers.Sequence(list(parts))


@settings(deadline=None, max_examples=200)
@given(texts=TEXTS)
def test_the_ids_are_the_tokenizer_s(tokenizer: Tokenizer, texts: list[str]) -> None:
    assert cuts_at_spaces(tokenizer.texts)
    encode = Encoder(tokenizer.texts)
    for asked in (texts, [*texts, " new"]):
        ids, lengths = encode(asked)
        expected = tokenizer.encode_batch(asked)
        assert ids.dtype == np.int32 and lengths.tolist() == list(map(len, expected))
        assert ids.tolist() == [token for row in expected for token in row]


def test_words_are_forgotten_when_there_are_too_many(trained: Tokenizer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("pit_jax.data.text.words._MOST_WORDS", 2)
    encode = Encoder(trained.texts)
    for text in ("see you at noon", "at noon see", "anna", "you you"):
        assert encode([text])[0].tolist() == trained.encode(text)


@pytest.mark.parametrize("change", ["a normalizer", "an own pattern", "a prefix", "a text token", "dropout"])
def test_another_tokenizer_is_asked_for_whole_texts(trained: Tokenizer, change: str) -> None:
    backend = tokenizers.Tokenizer.from_str(trained.backend.to_str())
    assert cuts_at_spaces(backend)
    if change == "a normalizer":
        backend.normalizer = tokenizers.normalizers.Lowercase()
    elif change == "an own pattern":
        backend.pre_tokenizer = split(r"\w+ \w+|.")
    elif change == "a prefix":
        backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=True)
    elif change == "a text token":
        backend.add_tokens([tokenizers.AddedToken("see you", normalized=False)])
    else:
        backend.model.dropout = 0.1
    assert not cuts_at_spaces(backend)


@pytest.mark.parametrize("name", SETTINGS)
def test_sentencepiece_is_asked_for_whole_texts(tmp_path: Path, name: str) -> None:
    tokenizer = load_tokenizer(train(tmp_path, model_type="unigram", **SETTINGS[name]))
    assert not cuts_at_spaces(tokenizer.texts)
    texts = ["see you  at noon", "", "bye\n"]
    ids, lengths = Encoder(tokenizer.texts)(texts)
    assert [ids[a : a + n].tolist() for a, n in zip(np.cumsum(lengths) - lengths, lengths, strict=True)] == [
        tokenizer.encode(text) for text in texts
    ]


def test_runs_and_sums_by_hand() -> None:
    assert places(np.array([5, 0, 2]), np.array([2, 0, 3])).tolist() == [5, 6, 2, 3, 4]
    assert places(np.zeros(0, int), np.zeros(0, int)).tolist() == []
    assert sums(np.array([1, 2, 3]), np.array([2, 0, 1])).tolist() == [3, 0, 3]
