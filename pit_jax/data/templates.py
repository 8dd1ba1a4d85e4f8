"""The one sequence layout: how prompts and answers become tokens, and where an answer begins and ends.

    policy prompt(x)          = head + x + <answer>
    improver prompt(x, y_ref) = head + x + <reference> + y_ref + <improve>        (prefix + y_ref + suffix)

Every piece is tokenised on its own, so the tokens of a text do not depend on its neighbours: what is trained on,
generated from and scored is the same sequence. A tokenizer with a chat template frames the same pieces with it.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from pit_jax.data.tokenizers import ANSWER, IMPROVE, REFERENCE, Tokenizer

REFERENCE_WORDS = "\n\nHere is a reference answer:\n"
IMPROVE_WORDS = "\n\nWrite a better answer than the reference."
_PROMPT_MARK, _REFERENCE_MARK = "PITJAXPROMPT", "PITJAXREFERENCE"


@dataclass(frozen=True)
class Frame:
    """The constant tokens around x and y_ref."""

    policy_head: tuple[int, ...]
    policy_tail: tuple[int, ...]
    improver_head: tuple[int, ...]
    improver_middle: tuple[int, ...]
    improver_suffix: tuple[int, ...]


@dataclass(frozen=True)
class Template:
    """Owner of the layout for one tokenizer."""

    tokenizer: Tokenizer

    @cached_property
    def frame(self) -> Frame:
        """Raises ValueError for a chat template that does not show the user's message unchanged."""
        return _plain_frame(self.tokenizer) if self.tokenizer.chat is None else _chat_frame(self.tokenizer)

    @property
    def improver_suffix(self) -> list[int]:
        """What stands between the reference and the answer; the same for every example."""
        return list(self.frame.improver_suffix)

    def policy_prompt(self, x: str) -> list[int]:
        """Everything the policy sees before its answer."""
        return self.policy_prompt_of(self.tokenizer.encode(x))

    def improver_prefix(self, x: str) -> list[int]:
        """Everything the improver sees before the reference."""
        return self.improver_prefix_of(self.tokenizer.encode(x))

    def policy_prompt_of(self, x_ids: Sequence[int]) -> list[int]:
        """`policy_prompt` of an x that is already tokenised."""
        return [*self.frame.policy_head, *x_ids, *self.frame.policy_tail]

    def improver_prefix_of(self, x_ids: Sequence[int]) -> list[int]:
        """`improver_prefix` of an x that is already tokenised."""
        return [*self.frame.improver_head, *x_ids, *self.frame.improver_middle]

    def response(self, y: str) -> list[int]:
        """Tokens of an answer, or of a reference; no EOS."""
        return self.tokenizer.encode(y)

    def text(self, response_ids: Sequence[int]) -> str:
        """Text of an answer's tokens up to its first EOS."""
        return self.tokenizer.decode(response_ids)


def response_span(tokens_BT: Any, eos_id: int) -> Any:
    """Bool mask [.., T] of the answer in a response slot [.., T]: up to and including the first EOS, all T without one.

    Takes and gives NumPy or JAX arrays; the answer begins at slot 0.
    """
    ended_BT = (tokens_BT == eos_id).astype("int32")
    return ended_BT.cumsum(axis=-1) - ended_BT == 0


def _plain_frame(tokenizer: Tokenizer) -> Frame:
    head = () if tokenizer.bos_id is None else (tokenizer.bos_id,)
    answer, reference, improve = ((tokenizer.id_of(token),) for token in (ANSWER, REFERENCE, IMPROVE))
    return Frame(head, answer, head, reference, improve)


def _chat_frame(tokenizer: Tokenizer) -> Frame:
    policy = _render(tokenizer, _PROMPT_MARK, [_PROMPT_MARK])
    content = _PROMPT_MARK + REFERENCE_WORDS + _REFERENCE_MARK + IMPROVE_WORDS
    improver = _render(tokenizer, content, [_PROMPT_MARK, _REFERENCE_MARK])
    pieces = [tuple(tokenizer.encode_markup(piece)) for piece in (*policy, *improver)]
    return Frame(*pieces)


def _render(tokenizer: Tokenizer, content: str, marks: Sequence[str]) -> list[str]:
    """The chat template around a user message, cut at `marks`."""
    message = [{"role": "user", "content": content}]
    rest = tokenizer.chat.apply_chat_template(message, tokenize=False, add_generation_prompt=True)
    pieces = []
    for mark in marks:
        if rest.count(mark) != 1:
            raise ValueError(
                "the tokenizer's chat template does not show a user message once and unchanged, so it cannot hold "
                "a prompt; change chat_template, or remove it to use plain separators"
            )
        piece, _, rest = rest.partition(mark)
        pieces.append(piece)
    return [*pieces, rest]
