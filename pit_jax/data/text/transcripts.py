"""Dialogues as one text: a transcript as in HH-RLHF, or a JSON list of messages where a transcript cannot say them.

A transcript has turns that begin with a line "Human:", "Assistant:" or "System:" and ends with "\\n\\nAssistant:". It
loses the space around a content, and a content may look like a turn. So `stored` writes one only where `messages_of`
reads the very messages from it: a prompt is text wherever it goes, and nothing that it says is lost.
"""

import functools
import json
import re
from collections.abc import Sequence
from typing import Any

SPEAKERS = {"system": "System", "user": "Human", "assistant": "Assistant"}
TURN = "\n\nAssistant:"  # how a transcript ends: the answer is what the assistant says next
_ROLES = {speaker: role for role, speaker in SPEAKERS.items()}
_MARK = re.compile(r"\n\n(System|Human|Assistant):")

Message = tuple[str, str]  # role and content


def stored(messages: Sequence[Message]) -> str:
    """The prompt that asks for the assistant's answer to `messages`; `messages_of` gives exactly these again."""
    text = messages[0][1] if len(messages) == 1 else transcript(messages)
    if messages_of(text) == tuple(messages):
        return text
    return json.dumps([{"role": role, "content": content} for role, content in messages], ensure_ascii=False)


@functools.lru_cache(maxsize=16)  # the same prompt is asked for more than once in a row
def messages_of(prompt: str) -> tuple[Message, ...]:
    """The messages of a prompt: of a JSON list of them, of a transcript, or one of the user, as it stands.

    The turns of a transcript lose the space around them.
    """
    if rows := message_list(prompt):
        return tuple((row["role"], row["content"]) for row in rows)
    if not (_MARK.match(prompt) and prompt.endswith(TURN)):
        return (("user", prompt),)
    _, *pieces = _MARK.split(prompt.removesuffix(TURN))
    return tuple((_ROLES[speaker], text.strip()) for speaker, text in zip(pieces[::2], pieces[1::2], strict=True))


def message_list(text: str) -> list[dict[str, Any]] | None:
    """The messages of a text that is a JSON list of {role, content}, of roles that are known; None for any other."""
    if not text.lstrip().startswith("[") or '"role"' not in text:
        return None
    try:
        rows = json.loads(text)
    except (ValueError, RecursionError):
        return None
    return rows if rows and all(map(_is_message, rows)) else None


def _is_message(row: Any) -> bool:
    return isinstance(row, dict) and row.get("role") in list(SPEAKERS) and isinstance(row.get("content"), str)


def readable(prompt: str) -> str:
    """A prompt for people, and for models without a chat template: a JSON list of messages becomes a transcript.

    That is never read back.
    """
    return transcript(messages_of(prompt)) if message_list(prompt) else prompt


def transcript(messages: Sequence[Message]) -> str:
    """The turns of `messages`, and the beginning of the assistant's next one."""
    return "".join(f"\n\n{SPEAKERS[role]}: {content}" for role, content in messages) + TURN
