"""What is trained on is what generation is given, token for token: rows of every kind, plain and chat tokenizers."""

from pathlib import Path
from typing import Any

import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pit_jax.batch import (
    NODE_LL,
    NODE_LW,
    NODE_REF_L,
    NODE_REF_W,
    NODE_TRUNK,
    NODE_WL,
    NODE_WW,
    DecodeSpec,
    PromptBatch,
    Responses,
    Triple,
)
from pit_jax.config import DataConfig
from pit_jax.data.features import KINDS, Arrays, Example, Layout, build, row_lengths
from pit_jax.data.text.templates import Template
from pit_jax.data.text.tokenizers import load_tokenizer, train_tokenizer
from pit_jax.data.text.transcripts import stored
from pit_jax.data.tokens import SAME, Tokeniser, admit
from pit_jax.errors import UserError
from pit_jax.inference.engine import improver_prompt
from pit_jax.inference.prompts import prompt_arrays
from tests.data.text.chat_tokenizers import TEXTS, written
from tests.data.text.published_templates import PUBLISHED

CASES = ["plain", *[f"{kind} {name}" for kind in ("bytes", "pieces") for name in PUBLISHED]]
TEXT = st.text(st.sampled_from("abcdehknosty .,?!\n\t🙂é<>|/")) | st.sampled_from(["</s>", "<|im_end|> a", " a", "a\n"])
ANSWER = TEXT.filter(str.strip)
CONTENT = TEXT.map(str.strip).filter(lambda text: text and ":" not in text)
TURNS = st.lists(st.tuples(CONTENT, CONTENT), max_size=2).flatmap(
    lambda earlier: CONTENT.map(
        lambda last: [*[m for u, a in earlier for m in (("user", u), ("assistant", a))], ("user", last)]
    )
)
PROMPT = TURNS.map(stored) | ANSWER
TRIPLES = st.lists(st.builds(Triple, PROMPT, ANSWER, ANSWER), min_size=1, max_size=3)


@pytest.fixture(scope="module", params=CASES)
def template(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Template:
    folder = tmp_path_factory.mktemp("exact") / "tokenizer"
    if request.param == "plain":
        return Template(train_tokenizer(TEXTS, vocab_size=320, folder=folder))
    kind, name = request.param.split()
    return Template(load_tokenizer(written(folder, kind, PUBLISHED[name])))


def rows_of(template: Template, triples: list[Triple]) -> tuple[Layout, dict[str, Arrays]]:
    """The rows of every kind, as the store lays them out."""
    tokens, lengths, refusals = Tokeniser(template)(triples)
    assert set(refusals) <= {None, SAME}, "answers that are alike have rows too"
    fitting = DataConfig(prompt_length=9999, response_length=9999)
    assert admit(lengths, [None] * len(triples), template.frame_length, fitting)[0].all()
    suffix = tuple(template.improver_suffix)
    rows = {kind: int(row_lengths(kind, lengths, len(suffix)).max()) for kind in KINDS if kind != "prompts"}
    longest = lengths.max(axis=0)
    slots = int(max(longest[:2])), int(max(longest[2:])) + 1
    layout = Layout(template.tokenizer.pad_id, template.tokenizer.eos_id, suffix, rows, *slots)
    pieces = np.split(tokens, np.cumsum(lengths.ravel())[:-1])
    examples = [Example(*features) for features in zip(*(pieces[i::4] for i in range(4)), strict=True)]
    return layout, {kind: build(kind, examples, layout) for kind in KINDS}


def real(tokens: Any, mask: Any) -> list[int]:
    return np.asarray(tokens)[np.asarray(mask)].tolist()


def improver_side(layout: Layout, arrays: Arrays, row: int, reference: str) -> list[int]:
    """What the improver generates from, without padding."""
    one = {name: jnp.asarray(column[row : row + 1]) for name, column in arrays.items() if name != "id"}
    answers = Responses(one[f"{reference}_BR"], one[f"{reference}_mask_BR"])
    spec = DecodeSpec(layout.response_slot, layout.eos_id, layout.pad_id, layout.suffix)
    tokens_BP, mask_BP = improver_prompt(PromptBatch(**one), answers, spec=spec)
    return real(tokens_BP[0], mask_BP[0])


def asked(template: Template, prompts: list[str], prompt_length: int) -> Arrays:
    """The arrays of prompts of any text, by models that were trained on prompts of at most so many tokens."""
    return prompt_arrays(template, prompts, longest=prompt_length + template.frame_length)


@settings(max_examples=5)
@given(triples=TRIPLES)
def test_trained_rows_are_the_prompts_of_generation_and_the_answers(template: Template, triples: list[Triple]) -> None:
    layout, rows = rows_of(template, triples)
    prompts = rows["prompts"]
    for row, triple in enumerate(triples):
        question = real(prompts["prompt_BP"][row], prompts["prompt_mask_BP"][row])
        chosen, rejected = (template.response(text) for text in (triple.chosen, triple.rejected))
        end = [layout.eos_id]
        rewrite = {name: improver_side(layout, prompts, row, name) for name in ("chosen", "rejected")}
        for kind, prompt in (("sft-policy", question), ("sft-improver", rewrite["rejected"])):
            arrays = {name: column[row] for name, column in rows[kind].items()}
            trained = real(arrays["tokens_BL"], arrays["segments_BL"] > 0) + end
            assert trained == prompt + chosen + end
            assert real(arrays["targets_BL"], arrays["mask_BL"]) == chosen + end
        for name, answer in (("chosen", chosen), ("rejected", rejected)):
            reward = rows["reward"]
            assert real(reward[f"{name}_BL"][row], reward[f"{name}_segments_BL"][row] > 0) == question + answer + end
        gap = {name: column[row] for name, column in rows["gap"].items() if column.ndim == 2}

        def nodes(*path: int, gap: Arrays = gap) -> list[int]:
            return [token for node in path for token in real(gap["tokens_BL"], gap["nodes_BL"] == node)]

        assert nodes(NODE_TRUNK, NODE_REF_W, NODE_WW) == rewrite["chosen"] + chosen + end
        assert nodes(NODE_TRUNK, NODE_REF_W, NODE_LW) == rewrite["chosen"] + rejected + end
        assert nodes(NODE_TRUNK, NODE_REF_L, NODE_WL) == rewrite["rejected"] + chosen + end
        assert nodes(NODE_TRUNK, NODE_REF_L, NODE_LL) == rewrite["rejected"] + rejected + end


@settings(max_examples=5)
@given(prompts=st.lists(PROMPT, min_size=1, max_size=3))
def test_prompts_of_any_text_are_those_of_the_data(template: Template, prompts: list[str]) -> None:
    _, rows = rows_of(template, [Triple(prompt, "a", "b") for prompt in prompts])
    found = asked(template, prompts, 9999)
    for name in ("prompt", "prefix"):
        for row in range(len(prompts)):
            tokens = [
                real(arrays[f"{name}_BP"][row], arrays[f"{name}_mask_BP"][row]) for arrays in (found, rows["prompts"])
            ]
            assert tokens[0] == tokens[1]


@settings(max_examples=10)
@given(turns=TURNS)
def test_prompts_keep_their_turns(template: Template, turns: list[tuple[str, str]]) -> None:
    backend, x = template.tokenizer.backend, stored(turns)
    for ids in (template.policy_prompt(x), template.improver_prefix(x)):
        spelled, place = backend.decode(ids, skip_special_tokens=False), 0
        for _, content in turns:
            place = spelled.index(content, place) + len(content)


def test_a_prompt_that_was_admitted_is_answered(template: Template) -> None:
    """x of exactly prompt_length tokens; the frame around it does not count."""
    x = "what is a kind way"
    size = len(template.policy_prompt(x)) - len(template.policy_prompt(""))
    rows = [Triple(x, "a", "b")]

    def admitted(length: int) -> bool:
        data = DataConfig(prompt_length=length)
        _, lengths, refusals = Tokeniser(template)(rows)
        return bool(admit(lengths, refusals, template.frame_length, data)[0].all())

    assert admitted(size) and not admitted(size - 1)
    asked(template, [x], size)
    with pytest.raises(UserError, match=r"prompt 1 has \d+ tokens, the models were trained on at most"):
        asked(template, [x], size - 1)


def test_a_prompt_that_the_template_refuses_is_named(tmp_path: Path) -> None:
    template = Template(load_tokenizer(written(tmp_path, "bytes", PUBLISHED["gemma"])))
    twice = stored([("user", "hello"), ("user", "are you there?")])
    with pytest.raises(
        ValueError, match=r"prompt 2, .*are you there.*: the chat template raises .*; change or remove it"
    ):
        asked(template, ["hello", twice], 99)
