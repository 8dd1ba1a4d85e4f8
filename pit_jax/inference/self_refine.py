"""Self-Refine (arXiv 2303.17651, the dialogue task): a model reviews its own answer and rewrites it, with no training.

    fb_t = M(feedback, x, y_t);   y_{t+1} = M(refine, x, y_0, fb_0, .., y_t, fb_t);   a full total score stops

Text in, text out, so that any model can run it. The wording is in the files of `prompts/`, made to be edited.
"""

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from string import Template
from typing import Literal

from pit_jax.data.text.transcripts import readable
from pit_jax.errors import UserError

PROMPTS = Path(__file__).with_name("prompts")
ROUNDS = 4  # the paper's cap
PLACEHOLDERS = {
    "feedback": {"prompt", "answer"},
    "refine": {"prompt", "history"},
    "history": {"round", "answer", "feedback"},
    "one_line": {"prompt", "answer"},
}
_TOTAL = re.compile(r"total score:\s*(\d+)\s*/\s*(\d+)", re.IGNORECASE)

Generate = Callable[[Sequence[str]], list[str]]  # one reply a prompt, in order
Count = Callable[[str], int]  # tokens of a text


@dataclass(frozen=True)
class Wording:
    """The texts around prompts and answers; PLACEHOLDERS names what each holds."""

    feedback: Template
    refine: Template
    history: Template  # one reviewed answer of `refine`
    one_line: Template


@dataclass
class Refined:
    """The answers to one prompt, y_0 first: the last one is the result."""

    prompt: str
    answers: list[str]
    reviews: list[str]  # fb_0 ..
    tokens: int  # written: y_0, every review and every rewrite
    dropped: int = 0  # reviewed answers left out of refine prompts, the oldest first, to make them fit
    stopped: Literal["rounds", "score", "length"] = "rounds"  # length: a prompt that could not be made to fit


def load_wording(folder: Path = PROMPTS) -> Wording:
    """The wording of a folder with <name>.txt for each of PLACEHOLDERS. UserError names a file that does not serve."""
    templates: dict[str, Template] = {}
    for name, expected in PLACEHOLDERS.items():
        path = folder / f"{name}.txt"
        if not path.is_file():
            raise UserError(f"{path}: no such file; the wording needs {', '.join(f'{n}.txt' for n in PLACEHOLDERS)}")
        template = Template(path.read_text(encoding="utf-8").strip())
        if not template.is_valid():
            raise UserError(f"{path}: found a $ that begins no placeholder; write $$ for a dollar sign")
        placeholders = set(template.get_identifiers())
        if placeholders != expected:
            asked, seen = (", ".join(f"${n}" for n in sorted(names)) or "none" for names in (expected, placeholders))
            raise UserError(f"{path}: asked for the placeholders {asked}, found {seen}")
        templates[name] = template
    return Wording(**templates)


def total_score(review: str) -> tuple[int, int] | None:
    """(points, of how many) of the first `Total score: a/b`; None where the review has none."""
    match = _TOTAL.search(review)
    return (int(match[1]), int(match[2])) if match else None


def self_refine(
    prompts: Sequence[str],
    answers: Sequence[str],
    generate: Generate,
    count: Count,
    *,
    limit: int,
    wording: Wording,
    rounds: int = ROUNDS,
) -> list[Refined]:
    """Review and rewrite the answers y_0, all prompts together, each until its review gives full points.

    `limit` is the largest `count` of a prompt that the model can read. A refine prompt over it loses its oldest
    reviewed answers; where the last one alone (or a feedback prompt) is over it, the row keeps its answer and stops.
    """
    rows = live = _begin(prompts, answers, count)
    for _ in range(rounds):
        texts = [wording.feedback.substitute(prompt=row.prompt, answer=row.answers[-1]) for row in live]
        live = _ask(live, texts, generate, count, limit, lambda row: row.reviews)
        for row in live:
            points, most = total_score(row.reviews[-1]) or (0, 0)
            if 0 < most <= points:
                row.stopped = "score"
        live = [row for row in live if row.stopped != "score"]
        texts = [_refine_prompt(row, count, limit, wording) for row in live]
        live = _ask(live, texts, generate, count, limit, lambda row: row.answers)
    return rows


def reflect(
    prompts: Sequence[str],
    answers: Sequence[str],
    generate: Generate,
    count: Count,
    *,
    limit: int,
    wording: Wording,
    rounds: int,
) -> list[Refined]:
    """The one-line form: no review and no history, only a request for a more helpful answer, `rounds` times."""
    rows = live = _begin(prompts, answers, count)
    for _ in range(rounds):
        texts = [wording.one_line.substitute(prompt=row.prompt, answer=row.answers[-1]) for row in live]
        live = _ask(live, texts, generate, count, limit, lambda row: row.answers)
    return rows


def _begin(prompts: Sequence[str], answers: Sequence[str], count: Count) -> list[Refined]:
    return [Refined(readable(x), [y], [], count(y)) for x, y in zip(prompts, answers, strict=True)]


def _refine_prompt(row: Refined, count: Count, limit: int, wording: Wording) -> str:
    """With as much of the latest history as fits; with the last reviewed answer alone where even that does not."""
    blocks = [
        wording.history.substitute(round=t, answer=y, feedback=review)
        for t, (y, review) in enumerate(zip(row.answers, row.reviews, strict=True))
    ]
    text = ""
    for oldest in range(len(blocks)):
        text = wording.refine.substitute(prompt=row.prompt, history="\n\n".join(blocks[oldest:]))
        if count(text) <= limit:
            row.dropped += oldest
            break
    return text


def _ask(
    rows: Sequence[Refined],
    texts: Sequence[str],
    generate: Generate,
    count: Count,
    limit: int,
    target: Callable[[Refined], list[str]],
) -> list[Refined]:
    """The rows whose text fits, with the model's reply to it put in its place and paid for; the other rows stop."""
    fitting = []
    for row, text in zip(rows, texts, strict=True):
        if count(text) <= limit:
            fitting.append((row, text))
        else:
            row.stopped = "length"
    replies = generate([text for _, text in fitting]) if fitting else []
    if len(replies) != len(fitting):
        raise UserError(f"generate was asked for {len(fitting)} replies and gave {len(replies)}; give one a prompt")
    for (row, _), reply in zip(fitting, replies, strict=True):
        target(row).append(reply)
        row.tokens += count(reply)
    return [row for row, _ in fitting]
