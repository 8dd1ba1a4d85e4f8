"""Verdicts on disk: workdir/verdicts/<judge>/<left>~<right>@<temperature>.jsonl, a prompt each, asked for once.

A judge may take days and be stopped at any time: what it has said stays, and only what is missing is asked.
"""

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import msgspec
import numpy as np

from pit_jax.errors import UserError
from pit_jax.evaluation.judges.judge import Judgement
from pit_jax.evaluation.systems import Output, SystemId
from pit_jax.files import append_jsonl, digest_of, read_jsonl, write_jsonl

Ask = Callable[[Sequence[int]], Judgement]
"""ask(indices of prompts) -> what the judge says of them."""


@dataclass(frozen=True)
class Verdict:
    index: int  # of the prompt
    key: str  # a digest of the judge and of the two answers
    score: float  # positive where left is better
    flipped: bool | None = None  # the verdict changed with the order of the two answers; None where there is no order


def verdict_keys(judge: str, left: Output, right: Output) -> list[str]:
    """What each verdict depends on: `judge` names the judge and its code, the outputs their answers."""
    return [digest_of(judge, *pair) for pair in zip(left.keys, right.keys, strict=True)]


class VerdictFile:
    """What one judge says of (left, right) at one temperature."""

    def __init__(self, folder: Path, judge: str, left: SystemId, right: SystemId, temperature: float | None):
        suffix = "" if temperature is None else f"@{temperature:g}"
        self.path = folder / judge / f"{left.stem}~{right.stem}{suffix}.jsonl"
        self._verdicts = {verdict.index: verdict for verdict in map(self._read, read_jsonl(self.path))}

    def judged(self, keys: Sequence[str], ask: Ask, *, batch: int) -> Judgement:
        """The judgement of all prompts; what is missing, or of other answers, is asked `batch` prompts at a time."""
        missing = [i for i, key in enumerate(keys) if i not in self._verdicts or self._verdicts[i].key != key]
        if missing:
            kept = [self._verdicts[i] for i in sorted(self._verdicts.keys() - set(missing))]
            write_jsonl(self.path, map(asdict, kept))  # whatever a kill has cut off is gone
        for start in range(0, len(missing), batch):
            asked = missing[start : start + batch]
            judgement = ask(asked)
            flipped = [None] * len(asked) if judgement.flipped_N is None else judgement.flipped_N.tolist()
            new = [
                Verdict(i, keys[i], float(score), flip)
                for i, score, flip in zip(asked, judgement.scores_N.tolist(), flipped, strict=True)
            ]
            append_jsonl(self.path, map(asdict, new))
            self._verdicts |= {verdict.index: verdict for verdict in new}
        verdicts = [self._verdicts[i] for i in range(len(keys))]
        ordered = any(verdict.flipped is not None for verdict in verdicts)
        return Judgement(
            np.asarray([verdict.score for verdict in verdicts], np.float64),
            np.asarray([bool(verdict.flipped) for verdict in verdicts]) if ordered else None,
        )

    def _read(self, row: dict[str, object]) -> Verdict:
        try:
            return msgspec.convert(row, Verdict)
        except msgspec.ValidationError as error:
            raise UserError(f"{self.path}: a row that is no verdict ({error}); delete the file to ask again") from error
