"""Improvement trails for people: an answer, its improvements, and what each changed word by word."""

import difflib
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, TypedDict


@dataclass(frozen=True)
class Change:
    """A run of words: `same`, `added` or `removed`."""

    kind: str
    text: str


@dataclass(frozen=True)
class Step:
    """One answer of a trail: `score` is its grade, `gap` that of the round's draft over the answer before."""

    label: str
    changes: list[Change]
    score: float | None
    gap: float | None
    copied: bool
    chosen: bool


@dataclass(frozen=True)
class Trail:
    prompt: str
    steps: list[Step]


class Written(TypedDict):
    """What every row of trails.jsonl holds."""

    prompt: str
    answers: list[str]


def changes(before: str, after: str) -> list[Change]:
    """What turns `before` into `after`, word by word; joining `same` and `added` gives back `after`."""
    old, new = re.findall(r"\S+\s*|\s+", before), re.findall(r"\S+\s*|\s+", after)
    plain_old, plain_new = [word.strip() for word in old], [word.strip() for word in new]
    pieces: list[Change] = []
    for tag, i, j, k, m in difflib.SequenceMatcher(None, plain_old, plain_new, autojunk=False).get_opcodes():
        if tag == "equal":
            pieces.append(Change("same", "".join(new[k:m])))
            continue
        if j > i:
            pieces.append(Change("removed", "".join(old[i:j])))
        if m > k:
            pieces.append(Change("added", "".join(new[k:m])))
    return pieces


def trail(row: dict[str, Any]) -> Trail:
    """A row of trails.jsonl: prompt, answers [y0 .. yK], and if known scores [K + 1], gaps [K], tokens drawn [K + 1]
    and the chosen round. Rounds in which nothing was drawn are left out."""
    answers: Sequence[str] = row["answers"]
    scores, gaps, tokens, chosen = (row.get(name) for name in ("scores", "gaps", "tokens", "chosen"))
    steps = [Step("original", [Change("same", answers[0])], scores[0] if scores else None, None, False, chosen == 0)]
    for i in range(1, len(answers)):
        if tokens and not tokens[i]:
            break
        before, after = answers[i - 1], answers[i]
        score, gap = scores[i] if scores else None, gaps[i - 1] if gaps else None
        steps.append(Step(str(i), changes(before, after), score, gap, before == after, chosen == i))
    return Trail(row["prompt"], steps)


def sample(rows: Sequence[dict[str, Any]], count: int) -> list[Trail]:
    """`count` trails at even spacing through the rows: a sample nobody chose."""
    if len(rows) <= count:
        return [trail(row) for row in rows]
    return [trail(rows[i * len(rows) // count]) for i in range(count)]
