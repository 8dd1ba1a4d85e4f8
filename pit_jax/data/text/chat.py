"""What a chat template writes around the texts of a dialogue, where it puts the answer, and how it ends a turn.

A template is a program that came with a tokenizer. It is run on marks in place of the texts, once for a shape of
dialogue, so that no text can change what stands around it. The shape is what a template looks at: roles, the space
around a content, whether there is a content, and the <think> tags of the assistant's turns.
"""

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from pit_jax.data.text.bounded import bounded
from pit_jax.data.text.transcripts import Message
from pit_jax.errors import UserError

# A template that asks for the day would write another prompt tomorrow. This is the day that Llama 3 falls back to.
_DAY = datetime(2024, 7, 26)
LONGEST = 5.0  # seconds of a template, which take thousandths
_DIRECTIVES = "".join(f" | replace('%{letter}', '{_DAY.strftime('%' + letter)}')" for letter in "aAbBdHmMSyY")
_SAME_DAY = f"{{% macro strftime_now(format) %}}{{{{ format{_DIRECTIVES} }}}}{{% endmacro %}}\n"
_GIVEN = ("messages", "add_generation_prompt")  # to every rendering
_TAG = re.compile(r"(</?think>)")
_NO_THOUGHT = re.compile(r"<think>\s*</think>\s*")
_MARK = re.compile(r"PITJAX(\d+)TEXT")
_TURNS: tuple[tuple[str, ...], ...] = (("user",), ("system", "user"), ("user", "assistant", "user"))

Shape = tuple[tuple[str, tuple[str | None, ...]], ...]  # role, and its content with None for each text


class Refusal(UserError):
    """A chat template that cannot hold these messages; the text is why."""


@dataclass(frozen=True)
class Cut:
    """A rendering cut at its texts: `pieces` of the template, and the number of the text behind each but the last."""

    pieces: tuple[str, ...]
    numbers: tuple[int, ...]


def mark(number: int) -> str:
    """What stands for text `number`: a word that no template writes, none in another."""
    return f"PITJAX{number}TEXT"


def shape_of(messages: Sequence[Message]) -> tuple[Shape, list[str]]:
    """(shape, texts) of messages: what a template may look at, and what it must not."""
    shape, texts = list[tuple[str, tuple[str | None, ...]]](), list[str]()
    for number, (role, content) in enumerate(messages):
        parts = list[str | None]()
        for piece in _TAG.split(content) if role == "assistant" else [content]:  # text, tag, text, ..
            text = piece.strip()
            if not text or role == "assistant" and _TAG.fullmatch(piece):
                parts.append(piece)
                continue
            before, _, after = piece.partition(text)
            parts += (before, None, after)
            texts.append(text)
        if number + 1 == len(messages) and not content.strip():
            parts, texts = [None], [*texts, content]  # the last message is always a text
        shape.append((role, tuple(part for part in parts if part != "")))
    return tuple(shape), texts


def marked(shape: Shape) -> list[Message]:
    """The messages of a shape, with a mark for each text."""
    messages, number = list[Message](), 0
    for role, parts in shape:
        words = []
        for part in parts:
            words.append(mark(number) if part is None else part)
            number += part is None
        messages.append((role, "".join(words)))
    return messages


def dropped(shape: Shape) -> set[int]:
    """The texts that a template may leave out: those inside the thoughts of the assistant's turns."""
    numbers, number = set[int](), 0
    for role, parts in shape:
        for index, part in enumerate(parts):
            if part is None:
                ends = any(later is not None and "</think>" in later for later in parts[index:])
                numbers |= {number} if role == "assistant" and ends else set()
                number += 1
    return numbers


def cut(fast: Any, messages: Sequence[Message], *, answer: bool, all_but: set[int] | None = None) -> Cut:
    """The rendering of messages with marks, cut at these; `answer` adds the opening of the assistant's turn.

    Raises Refusal where the template raises, or does not show every mark once and in order; those of `all_but` may be
    missing.
    """
    split = _MARK.split(_render(fast, messages, answer))
    numbers = [int(number) for number in split[1::2]]
    asked = {int(number) for _, content in messages for number in _MARK.findall(content)}
    if len(numbers) != len(set(numbers)) or asked - set(numbers) - (all_but or set()):
        raise Refusal("the chat template does not show every message once and unchanged")
    if numbers != sorted(numbers):
        raise Refusal("the chat template does not show the messages in order")
    return Cut(tuple(split[::2]), tuple(numbers))


def turn_end(fast: Any) -> str | None:
    """The token with which the template ends the assistant's turn; None where it ends in no token of its own."""
    try:
        after = cut(fast, _asked("user", "assistant"), answer=False).pieces[-1].lstrip()
    except Refusal:
        return None
    tokens = (token.content for token in fast.added_tokens_decoder.values())
    return max((token for token in tokens if after.startswith(token)), key=len, default=None)


def opening(fast: Any) -> str:
    """What stands between a message of the user and the assistant's answer."""
    return cut(fast, _asked("user"), answer=True).pieces[-1]


def controls(fast: Any) -> set[str]:
    """The tokens that tell turns apart: those that the template writes around texts, <think> tags left out."""
    written = ""
    for roles in _TURNS:
        try:
            written += "".join(cut(fast, _asked(*roles), answer=False).pieces)
        except Refusal:
            continue
    names = (token.content for token in fast.added_tokens_decoder.values())
    return {name for name in names if name in written and re.fullmatch(r"[<\[].+[>\]]", name) and "think>" not in name}


def answer_places(fast: Any) -> tuple[str, str] | None:
    """(what asks for an answer, what stands before one in a whole dialogue); None where a template shows no answer.

    An empty block of thoughts is left out of the second: models that may think are taught answers without one.
    """
    asked = _render(fast, _asked("user"), True)
    try:
        before = mark(0).join(cut(fast, _asked("user", "assistant"), answer=False).pieces[:2])
    except Refusal:
        return None
    rest = before.removeprefix(asked)
    return asked, asked if _NO_THOUGHT.fullmatch(rest) else before


def fixed(template: str, arguments: Mapping[str, Any]) -> str:
    """A template that always shows the same day and is given `arguments`: whoever renders it gets the same text.

    Raises UserError for an argument that it does not read.
    """
    for name in arguments:
        if not name.isidentifier() or name in _GIVEN or not re.search(rf"\b{name}\b", template):
            raise UserError(f"tokenizer.template_arguments names {name!r}, which the chat template does not read")
    given = "".join(f"{{% set {name} = {value!r} %}}\n" for name, value in arguments.items())
    day = _SAME_DAY if "strftime_now" in template and _SAME_DAY not in template else ""
    return day + given + template


def arguments_of(words: Sequence[str]) -> dict[str, Any]:
    """Template arguments written NAME=VALUE; a value that is JSON is what it says, any other a string."""
    arguments = {}
    for word in words:
        name, equals, value = word.partition("=")
        if not equals:
            raise UserError(f"tokenizer.template_arguments are written NAME=VALUE, found {word!r}")
        try:
            arguments[name] = json.loads(value)
        except ValueError:
            arguments[name] = value
    return arguments


def _asked(*roles: str) -> list[Message]:
    return [(role, mark(number)) for number, role in enumerate(roles)]


def _render(fast: Any, messages: Sequence[Message], answer: bool) -> str:
    rows = [{"role": role, "content": content} for role, content in messages]
    try:
        asked = {"tokenize": False, "add_generation_prompt": answer}
        return bounded(lambda: str(fast.apply_chat_template(rows, **asked)), LONGEST)
    except TimeoutError as error:
        raise Refusal(f"the chat template does not end within {LONGEST:g} s") from error
    except Exception as error:  # a program of others raises what it likes
        raise Refusal(f"the chat template raises {str(error) or type(error).__name__!r}") from error
