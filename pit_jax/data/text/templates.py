"""The one sequence layout: how prompts and answers become tokens, and where an answer begins and ends.

    policy prompt(x)          = head + x + <answer>
    improver prompt(x, y_ref) = head + x + <reference> + y_ref + <improve>        (prefix + y_ref + suffix)

Every piece is tokenised on its own, so the tokens of a text do not depend on its neighbours: what is trained on,
generated from and scored is the same sequence.

A tokenizer with a chat template frames the turns of x (data/transcripts.py) with it instead, each content a piece of
its own; the reference stands inside the last message, between words that ask for a better answer. The ids of a policy
prompt are those of `apply_chat_template` on the same messages wherever a special token or a line break stands on both
sides of a content. Elsewhere ("[INST] hello") a tokenizer that joins a space to the next word cuts differently, and so
may one that joins line breaks with punctuation where a content begins or ends with them, or at the words around y_ref.
"""

import functools
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property

from pit_jax.batch import Triple
from pit_jax.data.features import Example
from pit_jax.data.text import chat
from pit_jax.data.text.tokenizers import ANSWER, IMPROVE, REFERENCE, Tokenizer
from pit_jax.data.text.transcripts import Message, messages_of
from pit_jax.errors import UserError

REFERENCE_WORDS = "\n\nHere is a reference answer:\n"
IMPROVE_WORDS = "\n\nWrite a better answer than the reference."
_REFERENCE_MARK = "PITJAXREFERENCE"

Run = tuple[int, ...]  # constant tokens


@dataclass(frozen=True)
class Frame:
    """The constant tokens around the contents of x, here n of them, and around y_ref."""

    policy: tuple[Run, ...]  # n + 1: before each content, and between the last one and the answer
    improver: tuple[Run, ...]  # n + 1: before each content, and between the last one and y_ref
    suffix: Run  # between y_ref and the answer


@dataclass(frozen=True)
class Template:
    """Owner of the layout for one tokenizer."""

    tokenizer: Tokenizer

    @cached_property
    def frame(self) -> Frame:
        """That of one message of the user, or of any x without a chat template.

        Raises UserError for a chat template that raises, or does not show the user's message unchanged.
        """
        if self.tokenizer.chat is None:
            return _plain_frame(self.tokenizer)
        frame_or_reason = _chat_frame(self.tokenizer, ("user",))
        if isinstance(frame_or_reason, str):
            raise UserError(
                f"tokenizer folder {self.tokenizer.chat.name_or_path}: asked its chat template for one message of the "
                f"user; {frame_or_reason}, so it cannot hold a prompt; change chat_template, or remove it to use plain "
                "separators"
            )
        return frame_or_reason

    @property
    def improver_suffix(self) -> list[int]:
        """What stands between the reference and the answer; the same for every example."""
        return list(self.frame.suffix)

    @cached_property
    def frame_length(self) -> int:
        """Constant tokens of a policy prompt of one message."""
        return len(self.policy_prompt(""))

    def contents(self, x: str) -> list[str]:
        """The texts that x brings into a sequence: itself, or those of its messages under a chat template."""
        return [content for _, content in self._messages(x)]

    def framed(self, x: str) -> tuple[Sequence[Run], Sequence[Run], list[str]]:
        """(constant tokens around the contents in a policy prompt, those in an improver prefix, the contents) of x.

        Raises Refusal where the chat template cannot hold x.
        """
        frame = self._frame(x)
        return frame.policy, frame.improver, self.contents(x)

    def policy_prompt(self, x: str, encode: Callable[[str], Sequence[int]] | None = None) -> list[int]:
        """Everything the policy sees before its answer. `encode` gives the tokens of a content (default: tokenise it).

        Raises Refusal, a UserError, where the chat template cannot hold x.
        """
        return self._filled(self._frame(x).policy, x, encode)

    def improver_prefix(self, x: str, encode: Callable[[str], Sequence[int]] | None = None) -> list[int]:
        """Everything the improver sees before the reference; otherwise as `policy_prompt`."""
        return self._filled(self._frame(x).improver, x, encode)

    def example(self, triple: Triple, encode: Callable[[str], Sequence[int]] | None = None) -> Example:
        """A triple as tokens, in training as in inference. `encode` and Refusal as in `policy_prompt`."""
        answer = encode or self.tokenizer.encode
        return Example(
            prompt=self.policy_prompt(triple.prompt, encode),
            prefix=self.improver_prefix(triple.prompt, encode),
            chosen=answer(triple.chosen),
            rejected=answer(triple.rejected),
            margin=triple.margin,
        )

    def response(self, y: str) -> list[int]:
        """Tokens of an answer, or of a reference; no EOS."""
        return self.tokenizer.encode(y)

    def text(self, response_ids: Sequence[int]) -> str:
        """Text of an answer's tokens up to its first EOS."""
        return self.tokenizer.decode(response_ids)

    def _messages(self, x: str) -> tuple[Message, ...]:
        if self.tokenizer.chat is None:
            return (("user", x),)
        messages = messages_of(x)
        return tuple((role, text.strip()) for role, text in messages) if self._trims else messages

    @cached_property
    def _trims(self) -> bool:
        try:
            return chat.trims(self.tokenizer.chat)
        except chat.Refusal:
            return False  # `frame` says what is wrong

    def _frame(self, x: str) -> Frame:
        roles = tuple(role for role, _ in self._messages(x))
        if roles == ("user",):
            return self.frame
        frame_or_reason = _chat_frame(self.tokenizer, roles)
        if isinstance(frame_or_reason, str):
            raise chat.Refusal(f"{frame_or_reason} (roles {', '.join(roles)})")
        if frame_or_reason.suffix != self.frame.suffix:
            raise UserError(
                f"tokenizer folder {self.tokenizer.chat.name_or_path}: what its chat template writes between the last "
                f"message and the answer is not the same after the roles {', '.join(roles)} as after one message; "
                "change chat_template, or remove it to use plain separators"
            )
        return frame_or_reason

    def _filled(self, runs: Sequence[Run], x: str, encode: Callable[[str], Sequence[int]] | None) -> list[int]:
        encode = encode or self.tokenizer.encode
        pieces = (run + tuple(encode(content)) for run, content in zip(runs, self.contents(x), strict=False))
        return [token for piece in (*pieces, runs[-1]) for token in piece]


def _plain_frame(tokenizer: Tokenizer) -> Frame:
    head = () if tokenizer.bos_id is None else (tokenizer.bos_id,)
    answer, reference, improve = ((tokenizer.id_of(token),) for token in (ANSWER, REFERENCE, IMPROVE))
    return Frame((head, answer), (head, reference), improve)


@functools.cache
def _chat_frame(tokenizer: Tokenizer, roles: tuple[str, ...]) -> Frame | str:
    """The frame of a sequence of roles, or why the chat template has none."""
    if roles[-1] != "user":
        return "the last message is not the user's"
    marks = [chat.mark(number) for number in range(len(roles))]
    asked = [*marks[:-1], marks[-1] + REFERENCE_WORDS + _REFERENCE_MARK + IMPROVE_WORDS]
    try:
        policy = chat.around(tokenizer.chat, list(zip(roles, marks, strict=True)), marks)
        improver = chat.around(tokenizer.chat, list(zip(roles, asked, strict=True)), [*marks, _REFERENCE_MARK])
    except chat.Refusal as refusal:
        return str(refusal)
    *before, suffix = _runs(tokenizer, improver)
    return Frame(tuple(_runs(tokenizer, policy)), tuple(before), suffix)


def _runs(tokenizer: Tokenizer, pieces: Sequence[str]) -> list[Run]:
    return [tuple(tokenizer.encode_markup(piece, begins=number == 0)) for number, piece in enumerate(pieces)]
