"""What a row means, by layout. The rows are those that the data sets' cards show, shortened."""

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pit_jax.batch import Triple
from pit_jax.data.layouts import (
    LAYOUTS,
    hh,
    of_world,
    pairs,
    synthetic_instruct,
    tldr,
    ultrafeedback,
    with_lists,
)
from pit_jax.data.text.row import Unusable
from pit_jax.data.text.transcripts import messages_of
from pit_jax.data.worlds import world
from pit_jax.data.worlds.notes import NOTES
from pit_jax.errors import UserError
from tests.data.rows import PAIR, turns

ANSWER_A, ANSWER_B = [{"role": "assistant", "content": "a"}], [{"role": "assistant", "content": "b"}]


def test_strings_survive_exactly_and_other_columns_are_ignored() -> None:
    odd = {"prompt": " é\n🙂\u2028", "chosen": "<eos>\u0000", "rejected": "b ", "source": 2}
    assert pairs(odd) == Triple(" é\n🙂\u2028", "<eos>\u0000", "b ")
    assert LAYOUTS["pairs"].parse is LAYOUTS["jsonl"].parse is pairs


@pytest.mark.parametrize(
    "row",
    [
        {"prompt": turns("one", "two", "three"), "chosen": ANSWER_A, "rejected": ANSWER_B},
        {"prompt": turns("one", "two", "three"), "chosen": "a", "rejected": "b"},
        {"chosen": turns("one", "two", "three", "a"), "rejected": turns("one", "two", "three", "b")},
        {"prompt": None, "chosen": turns("one", "two", "three", "a"), "rejected": turns("one", "two", "three", "b")},
        {
            "prompt": turns("one", "two", "three"),
            "chosen": turns("one", "two", "three", "a"),
            "rejected": turns("one", "two", "three", "b"),
        },
    ],
)
def test_message_lists_become_a_transcript(row: dict[str, Any]) -> None:
    text = "\n\nHuman: one\n\nAssistant: two\n\nHuman: three\n\nAssistant:"
    assert pairs(row) == Triple(text, "a", "b")


def test_messages_that_a_transcript_cannot_say_stay_messages() -> None:
    """Space around a content, what looks like a turn, and an assistant's message at the end."""
    messages = [("user", " a\n\nHuman: b"), ("assistant", "c ")]
    rows = [{"role": role, "content": content} for role, content in messages]
    found = pairs({"prompt": rows, "chosen": "yes", "rejected": "no"})
    assert messages_of(found.prompt) == tuple(messages) and (found.chosen, found.rejected) == ("yes", "no")
    whole = [rows + turns("x", answer)[1:] for answer in ("yes", "no")]
    assert pairs({"chosen": whole[0], "rejected": whole[1]}) == found


def test_message_lists_in_strings() -> None:
    """Read as lists; not where one answer alone is such a text, or where the assistant does not say it."""
    row = {
        "prompt": json.dumps(turns("q")),
        "chosen": json.dumps(turns("q", "a")),
        "rejected": json.dumps(turns("q", "b")),
    }
    assert pairs(with_lists(row)) == Triple("q", "a", "b")
    assert with_lists(PAIR) is PAIR and with_lists(PAIR | {"chosen": "[1]"})["chosen"] == "[1]"
    for answer in (turns("q", "a"), turns("q")):
        one = {"prompt": "write a chat as JSON", "chosen": json.dumps(answer), "rejected": json.dumps(turns("q"))}
        assert with_lists(one) is one


def test_system_message_and_string_prompt_with_full_dialogues() -> None:
    system = [{"role": "system", "content": "be kind"}, *turns("q")]
    assert pairs({"prompt": system, "chosen": "a", "rejected": "b"}) == Triple(
        "\n\nSystem: be kind\n\nHuman: q\n\nAssistant:", "a", "b"
    )
    assert pairs({"prompt": "q", "chosen": turns("q", "a"), "rejected": turns("q", "b")}) == Triple("q", "a", "b")


@pytest.mark.parametrize(
    "row",
    [
        {"prompt": turns("q"), "chosen": "a", "rejected": "b"},
        {"prompt": "q", "chosen": "a", "rejected": "b"},
        {"chosen": turns("q", "a"), "rejected": turns("q", "b")},
    ],
)
def test_one_message_of_the_user_is_its_text(row: dict[str, Any]) -> None:
    assert pairs(row) == Triple("q", "a", "b")


@pytest.mark.parametrize(
    ("chosen", "rejected", "expected"),
    [
        ("The sky is blue.", "The sky is green.", ("The sky is", " blue.", " green.")),  # TRL's own example
        ("Is it?\nYes", "Is it?\nNo", ("Is it?\n", "Yes", "No")),
        ("The sky is blue", "The sky is black", ("The sky is", " blue", " black")),  # TRL cuts after "bl"
        ("The sky is", "The sky is blue", ("The sky", " is", " is blue")),
    ],
)
def test_an_implicit_prompt_is_what_the_texts_share(chosen: str, rejected: str, expected: tuple[str, str, str]) -> None:
    assert pairs({"chosen": chosen, "rejected": rejected}) == Triple(*expected)


words = st.lists(st.text("ab", min_size=1, max_size=3), min_size=1, max_size=6).map(" ".join)


@given(prompt=words, chosen=words, rejected=words)
def test_an_implicit_prompt_loses_no_text_and_splits_no_word(prompt: str, chosen: str, rejected: str) -> None:
    texts = (f"{prompt} {chosen}", f"{prompt} {rejected}")
    try:
        triple = pairs({"chosen": texts[0], "rejected": texts[1]})
    except Unusable as why:
        assert texts[0] == texts[1] or why.reason == "no prompt" and not prompt.count(" ")
        return
    assert (triple.prompt + triple.chosen, triple.prompt + triple.rejected) == texts
    assert triple.chosen.startswith(" ") and triple.rejected.startswith(" ") and triple.chosen != triple.rejected


@pytest.mark.parametrize(("value", "expected"), [(2, 2.0), (-0.5, -0.5), (None, 0.0)])
def test_margins(value: Any, expected: float) -> None:
    assert pairs(PAIR | {"margin": value}).margin == expected
    assert pairs(PAIR).margin == 0.0


@pytest.mark.parametrize(
    ("row", "reason", "found"),
    [
        ({"question": "x", "chosen": "a", "answer": "b"}, "missing column rejected", "found answer, chosen, question"),
        ({"chosen": "a", "rejected": "b"}, "no prompt", "must begin with the same words"),
        ({"chosen": "a", "rejected": ANSWER_B}, "missing column prompt", "needed prompt, chosen, rejected"),
        ({}, "missing columns chosen, rejected", "found none; needed chosen, rejected"),
        (PAIR | {"chosen": None}, "missing column chosen", "found prompt, rejected"),
        (
            {"prompt": None, "chosen": "as it was", "rejected": "as it is"},
            "missing column prompt",
            "found chosen, rejected",
        ),
        (PAIR | {"prompt": 3}, "prompt must be a string", "found int"),
        (PAIR | {"chosen": 1.5}, "chosen must be a string or a list of {role, content}", "found float"),
        (PAIR | {"chosen": ["a"]}, "every message of chosen needs role and content", "found a"),
        (PAIR | {"chosen": [{"role": "bot", "content": "a"}]}, "chosen has an unknown role", "system, user, assistant"),
        (PAIR | {"chosen": [{"role": "assistant", "content": 1}]}, "content of chosen must be a string", "found int"),
        (PAIR | {"chosen": turns("a")}, "chosen must end with an assistant message", ""),
        (PAIR | {"chosen": turns("other", "a")}, "the messages of chosen before its answer differ from the prompt", ""),
        (PAIR | {"prompt": turns(" ")}, "prompt is empty", ""),
        ({"chosen": turns("x", "a"), "rejected": turns("y", "b")}, "without a prompt, chosen and rejected must", ""),
        (
            {"chosen": ANSWER_A, "rejected": ANSWER_B},
            "the prompt must end with a message of the user or the assistant",
            "",
        ),
        (PAIR | {"prompt": " \n"}, "prompt is empty", ""),
        (PAIR | {"chosen": ""}, "chosen is empty", ""),
        (PAIR | {"rejected": "\t"}, "rejected is empty", ""),
        (PAIR | {"rejected": " hi"}, "chosen and rejected are the same text", ""),
        (PAIR | {"prompt": "\ud800"}, "prompt holds half a surrogate pair", ""),
        (PAIR | {"margin": "2"}, "margin is not a finite number", "found 2"),
        (PAIR | {"margin": float("nan")}, "margin is not a finite number", "found nan"),
        (PAIR | {"margin": True}, "margin is not a finite number", "found True"),
        (PAIR | {"margin": 10**400}, "margin is not a finite number", "found 1000"),
        (PAIR | {"chosen": [{"role": ["user"], "content": "a"}]}, "chosen has an unknown role", "found ['user']"),
    ],
)
def test_a_row_that_is_no_pair_says_why(row: dict[str, Any], reason: str, found: str) -> None:
    with pytest.raises(Unusable) as error:
        pairs(row)
    assert error.value.reason.startswith(reason) and found in error.value.found
    assert not error.value.known


scalars = st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=4) | st.just(" a\n\nAssistant: b")
messages = st.lists(
    st.fixed_dictionaries({"role": st.sampled_from(["user", "assistant"]) | scalars, "content": scalars})
)
columns = st.sampled_from(["prompt", "chosen", "rejected", "margin"])


@pytest.mark.parametrize("layout", list(LAYOUTS), ids=lambda layout: layout.name)
@given(row=st.dictionaries(columns, scalars | messages | st.lists(scalars) | st.dictionaries(columns, scalars)))
def test_any_row_is_a_pair_or_says_why(layout: Any, row: dict[str, Any]) -> None:
    try:
        triple = layout.parse(row)
    except Unusable as why:
        assert why.reason
        return
    assert triple.prompt.strip() and triple.chosen.strip() and triple.rejected.strip()
    assert triple.chosen.strip() != triple.rejected.strip()


def test_layouts_are_known_by_their_names() -> None:
    assert LAYOUTS.names() == ["pairs", "jsonl", "hh", "tldr", "ultrafeedback", "synthetic_instruct"]
    assert {layout.name: layout.parse for layout in LAYOUTS}["hh"] is hh
    with pytest.raises(UserError, match=r"no layout 'ultrafeedbak'; did you mean ultrafeedback\?; known: pairs, jsonl"):
        LAYOUTS["ultrafeedbak"]


def test_prompts_of_a_worlds_layout_are_those_of_the_world() -> None:
    made = world.pairs(NOTES, 1, 0)[0]
    row = {"prompt": made.prompt, "chosen": made.chosen, "rejected": made.rejected}
    assert of_world(NOTES)(row) == made
    with pytest.raises(Unusable, match="prompt is none of the world notes") as error:
        of_world(NOTES)(row | {"prompt": "write a poem"})
    assert error.value.found == "found 'write a poem'" and not error.value.known


START = "\n\nHuman: one\n\nAssistant: two\n\nHuman: three\n\nAssistant:"
POST = "SUBREDDIT: r/pets\nTITLE: My cat\nPOST: It sleeps.\n\nAll day."


@pytest.mark.parametrize(
    ("layout", "row", "expected"),
    [
        (hh, {"chosen": START + " yes", "rejected": START + " no\n"}, Triple(START, "yes", "no")),
        (
            tldr,
            {"prompt": POST, "chosen": "TL;DR:  My cat sleeps.", "rejected": "TL;DR: A cat."},
            Triple(POST + "\nTL;DR:", "My cat sleeps.", "A cat."),
        ),
        (
            tldr,  # the same pair where the mark is in the prompt
            {"prompt": POST + "\n\nTL;DR:", "chosen": " My cat sleeps.", "rejected": " A cat."},
            Triple(POST + "\nTL;DR:", "My cat sleeps.", "A cat."),
        ),
        (
            ultrafeedback,
            {
                "prompt": "How?",
                "prompt_id": "0",
                "chosen": turns("How?", "So.\n"),
                "rejected": turns("How?", "Why?"),
                "messages": turns("How?", "So."),
                "score_chosen": 8.5,
                "score_rejected": 8.0,
            },
            Triple("How?", "So.", "Why?"),
        ),
        (
            ultrafeedback,
            {"chosen": turns("one", "two", "three", "yes"), "rejected": turns("one", "two", "three", "no")},
            Triple(START, "yes", "no"),
        ),
        (
            synthetic_instruct,
            {"prompt": "I wonder how to knit.", "chosen": " With needles.", "rejected": " "},
            "empty answer",
        ),
        (
            synthetic_instruct,
            {"prompt": "I wonder how to knit.", "chosen": " With needles.", "rejected": "I do too."},
            Triple("I wonder how to knit.", "With needles.", "I do too."),
        ),
        (hh, {"chosen": START + " yes", "rejected": START + " yes "}, "chosen equals rejected"),
        (hh, {"chosen": START + " yes", "rejected": START}, "empty answer"),
        (
            hh,
            {"chosen": START + " a", "rejected": START + " a\n\nHuman: b\n\nAssistant: c"},
            "dialogues differ before the last assistant turn",
        ),
        (hh, {"chosen": "no turns", "rejected": "at all"}, "no prompt before the last assistant turn"),
        (tldr, {"prompt": POST, "chosen": "TL;DR: a", "rejected": "TL;DR: a "}, "chosen equals rejected"),
        (tldr, {"prompt": POST, "chosen": "TL;DR:", "rejected": "TL;DR: a"}, "empty answer"),
        (ultrafeedback, {"chosen": turns("x", "a"), "rejected": turns("y", "b")}, "dialogues differ before the last"),
        (ultrafeedback, {"chosen": ANSWER_A, "rejected": ANSWER_B}, "no prompt before the last assistant turn"),
        (synthetic_instruct, {"prompt": " ", "chosen": "a", "rejected": "b"}, "empty prompt"),
    ],
)
def test_layouts_of_public_data_sets(layout: Any, row: dict[str, Any], expected: Triple | str) -> None:
    """What these sets are known to hold is dropped with a reason; it makes no row bad."""
    if isinstance(expected, Triple):
        assert layout(row) == expected
        return
    with pytest.raises(Unusable, match=expected) as error:
        layout(row)
    assert error.value.known


@pytest.mark.parametrize("layout", [hh, tldr, ultrafeedback, synthetic_instruct])
def test_another_layout_is_bad(layout: Any) -> None:
    for row in ({"text": "a"}, {"prompt": 1, "chosen": 2, "rejected": 3}):
        with pytest.raises(Unusable) as error:
            layout(row)
        assert not error.value.known
