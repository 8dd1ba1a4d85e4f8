"""Pairs to tokens by the chunk, against the template's own road; and what is left out."""

import numpy as np
import pytest

from pit_jax.batch import Triple
from pit_jax.config import DataConfig
from pit_jax.data.features import FEATURES
from pit_jax.data.text.templates import Template
from pit_jax.data.text.tokenizers import load_tokenizer, train_tokenizer
from pit_jax.data.text.transcripts import stored
from pit_jax.data.tokens import Tokeniser, admit, with_limits
from tests.data.text.chat_tokenizers import written
from tests.data.text.published_templates import PUBLISHED

TEXTS = ["write a kind note to anna", "hello anna, see you at noon"] * 20
DIALOGUE = stored([("user", "hi"), ("assistant", "hello you"), ("user", "who are you?")])
TWICE = stored([("user", "hello you"), ("user", "who are you?")])


@pytest.fixture(scope="module", params=["plain", "chatml", "mistral"])
def template(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Template:
    folder = tmp_path_factory.mktemp("tokens") / "tokenizer"
    if request.param == "plain":
        return Template(train_tokenizer(TEXTS, vocab_size=320, folder=folder))
    return Template(load_tokenizer(written(folder, "bytes", PUBLISHED[request.param])))


def test_the_tokens_are_those_of_the_template(template: Template) -> None:
    """Of two chunks, whose pieces repeat; a row that the chat template cannot hold has none."""
    prompts = ["write  a note", DIALOGUE, "write  a note", "", "\n who?", TWICE]
    triples = [Triple(prompt, f"see you {i} 🙂\n", "no") for i, prompt in enumerate(prompts)]
    tokenise = Tokeniser(template)
    for _ in range(2):
        tokens, lengths, refusals = tokenise(triples)
        rows = np.split(tokens, np.cumsum(lengths.ravel())[:-1])
        for i, triple in enumerate(triples):
            if refusals[i] is not None:
                assert "alternate" in str(refusals[i]) and not lengths[i].any()
                continue
            example = template.example(triple)
            for j, name in enumerate(FEATURES):
                assert rows[4 * i + j].tolist() == list(getattr(example, name)), (i, name)
    assert [i for i, refusal in enumerate(refusals) if refusal] == ([5] if "alternate" in chat_of(template) else [])


def test_answers_that_are_the_same_to_the_tokenizer_make_no_pair(template: Template) -> None:
    """Of equal length alone is not the same; rows before and behind are told apart."""
    answers = [("see you", "see me"), ("noon", "noon"), ("see you", "see you at noon"), ("", ""), ("anna", "nana")]
    triples = [Triple("write", chosen, rejected) for chosen, rejected in answers]
    _, lengths, refusals = Tokeniser(template)(triples)
    assert refusals == [None, "chosen and rejected are the same tokens", None, None, None]
    keep, drops = admit(lengths, refusals, 0, DataConfig())
    assert keep.tolist() == [True, False, True, True, True] and drops == {refusals[1]: 1}


def chat_of(template: Template) -> str:
    return "" if template.tokenizer.chat is None else str(template.tokenizer.chat.chat_template)


def test_over_long_examples_are_counted_by_reason_and_never_cut() -> None:
    """By the first rule that a row breaks; the frame around a prompt does not count."""
    lengths = np.array([[7, 0, 4, 4], [8, 0, 5, 4], [7, 0, 5, 9], [2, 0, 4, 5], [0, 0, 0, 0]])
    refusals = [None, None, None, None, "no such turn"]
    keep, drops = admit(lengths, refusals, 2, DataConfig(prompt_length=5, response_length=5))
    assert keep.tolist() == [True, False, False, False, False]
    assert drops == {
        "prompt over 5 tokens": 1,
        "chosen answer over 5 tokens with its EOS": 1,
        "rejected answer over 5 tokens with its EOS": 1,
        "no such turn": 1,
    }


def test_limits_that_nobody_sets_let_99_of_100_in() -> None:
    """Prompts of 1 to 200 tokens with a frame of 2, answers of 1 to 200: the two longest of 200 stay out."""
    count = np.arange(1, 201)
    lengths = np.stack([count + 2, count * 0, count[::-1], count * 0 + 1], axis=1)
    found = with_limits(DataConfig(prompt_length=0, response_length=0), lengths, 2)
    assert (found.prompt_length, found.response_length) == (199, 200), "the EOS of an answer counts"
    assert with_limits(DataConfig(prompt_length=7, response_length=0), lengths, 2).prompt_length == 7
