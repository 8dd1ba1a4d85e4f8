"""SentencePiece models, really trained, against the ids that the sentencepiece library gives."""

import json
import random
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pit_jax.batch import Triple
from pit_jax.data.text.sentencepiece import convert, model_file
from pit_jax.data.text.templates import Template
from pit_jax.data.text.tokenizers import Tokenizer, ids_of_file, ids_of_folder, load_tokenizer
from pit_jax.data.text.transcripts import stored
from pit_jax.data.tokens import SAME, Tokeniser
from pit_jax.data.worlds.notes import NOTES
from pit_jax.data.worlds.world import pairs
from pit_jax.errors import UserError
from tests.data.text.published_templates import PUBLISHED
from tests.data.text.sentencepiece_models import SETTINGS, library, train

CASES = [(kind, name) for kind in ("bpe", "unigram") for name in SETTINGS]
TEXT = st.text(alphabet=st.sampled_from(" \n\tabcdefghinorstuw.,éß🙂▁<>/sx0A")) | st.text()


@pytest.fixture(scope="module", params=CASES, ids=" ".join)
def trained(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Any, Tokenizer]:
    kind, name = request.param
    folder = train(tmp_path_factory.mktemp("sp"), model_type=kind, **SETTINGS[name])
    theirs = library().SentencePieceProcessor(str(folder / "tokenizer.model"))
    return folder, theirs, load_tokenizer(folder)


@given(TEXT)
def test_ids_and_texts_are_those_of_the_library(trained: tuple[Path, Any, Tokenizer], text: str) -> None:
    _, theirs, ours = trained
    expected, ids = theirs.encode(text), ours.encode(text)
    if ids != expected:  # two cuts of the same score, as of "lll"
        scores = [sum(theirs.get_score(i) for i in row) for row in (ids, expected)]
        assert len(ids) == len(expected) and scores[0] == pytest.approx(scores[1], abs=1e-4)
    if theirs.unk_id() not in expected:
        assert ours.decode(ids) == theirs.decode(expected)


def test_texts_of_the_data_have_the_ids_of_the_library(trained: tuple[Path, Any, Tokenizer]) -> None:
    _, theirs, ours = trained
    texts = [text for pair in pairs(NOTES, 200, 1) for text in (pair.prompt, pair.chosen, pair.rejected)]
    assert ours.encode_batch(texts) == theirs.encode(texts)


def test_special_tokens_come_from_the_model(trained: tuple[Path, Any, Tokenizer]) -> None:
    folder, theirs, ours = trained
    assert (ours.eos_id, ours.bos_id) == (theirs.eos_id(), None)
    assert ours.pad_id == theirs.pad_id() if theirs.pad_id() >= 0 else ours.pad_id >= len(theirs)
    assert ids_of_file(folder) == ids_of_folder(folder) == len(theirs) < ours.vocab_size
    assert ours.vocab_size == len(theirs) + 3 + (theirs.pad_id() < 0)


def test_a_text_that_spells_a_piece_is_not_that_piece(trained: tuple[Path, Any, Tokenizer]) -> None:
    _, theirs, ours = trained
    reserved = {i for i in range(len(theirs)) if theirs.is_control(i)} | {ours.pad_id, ours.eos_id}
    rng = random.Random(0)
    for _ in range(200):
        text = "".join(rng.choices(["</s>", "<s>", "<unk>", "<pad>", "<0x0A>", "a", " ", "<", "🙂"], k=6))
        assert not reserved & set(ours.encode(text))
        if theirs.id_to_piece(5).startswith("<0x"):
            assert ours.decode(ours.encode(text)).strip() == text.strip()


def test_a_saved_one_is_the_same(trained: tuple[Path, Any, Tokenizer], tmp_path: Path) -> None:
    _, _, ours = trained
    ours.save(tmp_path / "saved")
    again = load_tokenizer(tmp_path / "saved")
    assert again == ours and (again.eos_id, again.pad_id) == (ours.eos_id, ours.pad_id)
    assert again.encode(" naïve\n\nnote </s>") == ours.encode(" naïve\n\nnote </s>")


@pytest.fixture(scope="module")
def llama(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    yield train(tmp_path_factory.mktemp("llama"), model_type="bpe", **SETTINGS["as Llama"])


def test_a_configuration_beside_the_model_is_heard(llama: Path, tmp_path: Path) -> None:
    (tmp_path / "tokenizer.model").write_bytes((llama / "tokenizer.model").read_bytes())
    added = {"400": {"content": "<|im_start|>", "special": True}, "401": {"content": "<|im_end|>", "special": True}}
    for entry in added.values():
        entry |= {"lstrip": False, "rstrip": False, "normalized": False, "single_word": False}
    config = {"add_bos_token": True, "bos_token": "<s>", "added_tokens_decoder": added, "pad_token": None}
    (tmp_path / "tokenizer_config.json").write_text(
        json.dumps(config | {"tokenizer_class": "LlamaTokenizer", "chat_template": PUBLISHED["chatml"].template})
    )
    tokenizer = load_tokenizer(tmp_path)
    assert (tokenizer.bos_id, tokenizer.id_of("<|im_start|>"), tokenizer.eos_id) == (1, 400, 401)
    assert (ids_of_file(tmp_path), ids_of_folder(tmp_path)) == (400, 402)
    x = stored([("user", "hello"), ("assistant", "see you"), ("user", "write a note")])
    prompt = Template(tokenizer).policy_prompt(x)
    assert prompt.count(401) == 3 and Template(tokenizer).text(Template(tokenizer).response("see you")) == "see you"
    tokenizer.save(tmp_path / "saved")
    assert Template(load_tokenizer(tmp_path / "saved")).policy_prompt(x) == prompt


def test_models_that_are_none(tmp_path: Path, llama: Path) -> None:
    (tmp_path / "tokenizer.model").write_bytes(b"no model")
    with pytest.raises(UserError, match=r"tokenizer\.model: asked for a SentencePiece model, found"):
        load_tokenizer(tmp_path)
    (tmp_path / "tokenizer.model").write_bytes(b"")
    with pytest.raises(UserError, match="found one without pieces"):
        load_tokenizer(tmp_path)
    train(tmp_path, model_type="char", hard_vocab_limit=False)
    with pytest.raises(UserError, match="of type unigram or bpe .* found type 4; train another"):
        convert(tmp_path / "tokenizer.model")
    (tmp_path / "tokenizer.model").write_bytes((llama / "tokenizer.model").read_bytes())
    for content in ("{", "[3]", "null"):
        (tmp_path / "tokenizer_config.json").write_text(content)
        with pytest.raises(UserError, match=r"cannot be read: tokenizer_config\.json"):
            load_tokenizer(tmp_path)


def test_answers_that_a_vocabulary_cannot_tell_apart_make_no_pair(tmp_path: Path) -> None:
    """Signs that it lacks, letters of another width, other spaces: as sentencepiece trains them by default."""
    template = Template(load_tokenizer(train(tmp_path, model_type="unigram", **SETTINGS["usual"])))
    answers = [
        ("see \U0001f642", "see \U0001f643"),
        ("see \uff59ou", "see you"),
        ("see  you", "see you"),
        ("see\nyou", "see you"),
    ]
    _, _, refusals = Tokeniser(template)([Triple("hello", *two) for two in [*answers, ("see you", "see me")]])
    assert refusals == [SAME] * len(answers) + [None]


def test_which_model_of_a_folder(tmp_path: Path) -> None:
    assert model_file(tmp_path) is None
    (tmp_path / "spiece.model").write_bytes(b"")
    assert model_file(tmp_path) == tmp_path / "spiece.model"
    (tmp_path / "other.model").write_bytes(b"")
    assert model_file(tmp_path) is None
    (tmp_path / "tokenizer.model").write_bytes(b"")
    assert model_file(tmp_path) == tmp_path / "tokenizer.model"
