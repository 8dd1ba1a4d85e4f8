"""Dialogues as one text, as in HH-RLHF, and back: turns that begin with a line "Human:", "Assistant:" or "System:"."""

import re
from collections.abc import Sequence

from pit_jax.errors import UserError

SPEAKERS = {"system": "System", "user": "Human", "assistant": "Assistant"}
TURN = "\n\nAssistant:"  # how a prompt ends: the answer is what the assistant says next
_ROLES = {speaker: role for role, speaker in SPEAKERS.items()}
_MARK = re.compile(r"\n\n(System|Human|Assistant):")

Message = tuple[str, str]  # role and content


def transcript(messages: Sequence[Message]) -> str:
    """The prompt that asks for the assistant's answer to `messages`.

    Raises UserError where a content looks like a turn of its own: the text could not be read back.
    """
    for role, content in messages:
        if mark := _MARK.search(content):
            raise UserError(f"a message of the {role} holds {mark.group().strip()!r}, which begins a turn")
    return "".join(f"\n\n{SPEAKERS[role]}: {content}" for role, content in messages) + TURN


def messages_of(prompt: str) -> tuple[Message, ...]:
    """The messages of a prompt, contents without the space around them; a text that is no transcript is the user's.

    A transcript begins with a turn and ends with "\\n\\nAssistant:"; anything else is one message, as it stands.
    """
    if not (_MARK.match(prompt) and prompt.endswith(TURN)):
        return (("user", prompt),)
    _, *pieces = _MARK.split(prompt.removesuffix(TURN))
    return tuple((_ROLES[speaker], text.strip()) for speaker, text in zip(pieces[::2], pieces[1::2], strict=True))
