"""The one layout of prompts and answers, with plain separators and under a chat template."""

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pit_jax.batch import Triple
from pit_jax.data.text.templates import Template
from pit_jax.data.text.tokenizers import load_tokenizer, train_tokenizer
from pit_jax.errors import UserError

CHAT = (
    "{% for m in messages %}<|start|>{{ m['role'] }}\n{{ m['content'] | trim }}<|end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|start|>assistant\n{% endif %}"
)


@pytest.fixture(scope="module")
def plain(tmp_path_factory: pytest.TempPathFactory) -> Template:
    texts = ["write a kind note to anna", "hello anna, see you at noon"] * 20
    return Template(train_tokenizer(texts, vocab_size=320, folder=tmp_path_factory.mktemp("plain") / "tokenizer"))


def chat_folder(plain: Template, folder: Path, template: str) -> Path:
    from transformers import PreTrainedTokenizerFast

    fast = PreTrainedTokenizerFast(tokenizer_object=plain.tokenizer.backend, eos_token="<eos>", pad_token="<pad>")
    fast.add_tokens(["<|start|>", "<|end|>"], special_tokens=True)
    fast.chat_template = template
    fast.save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def chat(plain: Template, tmp_path_factory: pytest.TempPathFactory) -> Template:
    return Template(load_tokenizer(chat_folder(plain, tmp_path_factory.mktemp("chat"), CHAT)))


def spelled(template: Template, ids: list[int]) -> str:
    return str(template.tokenizer.backend.decode(ids, skip_special_tokens=False))


def test_plain_layout_is_spelled_with_separators(plain: Template) -> None:
    improver = [*plain.improver_prefix("an x"), *plain.response("a ref"), *plain.improver_suffix]
    assert spelled(plain, plain.policy_prompt("an x")) == "an x<answer>"
    assert spelled(plain, improver) == "an x<reference>a ref<improve>"
    assert plain.improver_suffix == [plain.tokenizer.id_of("<improve>")]
    assert plain.text([*plain.response("a ref"), plain.tokenizer.eos_id, 7]) == "a ref"
    assert plain.tokenizer.eos_id not in plain.response("a ref")


@given(st.text(), st.text())
def test_pieces_do_not_depend_on_their_neighbours(plain: Template, x: str, y: str) -> None:
    assert plain.policy_prompt(x) == [*plain.tokenizer.encode(x), plain.tokenizer.id_of("<answer>")]
    assert plain.improver_prefix(x) == [*plain.tokenizer.encode(x), plain.tokenizer.id_of("<reference>")]
    assert plain.text(plain.response(y)) == y


def test_an_example_is_the_four_pieces(plain: Template, chat: Template) -> None:
    triple = Triple("an x", "better", "worse", margin=0.5)
    for template in (plain, chat):
        example = template.example(triple)
        assert example.prompt == template.policy_prompt("an x") and example.prefix == template.improver_prefix("an x")
        assert (example.chosen, example.rejected) == (template.response("better"), template.response("worse"))
        assert example.margin == 0.5


def test_chat_template_frames_the_same_pieces(chat: Template) -> None:
    improver = [*chat.improver_prefix("an x"), *chat.response("a ref"), *chat.improver_suffix]
    assert spelled(chat, chat.policy_prompt("an x")) == "<|start|>user\nan x<|end|>\n<|start|>assistant\n"
    assert spelled(chat, improver) == (
        "<|start|>user\nan x\n\nHere is a reference answer:\na ref [end of the reference answer]\n\n"
        "Write a better answer than the reference."
        "<|end|>\n<|start|>assistant\n"
    )
    marker = chat.tokenizer.id_of("<|end|>")
    assert chat.policy_prompt("an x").count(marker) == 1
    assert chat.policy_prompt("say <|end|>").count(marker) == 1


def test_chat_pieces_equal_the_whole_text_tokenised_at_once(chat: Template) -> None:
    whole = "<|start|>user\nwrite a kind note<|end|>\n<|start|>assistant\n"
    assert chat.policy_prompt("write a kind note") == chat.tokenizer.encode_markup(whole)


def test_template_survives_saving(chat: Template, tmp_path: Path) -> None:
    chat.tokenizer.save(tmp_path / "saved")
    assert Template(load_tokenizer(tmp_path / "saved")) == chat
    assert Template(load_tokenizer(tmp_path / "saved")).frame == chat.frame


@pytest.mark.parametrize("template", ["{{ messages[0]['content'] | lower }}", "hello", "{{ messages[0].content * 2 }}"])
def test_chat_template_that_changes_the_message(plain: Template, tmp_path: Path, template: str) -> None:
    loaded = Template(load_tokenizer(chat_folder(plain, tmp_path, template)))
    with pytest.raises(UserError, match="does not show every message once and unchanged, so it cannot hold a prompt"):
        loaded.policy_prompt("x")
