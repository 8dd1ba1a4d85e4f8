"""Dialogues as one text and back."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pit_jax.data.text.transcripts import message_list, messages_of, readable, stored, transcript

CONTENT = st.text() | st.sampled_from(
    ["\n\nHuman: hi\n\nAssistant:", " a\n", '[{"role": "user", "content": "a"}]', "[]"]
)
MESSAGES = st.lists(st.tuples(st.sampled_from(["system", "user", "assistant"]), CONTENT), min_size=1)


@given(MESSAGES)
def test_messages_are_read_back_whatever_they_hold(messages: list[tuple[str, str]]) -> None:
    assert messages_of(stored(messages)) == tuple(messages)
    assert readable(stored(messages)) in (transcript(messages), messages[0][1])


@pytest.mark.parametrize(
    "text", ["write to anna", "\n\nHuman: hello", "say\n\nHuman: hello\n\nAssistant:", "Human: hello\n\nAssistant:", ""]
)
def test_what_is_no_transcript_is_one_message(text: str) -> None:
    assert messages_of(text) == (("user", text),)


def test_turns_of_hh() -> None:
    text = "\n\nHuman: a\nb \n\nAssistant: c\n\nHuman:d\n\nAssistant:"
    assert messages_of(text) == (("user", "a\nb"), ("assistant", "c"), ("user", "d"))


def test_a_transcript_is_kept_where_it_says_all() -> None:
    turns = [("user", "a"), ("assistant", "b"), ("user", "c")]
    assert stored(turns) == transcript(turns) == "\n\nHuman: a\n\nAssistant: b\n\nHuman: c\n\nAssistant:"
    assert stored([("user", " a\n")]) == " a\n"
    assert stored([*turns[:2], ("user", "c ")]).startswith('[{"role": "user"')


@pytest.mark.parametrize("text", ["[1]", "[]", '["role"]', '[{"role": 1}]', '[{"role": [], "content": "a"}]', '["role'])
def test_what_is_no_list_of_messages(text: str) -> None:
    assert message_list(text) is None and messages_of(text) == (("user", text),)
