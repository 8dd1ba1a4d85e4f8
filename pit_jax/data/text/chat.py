"""What a tokenizer's chat template writes around messages, as text; and how it ends a turn of the assistant.

A template is a program that came with a tokenizer. It is run on marks in place of the contents, once for a sequence of
roles, so that no content can change what stands around it.
"""

from collections.abc import Sequence
from datetime import datetime
from typing import Any

from pit_jax.data.text.transcripts import Message
from pit_jax.errors import UserError

# A template that asks for the day would write another prompt tomorrow. This is the day that Llama 3 falls back to.
_DAY = datetime(2024, 7, 26)
_DIRECTIVES = "".join(f" | replace('%{letter}', '{_DAY.strftime('%' + letter)}')" for letter in "aAbBdHmMSyY")
_SAME_DAY = f"{{%- macro strftime_now(format) -%}}{{{{ format{_DIRECTIVES} }}}}{{%- endmacro -%}}"


class Refusal(UserError):
    """A chat template that cannot hold these messages; the text is why."""


def mark(number: int) -> str:
    """What stands for the content of message `number`: a word that no template writes, none in another."""
    return f"PITJAX{number}MESSAGE"


def around(fast: Any, messages: Sequence[Message], marks: Sequence[str], *, answer: bool = True) -> list[str]:
    """The rendered messages cut at `marks`: len(marks) + 1 pieces; `answer` adds the opening of the assistant's turn.

    Raises Refusal where the template raises, or does not show every mark once and in order.
    """
    rest = _render(fast, messages, answer)
    if any(rest.count(word) != 1 for word in marks):
        raise Refusal("the chat template does not show every message once and unchanged")
    pieces = []
    for word in marks:
        piece, separator, rest = rest.partition(word)
        if not separator:
            raise Refusal("the chat template does not show the messages in order")
        pieces.append(piece)
    return [*pieces, rest]


def turn_end(fast: Any) -> str | None:
    """The token with which the template ends the assistant's turn; None where it ends in no token of its own."""
    try:
        *_, after = around(fast, [("user", mark(0)), ("assistant", mark(1))], [mark(0), mark(1)], answer=False)
    except Refusal:
        return None
    after = after.lstrip()
    tokens = (token.content for token in fast.added_tokens_decoder.values())
    return max((token for token in tokens if after.startswith(token)), key=len, default=None)


def opening(fast: Any) -> str:
    """What stands between a message of the user and the assistant's answer."""
    return around(fast, [("user", mark(0))], [mark(0)])[-1]


def trims(fast: Any) -> bool:
    """Whether the template takes the space around a message away."""
    padded = f"\t{mark(0)}\t"
    return padded not in _render(fast, [("user", padded)], True)


def _render(fast: Any, messages: Sequence[Message], answer: bool) -> str:
    rows = [{"role": role, "content": content} for role, content in messages]
    try:
        template = fast.get_chat_template()
        if "strftime_now" in template:
            template = _SAME_DAY + template
        return str(fast.apply_chat_template(rows, chat_template=template, tokenize=False, add_generation_prompt=answer))
    except Exception as error:  # a program of others raises what it likes
        raise Refusal(f"the chat template raises {str(error) or type(error).__name__!r}") from error
