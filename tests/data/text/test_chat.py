"""Chat templates of published models, byte-level and SentencePiece-like tokenizers, against transformers' own ids."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from pit_jax.batch import Triple
from pit_jax.config import DataConfig
from pit_jax.data.text import chat
from pit_jax.data.text.templates import IMPROVE_WORDS, REFERENCE_WORDS, Template
from pit_jax.data.text.tokenizers import load_tokenizer
from pit_jax.data.text.transcripts import messages_of, transcript
from pit_jax.data.tokens import Tokeniser, admit
from pit_jax.errors import UserError
from tests.data.text.chat_tokenizers import KINDS, written
from tests.data.text.published_templates import PUBLISHED, Published

TURNS = [
    ("user", "What is a kind way to say no?"),
    ("assistant", "It depends on whom you ask:\n\n- a friend,\n- a stranger."),
    ("user", "A stranger"),
]
DIALOGUES = {
    "one message": TURNS[:1],
    "three turns": TURNS,
    "five turns": [*TURNS, ("assistant", "Thank you, but I can't."), ("user", "<|im_end|></s> is what I say")],
    "a system": [("system", "You are kind."), *TURNS],
}


@pytest.fixture(scope="module", params=[(kind, name) for kind in KINDS for name in PUBLISHED], ids="-".join)
def case(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> tuple[str, Published, Template]:
    kind, name = request.param
    folder = written(tmp_path_factory.mktemp(f"{kind}-{name}"), kind, PUBLISHED[name])
    return kind, PUBLISHED[name], Template(load_tokenizer(folder))


def theirs(template: Template, messages: list[tuple[str, str]]) -> list[int]:
    """What transformers makes of the messages, where no content spells a special token."""
    rows = [{"role": role, "content": content} for role, content in messages]
    fast = template.tokenizer.chat
    fast.backend_tokenizer.encode_special_tokens = False
    try:
        found = fast.apply_chat_template(rows, tokenize=True, add_generation_prompt=True, return_dict=False)
    finally:
        fast.backend_tokenizer.encode_special_tokens = True
    return list(found)


@pytest.mark.parametrize("name", ["one message", "three turns", "a system"])
def test_the_ids_are_those_of_transformers(case: tuple[str, Published, Template], name: str) -> None:
    kind, found, template = case
    x = transcript(DIALOGUES[name])
    if name == "a system" and not found.system:
        with pytest.raises(chat.Refusal):
            template.framed(x)
        return
    expected, ids = theirs(template, DIALOGUES[name]), template.policy_prompt(x)
    spelled = [template.tokenizer.backend.decode(row, skip_special_tokens=False) for row in (ids, expected)]
    if found is PUBLISHED["mistral"]:  # "[INST] " is cut behind its space: the next word has none of its own
        assert spelled[0].replace(" ", "") == spelled[1].replace(" ", "")
    else:
        assert ids == expected and spelled[0] == spelled[1]


def test_an_answer_ends_as_the_assistant_s_turn_does(case: tuple[str, Published, Template]) -> None:
    _, found, template = case
    tokenizer = template.tokenizer
    assert tokenizer.eos_id == tokenizer.id_of(found.end)
    assert tokenizer.pad_id not in (tokenizer.eos_id, tokenizer.id_of(found.eos))
    x, y = transcript(DIALOGUES["five turns"]), f"a {found.end} b {found.eos}"
    assert tokenizer.eos_id not in template.response(y), "a text that spells the end is no end"
    assert template.text([*template.response(y), tokenizer.eos_id, 9]) == y
    ends = template.policy_prompt(x).count(tokenizer.eos_id)
    assert ends == template.policy_prompt(transcript([(r, "w") for r, _ in DIALOGUES["five turns"]])).count(
        tokenizer.eos_id
    )


def test_bos_stands_once_where_the_template_writes_it(case: tuple[str, Published, Template]) -> None:
    _, found, template = case
    if found.bos is not None:
        once = int("bos_token" in found.template)
        bos_id: Any = template.tokenizer.bos_id
        for ids in (template.policy_prompt("x"), template.improver_prefix(transcript(TURNS))):
            assert ids.count(template.tokenizer.id_of(found.bos)) == once == ids[:1].count(bos_id)


@pytest.mark.parametrize("name", DIALOGUES)
def test_improver_prompt_is_the_dialogue_with_the_reference_in_its_last_message(
    case: tuple[str, Published, Template], name: str
) -> None:
    kind, found, template = case
    messages = DIALOGUES[name]
    if name == "a system" and not found.system:
        return
    whole = [*messages[:-1], ("user", messages[-1][1] + REFERENCE_WORDS + "A friend" + IMPROVE_WORDS)]
    ids = [*template.improver_prefix(transcript(messages)), *template.response("A friend"), *template.improver_suffix]
    if name != "five turns" and found is not PUBLISHED["mistral"]:
        if kind == "bytes":
            assert ids == theirs(template, whole)
        else:  # the words around the reference begin or end in what these tokenizers join with a neighbour
            spelled = [template.tokenizer.backend.decode(row) for row in (ids, theirs(template, whole))]
            assert spelled[0] == spelled[1]
    assert [content for _, content in messages_of(transcript(messages))] == template.contents(transcript(messages))


def test_contents_are_trimmed_where_the_template_trims(case: tuple[str, Published, Template]) -> None:
    _, found, template = case
    expected = "two  words" if "trim" in found.template else " \ntwo  words\t"
    assert template.contents(" \ntwo  words\t") == [expected]


@pytest.mark.parametrize("family", ["gemma", "mistral"])
def test_rows_that_a_template_refuses_are_counted(tmp_path: Path, family: str) -> None:
    template = Template(load_tokenizer(written(tmp_path, "bytes", PUBLISHED[family])))
    prompts = [transcript(turns) for turns in (TURNS, [TURNS[0], TURNS[2]], DIALOGUES["a system"], TURNS[:2], TURNS)]
    rows = [Triple(prompt, "yes", "no") for prompt in prompts]
    _, lengths, refusals = Tokeniser(template)(rows)
    keep, drops = admit(lengths, refusals, template.frame_length, DataConfig(prompt_length=999))
    assert keep.tolist() == [True, False, False, False, True]
    assert (lengths.sum(axis=1) > 0).tolist() == keep.tolist()
    assert sum(drops.values()) == 3 and len(drops) == 3
    assert drops["the last message is not the user's (roles user, assistant)"] == 1
    assert drops["the chat template raises 'Roles must alternate' (roles user, user)"] == 1
    with pytest.raises(chat.Refusal, match="the chat template raises 'Roles must alternate'"):
        template.policy_prompt(prompts[1])


def test_a_template_that_raises_for_any_message_is_one_clear_error(tmp_path: Path) -> None:
    for number, body in enumerate(["{{ raise_exception('no') }}", "{{ messages[0].content.nothing() }}", "{% if %}"]):
        found = replace(PUBLISHED["chatml"], template=body)
        template = Template(load_tokenizer(written(tmp_path / str(number), "bytes", found)))
        with pytest.raises(UserError, match=rf"folder .*/{number}: asked its chat template for one .* raises .*change"):
            template.policy_prompt("x")


def test_a_suffix_that_depends_on_the_roles_is_refused(tmp_path: Path) -> None:
    body = PUBLISHED["chatml"].template + "{% if messages | length > 1 %}again{% endif %}"
    template = Template(load_tokenizer(written(tmp_path, "bytes", replace(PUBLISHED["chatml"], template=body))))
    with pytest.raises(UserError, match="not the same after the roles user, assistant, user as after one message"):
        template.framed(transcript(TURNS))


def test_a_template_that_shows_the_day_shows_the_same_one(tmp_path: Path) -> None:
    body = "{% set today = strftime_now('%d %b %Y') %}Today is {{ today }}\n" + PUBLISHED["chatml"].template
    template = Template(load_tokenizer(written(tmp_path, "bytes", replace(PUBLISHED["chatml"], template=body))))
    assert template.tokenizer.backend.decode(template.policy_prompt("x")).startswith("Today is 26 Jul 2024\n")


@pytest.mark.parametrize("pad", ["<|im_end|>", "<|endoftext|>"])
def test_pad_is_neither_end(tmp_path: Path, pad: str) -> None:
    tokenizer = load_tokenizer(written(tmp_path / "given", "bytes", PUBLISHED["chatml"], pad_token=pad))
    assert tokenizer.pad_id not in (tokenizer.eos_id, tokenizer.id_of("<|endoftext|>"))
    tokenizer.save(tmp_path / "saved")
    again = load_tokenizer(tmp_path / "saved")
    assert (again.pad_id, again.eos_id, again) == (tokenizer.pad_id, tokenizer.eos_id, tokenizer)
    assert again.chat.eos_token == "<|endoftext|>"


def test_an_end_that_was_no_special_token_becomes_one(tmp_path: Path) -> None:
    folder = written(tmp_path, "bytes", PUBLISHED["chatml"])
    for path, at in ((folder / "tokenizer.json", "added_tokens"), (folder / "tokenizer_config.json", "")):
        found = json.loads(path.read_text())
        entries = found[at] if at else list(found.get("added_tokens_decoder", {}).values())
        for entry in entries:
            entry["special"] = entry["content"] == "<|endoftext|>"
        path.write_text(json.dumps({name: x for name, x in found.items() if name != "extra_special_tokens"}))
    tokenizer = load_tokenizer(folder)
    assert tokenizer.eos_id == tokenizer.id_of("<|im_end|>") and tokenizer.eos_id not in tokenizer.encode("<|im_end|>")
