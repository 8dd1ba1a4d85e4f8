"""The one sequence layout: how prompts and answers become tokens, and where an answer begins and ends.

    policy prompt(x)          = head + x + <answer>
    improver prompt(x, y_ref) = head + x + <reference> + y_ref + <improve>        (prefix + y_ref + suffix)

Where a tokenizer has a chat template, that writes the turns of x (data/text/transcripts.py); the reference stands in
the last message, between words that ask for a better answer (`improver_messages`). What lies between two special tokens
is tokenised as one string, so the ids of a policy prompt are those of `apply_chat_template` on the same messages, but
for contents that spell a special token: they never become one.

y_ref and the answer are tokens of their own, as a model draws them: rewards and references never leave the device. So
an improver prompt is cut on both sides of y_ref, where words of ours stand at which tokenizers cut anyway: a line break
before it, a space and a bracket behind it. Its ids are those of `apply_chat_template` on `improver_messages`, but where
y_ref begins or ends with white space, or where the tokenizer puts a space in front of answers that the template begins
without one.
"""

import functools
import itertools
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Literal, NamedTuple

from pit_jax.batch import Triple
from pit_jax.data.features import Example
from pit_jax.data.text import chat
from pit_jax.data.text.tokenizers import ANSWER, IMPROVE, REFERENCE, Tokenizer
from pit_jax.data.text.transcripts import Message, messages_of, readable
from pit_jax.errors import UserError

REFERENCE_WORDS = "\n\nHere is a reference answer:\n"
IMPROVE_WORDS = " [end of the reference answer]\n\nWrite a better answer than the reference."

Run = tuple[int, ...]  # constant tokens
Place = Literal[
    "backend", "follows", "inside", "texts"
]  # of text in a sequence: the field of Tokenizer that encodes it


class Text(NamedTuple):
    """What is tokenised as one string."""

    place: Place
    words: str


@dataclass(frozen=True)
class Span:
    """A Text of some shape of x: words of the template, and the numbers of texts of x."""

    place: Place
    parts: tuple[str | int, ...]

    def filled(self, texts: Sequence[str]) -> Text:
        """With the texts of an x."""
        return Text(self.place, "".join(texts[part] if isinstance(part, int) else part for part in self.parts))


@dataclass(frozen=True)
class Form:
    """How the prompts of one shape of x are made."""

    policy: tuple[Run | Span, ...]
    improver: tuple[Run | Span, ...]  # up to y_ref
    suffix: Run  # between y_ref and the answer


@dataclass(frozen=True)
class Frame:
    """The constant tokens around one message of the user and y_ref, each piece tokenised on its own."""

    policy: tuple[Run, ...]  # before the message, and between it and the answer
    improver: tuple[Run, ...]  # before the message, and between it and y_ref
    suffix: Run  # between y_ref and the answer


def improver_messages(messages: Sequence[Message], reference: str) -> list[Message]:
    """The dialogue that asks for a better answer than `reference`: in the last message of the user, or in one more."""
    role, content = messages[-1]
    asked = REFERENCE_WORDS + reference + IMPROVE_WORDS
    return [*messages[:-1], (role, content + asked)] if role == "user" else [*messages, ("user", asked.lstrip())]


@dataclass(frozen=True)
class Template:
    """Owner of the layout for one tokenizer."""

    tokenizer: Tokenizer

    @cached_property
    def frame(self) -> Frame:
        """That of one message of the user, or of any x without a chat template.

        Raises UserError for a chat template that raises, that does not show the user's message unchanged, or that puts
        an answer elsewhere than behind what asks for one.
        """
        tokenizer = self.tokenizer
        if tokenizer.chat is None:
            head = () if tokenizer.bos_id is None else (tokenizer.bos_id,)
            answer, reference, improve = ((tokenizer.id_of(token),) for token in (ANSWER, REFERENCE, IMPROVE))
            return Frame((head, answer), (head, reference), improve)
        try:
            policy, improver = _cuts(tokenizer, chat.shape_of([("user", "x")])[0])
        except chat.Refusal as refusal:
            raise UserError(
                f"tokenizer folder {tokenizer.chat.name_or_path}: asked its chat template for one message of the "
                f"user; {refusal}, so it cannot hold a prompt; change chat_template, or remove it to use plain "
                "separators"
            ) from refusal
        _check_answer_place(tokenizer)
        runs = [tuple(tokenizer.encode_markup(piece, begins=i == 0)) for i, piece in enumerate(improver.pieces)]
        return Frame(
            tuple(tuple(tokenizer.encode_markup(piece, begins=i == 0)) for i, piece in enumerate(policy.pieces)),
            tuple(runs[:-1]),
            runs[-1],
        )

    @property
    def improver_suffix(self) -> list[int]:
        """What stands between the reference and the answer; the same for every example."""
        return list(self.frame.suffix)

    @cached_property
    def frame_length(self) -> int:
        """Tokens of a policy prompt of one message without a text."""
        return len(self.policy_prompt(""))

    def pieces(self, x: str) -> tuple[list[Run | Text], list[Run | Text]]:
        """The pieces of (a policy prompt, an improver prompt up to y_ref): constant tokens, and texts to tokenise.

        Raises Refusal, a UserError, where the chat template cannot hold x.
        """
        if self.tokenizer.chat is None:
            (head, answer), (_, reference) = self.frame.policy, self.frame.improver
            text = Text("texts", readable(x))
            return [head, text, answer], [head, text, reference]
        shape, texts = chat.shape_of(messages_of(x))
        form = self._form(shape)
        policy, improver = (
            [piece.filled(texts) if isinstance(piece, Span) else piece for piece in pieces]
            for pieces in (form.policy, form.improver)
        )
        return policy, improver

    def policy_prompt(self, x: str) -> list[int]:
        """Everything the policy sees before its answer. Raises Refusal as `pieces`."""
        return self._joined(self.pieces(x)[0])

    def improver_prefix(self, x: str) -> list[int]:
        """Everything the improver sees before the reference. Raises Refusal as `pieces`."""
        return self._joined(self.pieces(x)[1])

    def example(self, triple: Triple) -> Example:
        """A triple as tokens, in training as in inference. Raises Refusal as `pieces`."""
        policy, improver = map(self._joined, self.pieces(triple.prompt))
        return Example(policy, improver, self.response(triple.chosen), self.response(triple.rejected), triple.margin)

    def response(self, y: str) -> list[int]:
        """Tokens of an answer, or of a reference; no EOS."""
        return self.tokenizer.encode(y)

    def text(self, response_ids: Sequence[int]) -> str:
        """Text of an answer's tokens up to its first EOS."""
        return self.tokenizer.decode(response_ids)

    def check(self, x: str, *answers: str) -> None:
        """Refusal for texts of others that hold words by which a turn, or the reference, is told from its neighbours.

        Special tokens cannot be spelled; these are the words of a chat template, or ours, that stand alone.
        """
        around_x, behind_answers = self._marks
        for name, texts, marks in (("a message", self._contents(x), around_x), ("an answer", answers, behind_answers)):
            for words in marks:
                if any(words in text for text in texts):
                    raise chat.Refusal(f"{name} holds {words!r}, which tells the parts of a prompt apart")

    def _contents(self, x: str) -> list[str]:
        return [] if self.tokenizer.chat is None else [content for _, content in messages_of(x)]

    @cached_property
    def _marks(self) -> tuple[set[str], set[str]]:
        """Words that x must not hold, and those that an answer must not: between texts, without a special token."""
        if self.tokenizer.chat is None:
            return set(), set()
        between, last = set[str](), set[str]()
        for roles in (("user",), ("user", "assistant", "user")):
            try:
                policy, improver = _cuts(self.tokenizer, chat.shape_of([(role, "x") for role in roles])[0])
            except chat.Refusal:
                continue
            between |= {*policy.pieces[1:], *improver.pieces[1:]}
            last.add(improver.pieces[-1])
        alone = {
            words.strip() for words in between if all(isinstance(p, str) for p in self.tokenizer.split_markup(words))
        }
        return alone - {""}, (alone & {words.strip() for words in last}) - {""}

    def _form(self, shape: chat.Shape) -> Form:
        suffix, form_or_reason = self.frame.suffix, _form(self.tokenizer, shape)
        if isinstance(form_or_reason, str):
            raise chat.Refusal(f"{form_or_reason} (roles {', '.join(role for role, _ in shape)})")
        if form_or_reason.suffix != suffix:
            raise UserError(
                f"tokenizer folder {self.tokenizer.chat.name_or_path}: what its chat template writes between the last "
                f"message and the answer is not the same after the roles {', '.join(role for role, _ in shape)} as "
                "after one message; change chat_template, or remove it to use plain separators"
            )
        return form_or_reason

    def _joined(self, pieces: Sequence[Run | Text]) -> list[int]:
        return [token for piece in pieces for token in _ids(self.tokenizer, piece)]


def _check_answer_place(tokenizer: Tokenizer) -> None:
    """UserError where an answer behind its prompt is not what the chat template makes of the whole dialogue."""
    places = chat.answer_places(tokenizer.chat)
    if places is None or places[0] == places[1]:
        return
    asked, before = places
    ours = [*tokenizer.encode_markup(asked), *tokenizer.encode("yes")]
    if asked.split() == before.split() and ours == tokenizer.encode_markup(before + "yes"):
        return  # the space that the tokenizer puts in front of an answer is written out
    ours_and_theirs = (repr(words.replace(chat.mark(0), "PROMPT") + "ANSWER") for words in places)
    raise UserError(
        f"tokenizer folder {tokenizer.chat.name_or_path}: its chat template asks for an answer with "
        f"{' but writes one as '.join(ours_and_theirs)}: trained on the first, a model would answer elsewhere than the "
        "template puts answers; change chat_template, or its arguments (--tokenizer.template-arguments), so that the "
        "two agree"
    )


def _cuts(tokenizer: Tokenizer, shape: chat.Shape) -> tuple[chat.Cut, chat.Cut]:
    """(a policy prompt, an improver prompt) of a shape, cut at the texts of x, and at y_ref last. Raises Refusal."""
    messages, count = chat.marked(shape), sum(part is None for _, parts in shape for part in parts)
    without = chat.dropped(shape)
    asked = improver_messages(messages, chat.mark(count))
    return (
        chat.cut(tokenizer.chat, messages, answer=True, all_but=without),
        chat.cut(tokenizer.chat, asked, answer=True, all_but=without),
    )


@functools.lru_cache(maxsize=4096)
def _form(tokenizer: Tokenizer, shape: chat.Shape) -> Form | str:
    """The form of a shape, or why the chat template has none."""
    try:
        policy, improver = _cuts(tokenizer, shape)
    except chat.Refusal as refusal:
        return str(refusal)
    *before, suffix = improver.pieces
    return Form(
        tuple(_spans(tokenizer, policy.pieces, policy.numbers)),
        tuple(_spans(tokenizer, before, improver.numbers[:-1])),
        tuple(tokenizer.encode_markup(suffix, begins=False)),
    )


def _spans(tokenizer: Tokenizer, words: Sequence[str], numbers: Sequence[int]) -> list[Run | Span]:
    """`words` of a template with the texts `numbers` between them, cut at their special tokens."""
    parts = list[tuple[bool, int | str]]()  # (is a special token, what)
    for piece, number in itertools.zip_longest(words, numbers):
        parts += [(isinstance(part, int), part) for part in tokenizer.split_markup(piece)]
        if number is not None:
            parts.append((False, number))
    spans = list[Run | Span]()
    place: Place = "backend"
    for is_special, group in itertools.groupby(parts, key=lambda part: part[0]):
        pieces = tuple(part for _, part in group)
        if is_special:
            spans.append(tuple(part for part in pieces if isinstance(part, int)))
            place = "follows"
        else:
            span = Span(place, pieces)
            is_constant = all(isinstance(part, str) for part in pieces)
            spans.append(tuple(_ids(tokenizer, span.filled(()))) if is_constant else span)
    return spans


def _ids(tokenizer: Tokenizer, piece: Run | Text) -> Sequence[int]:
    if not isinstance(piece, Text):
        return piece
    ids: list[int] = getattr(tokenizer, piece.place).encode(piece.words, add_special_tokens=False).ids
    return ids
