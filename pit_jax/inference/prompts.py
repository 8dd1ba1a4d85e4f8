"""The one road from text to a batch: prompts in their slots, and answers in theirs, tokenised as in training."""

from collections.abc import Sequence
from itertools import zip_longest

from pit_jax.batch import Triple
from pit_jax.data.features import Arrays, Example, Layout, build, right_padded, round_up
from pit_jax.data.text.chat import Refusal
from pit_jax.data.text.templates import Template
from pit_jax.errors import UserError

SLOTS = 4  # a prompt slot is a multiple of it, so that few shapes are compiled


def check_length(name: str, tokens: int, most: int, *, kind: str) -> None:
    """UserError for a text of more tokens than the models were trained on; `kind` is "a prompt" or "an answer"."""
    if tokens > most:
        raise UserError(
            f"{name} has {tokens} tokens, the models were trained on at most {most}; shorten it ({kind} is never cut)"
        )


def check_texts(template: Template, name: str, prompts: Sequence[str], answers: Sequence[str] = ()) -> None:
    """UserError for texts of others, the prompts or the answers, that could pass for what stands around them."""
    for number, texts in enumerate(zip_longest(prompts, answers, fillvalue=""), 1):
        try:
            template.check(*texts)
        except Refusal as refusal:
            raise UserError(f"{name}: number {number}: {refusal}; change or remove it") from refusal


def prompt_arrays(template: Template, prompts: Sequence[str], *, longest: int, least: int = 0) -> Arrays:
    """Arrays of a PromptBatch (its references empty) for any prompts, in slots of at least `least` tokens.

    Raises:
        UserError: an empty prompt, one that the chat template cannot hold, and one whose policy prompt is over
            `longest` tokens (a prompt is never cut); it names the prompt's number.
    """
    known: dict[str, Example] = {}  # of several answers to one prompt it is tokenised once
    for number, prompt in enumerate(prompts, 1):
        if prompt in known:
            continue
        if not prompt.strip():
            raise UserError(f"prompt {number} is empty; give every row a prompt")
        try:
            known[prompt] = template.example(Triple(prompt, "", ""))
        except Refusal as refusal:
            raise UserError(f"prompt {number}, {prompt[:80]!r}: {refusal}; change or remove it") from refusal
        check_length(f"prompt {number}", len(known[prompt].prompt), longest, kind="a prompt")
    examples = [known[prompt] for prompt in prompts]
    slot = max([least, *(len(ids) for example in examples for ids in (example.prompt, example.prefix))])
    tokenizer = template.tokenizer
    layout = Layout(
        pad_id=tokenizer.pad_id,
        eos_id=tokenizer.eos_id,
        suffix=tuple(template.improver_suffix),
        row_lengths={},
        prompt_slot=round_up(slot, SLOTS),
        response_slot=1,
    )
    return build("prompts", examples, layout)


def response_arrays(rows: Sequence[Sequence[int]], *, slot: int, pad_id: int) -> Arrays:
    """Arrays of Responses from the tokens of each row, EOS included."""
    tokens_BT, mask_BT = right_padded(rows, slot, pad_id)
    return {"tokens_BT": tokens_BT, "mask_BT": mask_BT}
