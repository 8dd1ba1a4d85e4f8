"""The one road from text to a batch: the tokens of training, in slots of few sizes."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from pit_jax.batch import PromptBatch, Triple
from pit_jax.data.features import Layout, build
from pit_jax.data.text.templates import Template
from pit_jax.data.text.tokenizers import load_tokenizer, train_tokenizer
from pit_jax.data.text.transcripts import stored
from pit_jax.errors import UserError
from pit_jax.inference.prompts import SLOTS, prompt_arrays, response_arrays
from tests.data.text.chat_tokenizers import written
from tests.data.text.published_templates import PUBLISHED
from tests.world import StandInTemplate

PROMPTS = ["write a kind note", "hello", "when is noon, and where?\n\nAnna asks."]


@pytest.fixture(scope="module")
def template(tmp_path_factory: pytest.TempPathFactory) -> Template:
    folder = tmp_path_factory.mktemp("prompts") / "tokenizer"
    return Template(train_tokenizer(PROMPTS * 9, vocab_size=300, folder=folder))


def test_prompts_are_those_of_training(template: Template) -> None:
    """Field by field the arrays that a data set holds of the same prompts, but for the references."""
    found, tokenizer = prompt_arrays(template, PROMPTS, longest=99), template.tokenizer
    slot = found["prompt_BP"].shape[1]
    layout = Layout(tokenizer.pad_id, tokenizer.eos_id, tuple(template.improver_suffix), {}, slot, 8)
    expected = build("prompts", [template.example(Triple(prompt, "a", "b")) for prompt in PROMPTS], layout)
    assert found.keys() == expected.keys() == set(PromptBatch.__dataclass_fields__)
    for name in ("prompt_BP", "prompt_mask_BP", "prefix_BP", "prefix_mask_BP"):
        np.testing.assert_array_equal(found[name], expected[name])
    for name in ("chosen_mask_BR", "rejected_mask_BR"):
        assert found[name].shape == (3, 1) and not found[name].any(), "no references"
    first = found["prompt_BP"][0][found["prompt_mask_BP"][0]].tolist()
    assert first == [*tokenizer.encode(PROMPTS[0]), tokenizer.id_of("<answer>")]


@pytest.mark.parametrize(
    ("words", "least", "slot"), [(1, 0, 4), (3, 0, 4), (4, 0, 8), (1, 5, 8), (1, 8, 8), (9, 4, 12)]
)
def test_slots_come_in_few_sizes(world: Any, words: int, least: int, slot: int) -> None:
    """Room for the improver's prompt, a token longer, and for `least`, in steps of four."""
    assert SLOTS == 4
    template: Any = StandInTemplate(world)
    found = prompt_arrays(template, ["7", " ".join(["8"] * words)], longest=99, least=least)
    assert found["prompt_BP"].shape == found["prefix_BP"].shape == (2, slot)


@pytest.mark.parametrize("blank", ["", " ", "\n\t"])
def test_an_empty_prompt_is_named(world: Any, blank: str) -> None:
    template: Any = StandInTemplate(world)
    with pytest.raises(UserError, match="prompt 2 is empty; give every row a prompt"):
        prompt_arrays(template, ["7", blank], longest=9)


def test_a_prompt_is_never_cut(world: Any) -> None:
    template: Any = StandInTemplate(world)
    assert len(prompt_arrays(template, ["7 8 9"], longest=3)["prompt_BP"]) == 1
    message = r"prompt 3 has 3 tokens, the models were trained on at most 2; shorten it \(a prompt is never cut\)"
    with pytest.raises(UserError, match=message):
        prompt_arrays(template, ["7", "7 8", "7 8 9"], longest=2)


def test_a_prompt_that_the_chat_template_refuses_is_named(tmp_path: Path) -> None:
    """Gemma's takes turns of user and assistant alone."""
    template = Template(load_tokenizer(written(tmp_path, "bytes", PUBLISHED["gemma"])))
    twice = stored([("user", "hello"), ("user", "are you there?")])
    message = r"prompt 2, .*are you there.*: the chat template raises .*; change or remove it"
    with pytest.raises(UserError, match=message):
        prompt_arrays(template, ["hello", twice], longest=99)


def test_responses_stand_in_their_slot() -> None:
    found = response_arrays([[7, 8, 1], [], [9] * 4], slot=4, pad_id=5)
    assert found["tokens_BT"].tolist() == [[7, 8, 1, 5], [5] * 4, [9] * 4]
    assert found["mask_BT"].sum(axis=1).tolist() == [3, 0, 4] and found["tokens_BT"].dtype == np.int32
    with pytest.raises(AssertionError, match="a row of 5 tokens does not fit 4"):
        response_arrays([[9] * 5], slot=4, pad_id=5)
