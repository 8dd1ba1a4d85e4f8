"""What a row of each known layout means: from its columns to a Triple, or the reason why it gives none."""

import bisect
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from pit_jax.batch import Triple
from pit_jax.data.text.row import Row, Unusable
from pit_jax.data.text.transcripts import SPEAKERS, TURN, Message, message_list, stored
from pit_jax.data.worlds.world import World
from pit_jax.errors import UserError
from pit_jax.table import Table

LARGEST_MARGIN = 1e30  # a number beyond it is not finite in float32, sooner or later
_ANSWERS = (("chosen", "rejected"), ("answer",), ("completion",))
_LISTS = ("prompt", "messages", *(name for names in _ANSWERS for name in names))
TLDR = "TL;DR:"  # asks for a summary, as the last word of a prompt


def pairs(row: Row) -> Triple:
    """TRL's columns: `prompt`, `chosen`, `rejected`, and maybe a number `margin`.

    In rows without the column, the prompt is what the answers share; one that is null is missing.

    Each text is a string or a list of {role, content}. A list may hold the whole dialogue; its last message is the
    answer. Prompts of messages keep them (data/text/transcripts.py). Other columns are ignored.
    """
    _need(row, "chosen", "rejected")
    margin = _margin(row.get("margin"))
    if shares_prompt(row):
        prompt, chosen, rejected = _shared_prompt(_text(row, "chosen"), _text(row, "rejected"))
    else:
        (head, chosen), (other, rejected) = _dialogue(row, "chosen"), _dialogue(row, "rejected")
        prompt = _prompt(row, head, other)
    for name, text in (("prompt", prompt), ("chosen", chosen), ("rejected", rejected)):
        if not text.strip():
            raise Unusable(f"{name} is empty", "every pair needs a prompt and two answers")
    if chosen.strip() == rejected.strip():
        raise Unusable("chosen and rejected are the same text", "a pair needs two different answers")
    return Triple(prompt, chosen, rejected, margin)


def shares_prompt(row: Row) -> bool:
    """Whether the prompt of `pairs` is what two strings share: sources.py asks for one rule in a whole source."""
    return "prompt" not in row and all(isinstance(row.get(name), str) for name in ("chosen", "rejected"))


def of_world(world: World) -> Callable[[Row], Triple]:
    """`pairs` whose prompts are those of a world, so that the truth about any answer is known."""

    def parse(row: Row) -> Triple:
        triple = pairs(row)
        try:
            world.score(triple.prompt, triple.chosen)
        except UserError:
            raise Unusable(f"prompt is none of the world {world.name}", f"found {triple.prompt[:80]!r}") from None
        return triple

    return parse


def hh(row: Row) -> Triple:
    """HH-RLHF: whole dialogues `chosen` and `rejected`; the prompt ends with the last "\\n\\nAssistant:" they share."""
    _need(row, "chosen", "rejected")
    (prompt, turn, chosen), (other, _, rejected) = (
        _text(row, name).rpartition(TURN) for name in ("chosen", "rejected")
    )
    if not turn or not prompt.strip():
        raise Unusable("no prompt before the last assistant turn", known=True)
    if prompt != other:
        raise Unusable("dialogues differ before the last assistant turn", known=True)
    return _two_answers(prompt + turn, chosen, rejected)


def tldr(row: Row) -> Triple:
    """CarperAI/openai_summarize_comparisons: a post `prompt` and two summaries that begin with "TL;DR:".

    The mark goes to the end of the prompt, where it asks for a summary; it may be there already.
    """
    prompt, chosen, rejected = _texts(row)
    summaries = (text.strip().removeprefix(TLDR) for text in (chosen, rejected))
    return _two_answers(f"{prompt.strip().removesuffix(TLDR).rstrip()}\n{TLDR}", *summaries)


def ultrafeedback(row: Row) -> Triple:
    """HuggingFaceH4/ultrafeedback_binarized: `chosen` and `rejected` are message lists that share all but the last.

    A prompt of one user message is its text. The two scores are not used: they say who won, which the columns do too.
    """
    _need(row, "chosen", "rejected")
    (head, chosen), (other, rejected) = _dialogue(row, "chosen"), _dialogue(row, "rejected")
    if head != other:
        raise Unusable("dialogues differ before the last assistant turn", known=True)
    if not head or not head[-1][1].strip():
        raise Unusable("no prompt before the last assistant turn", known=True)
    return _two_answers(_stored(head), chosen, rejected)


def synthetic_instruct(row: Row) -> Triple:
    """Dahoas/synthetic-instruct-gptj-pairwise: three strings."""
    return _two_answers(*_texts(row))


def asked(row: Row) -> tuple[str, str | None]:
    """(prompt, answer or None) of a row that asks for an improvement.

    `prompt` and, where there is one to improve, `answer` (TRL calls it `completion`): strings or lists of {role,
    content}. Or `messages` alone: a dialogue whose last message is the user's, or the assistant's answer.
    """
    if row.get("messages") is not None:
        messages = _messages("messages", _list(row, "messages"))
        answer = messages.pop()[1] if messages and messages[-1][0] == "assistant" else None
        return _stored(messages), _written(answer)
    _need(row, "prompt")
    prompt = row["prompt"]
    text = _stored(_messages("prompt", prompt)) if isinstance(prompt, list) else _text(row, "prompt")
    if not text.strip():
        raise Unusable("prompt is empty", "every row needs a prompt")
    column = "answer" if row.get("answer") is not None else "completion"
    if row.get(column) is None:
        return text, None
    before, answer = _dialogue(row, column)
    if before:
        raise Unusable(f"{column} holds more than the assistant's message", "put the dialogue into prompt, or messages")
    return text, _written(answer)


def with_lists(row: Row) -> Row:
    """`row` with message lists where its columns hold them as JSON strings; itself where they hold none.

    The rule: `prompt` and `messages` are read wherever they are such a string. An answer is where its last message is
    the assistant's; `chosen` and `rejected` both are, or neither: one of the two alone is an answer written in JSON.
    """
    texts = {name: row[name] for name in _LISTS if isinstance(row.get(name), str)}
    lists = {name: found for name, text in texts.items() if (found := message_list(text))}
    for answers in _ANSWERS:
        if any(name not in lists or lists[name][-1]["role"] != "assistant" for name in answers):
            lists = {name: found for name, found in lists.items() if name not in answers}
    return row | lists if lists else row


def _written(answer: str | None) -> str | None:
    if answer is not None and not answer.strip():
        raise Unusable("answer is empty", "leave the column out to let the policy answer first")
    return answer


def _list(row: Row, name: str) -> list[Any]:
    if not isinstance(row[name], list):
        raise Unusable(f"{name} must be a list of {{role, content}}", f"found {type(row[name]).__name__}")
    messages: list[Any] = row[name]
    return messages


@dataclass(frozen=True)
class Layout:
    """What a row means, by the name that --data.sources LAYOUT:LOCATION calls it."""

    name: str
    parse: Callable[[Row], Triple]
    """parse(row) -> Triple, or raises Unusable(reason)."""
    examples: tuple[Row, ...] = ()
    """Rows that it gives a Triple for; a fork's are tried by `pit_jax.fork check`."""


LAYOUTS: Table[Layout] = Table(
    "layout",
    Layout("pairs", pairs),
    Layout("jsonl", pairs),  # its old name
    Layout("hh", hh),
    Layout("tldr", tldr),
    Layout("ultrafeedback", ultrafeedback),
    Layout("synthetic_instruct", synthetic_instruct),
)


def _two_answers(prompt: str, chosen: str, rejected: str) -> Triple:
    """Of a public data set, which holds a few rows without a prompt or two different answers."""
    chosen, rejected = chosen.strip(), rejected.strip()
    if not prompt.strip():
        raise Unusable("empty prompt", known=True)
    if not chosen or not rejected:
        raise Unusable("empty answer", known=True)
    if chosen == rejected:
        raise Unusable("chosen equals rejected", known=True)
    return Triple(prompt, chosen, rejected)


def _shared_prompt(chosen: str, rejected: str) -> tuple[str, str, str]:
    """Prompt and answers of two texts: the words they share at the start, and the rest.

    As in TRL a space at the cut goes to the answers. Where the answers part inside a word TRL cuts there too; here the
    whole word is theirs.
    """
    shorter = min(len(chosen), len(rejected))
    common = bisect.bisect_left(range(1, shorter + 1), True, key=lambda end: chosen[:end] != rejected[:end])
    shared = chosen[:common]
    if shared and not shared[-1].isspace():
        common -= len(shared.rsplit(maxsplit=1)[-1])
    if chosen[:common].endswith(" "):
        common -= 1
    if not chosen[:common].strip():
        raise Unusable("no prompt", "without a prompt column chosen and rejected must begin with the same words")
    return chosen[:common], chosen[common:], rejected[common:]


def _prompt(row: Row, head: Sequence[Message], other: Sequence[Message]) -> str:
    """The prompt as one text; messages before an answer must repeat it, or be it where there is no prompt column."""
    prompt = row.get("prompt")
    if prompt is None:
        if not isinstance(row["chosen"], list) or not isinstance(row["rejected"], list):
            _need(row, "prompt", "chosen", "rejected")
        if head != other:
            raise Unusable("without a prompt, chosen and rejected must share all messages but the last")
        return _stored(head)
    if isinstance(prompt, list):
        turns = _messages("prompt", prompt)
        text = _stored(turns)
    else:
        text = _text(row, "prompt")
        turns = [("user", text)]
    for name, before in (("chosen", head), ("rejected", other)):
        if before and before != turns:
            raise Unusable(f"the messages of {name} before its answer differ from the prompt")
    return text


def _need(row: Row, *columns: str) -> None:
    missing = [name for name in columns if row.get(name) is None]
    if missing:
        present = ", ".join(sorted(name for name, value in row.items() if value is not None)) or "none"
        names = f"column{'s' * (len(missing) > 1)} {', '.join(missing)}"
        raise Unusable(f"missing {names}", f"found {present}; needed {', '.join(columns)}")


def _margin(value: Any) -> float:
    if value is None:
        return 0.0
    if isinstance(value, bool) or not isinstance(value, int | float) or not abs(value) <= LARGEST_MARGIN:
        raise Unusable("margin is not a finite number", f"found {value!s:.80}")
    return float(value)


def _texts(row: Row) -> tuple[str, str, str]:
    _need(row, "prompt", "chosen", "rejected")
    return _text(row, "prompt"), _text(row, "chosen"), _text(row, "rejected")


def _text(row: Row, name: str) -> str:
    value = row[name]
    if not isinstance(value, str):
        raise Unusable(f"{name} must be a string", f"found {type(value).__name__}")
    return _valid(name, value)


def _valid(name: str, text: str) -> str:
    try:
        text.encode()
    except UnicodeEncodeError as error:
        raise Unusable(f"{name} holds half a surrogate pair, which is not valid Unicode") from error
    return text


def _dialogue(row: Row, name: str) -> tuple[list[Message], str]:
    """Messages before the answer (none for a plain string) and the answer."""
    value = row[name]
    if isinstance(value, str):
        return [], _valid(name, value)
    if not isinstance(value, list):
        raise Unusable(f"{name} must be a string or a list of {{role, content}}", f"found {type(value).__name__}")
    messages = _messages(name, value)
    if not messages or messages[-1][0] != "assistant":
        raise Unusable(f"{name} must end with an assistant message")
    return messages[:-1], messages[-1][1]


def _messages(name: str, value: list[Any]) -> list[Message]:
    """(role, content) of a message list."""
    messages = []
    for message in value:
        if not isinstance(message, dict) or not {"role", "content"} <= message.keys():
            raise Unusable(f"every message of {name} needs role and content", f"found {message!s:.80}")
        role, content = message["role"], message["content"]
        if not isinstance(role, str) or role not in SPEAKERS:
            raise Unusable(f"{name} has an unknown role", f"found {role!r:.80}; roles are {', '.join(SPEAKERS)}")
        if not isinstance(content, str):
            raise Unusable(f"content of {name} must be a string", f"found {type(content).__name__}")
        messages.append((role, _valid(f"content of {name}", content)))
    return messages


def _stored(messages: Sequence[Message]) -> str:
    """The prompt of a dialogue, which the assistant answers: it ends with what the user or the assistant said last."""
    if not messages or messages[-1][0] == "system":
        raise Unusable("the prompt must end with a message of the user or the assistant")
    if not messages[-1][1].strip():
        raise Unusable("prompt is empty", "every pair needs a prompt and two answers")
    return stored(messages)
