"""Answers on disk: workdir/answers/<system>@<temperature>.jsonl, one row a prompt, drawn once and read by everybody."""

from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path

import msgspec

from pit_jax.batch import Answer
from pit_jax.errors import UserError
from pit_jax.evaluation.systems import SystemId
from pit_jax.files import append_jsonl, read_jsonl, write_jsonl


@dataclass
class AnswerRow:
    """What one system wrote for one prompt."""

    index: int  # of the prompt
    prompt: str
    key: str  # a digest of all that the drafts were drawn from
    drafts: list[Answer] = field(default_factory=list)  # of an improver y_1 .. y_K, else the one answer
    tokens: list[int] = field(default_factory=list)  # drawn for each draft, reviews and discarded answers included
    replies: list[int] = field(default_factory=list)  # how many they make
    gaps: list[float] = field(
        default_factory=list
    )  # of each draft over the answer before, in both orders; empty if unasked

    def add(self, draft: Answer, *, tokens: int | None = None, replies: int = 1) -> None:
        """One more draft; its own tokens are what was drawn for it, if nothing else is said."""
        self.drafts.append(draft)
        self.tokens.append(len(draft.ids) if tokens is None else tokens)
        self.replies.append(replies)


class AnswerFile:
    """The rows of one system at one temperature. Rows are added as they are drawn; the last one of a prompt counts."""

    def __init__(self, folder: Path, system: SystemId, temperature: float):
        self.path = folder / f"{system.stem}@{temperature:g}.jsonl"
        rows = [_row(row, self.path) for row in read_jsonl(self.path)]
        self._rows = {row.index: row for row in rows}
        self._loose = False  # rows that were superseded, or a line that a kill cut off, are in the file

    def rows(self, prompts: Sequence[str], keys: Sequence[str]) -> list[AnswerRow]:
        """A row for each prompt, with the drafts that are there. UserError where they were drawn from other inputs."""
        rows = []
        for index, (prompt, key) in enumerate(zip(prompts, keys, strict=True)):
            row = self._rows.get(index, AnswerRow(index, prompt, key))
            if row.key != key or row.prompt != prompt:
                raise UserError(
                    f"{self.path} holds answers to other prompts, or of other models or settings (prompt {index}); "
                    "delete it to draw them again, or use another --workdir"
                )
            rows.append(row)
        return rows

    def add(self, rows: Sequence[AnswerRow]) -> None:
        """Keep rows that were just drawn."""
        if not self._loose:
            self._write()  # whatever a kill has cut off is gone
            self._loose = True
        self._rows |= {row.index: row for row in rows}
        append_jsonl(self.path, [asdict(row) for row in rows])

    def close(self) -> None:
        """Leave one line a prompt, in order."""
        if self._loose:
            self._write()
            self._loose = False

    def _write(self) -> None:
        write_jsonl(self.path, [asdict(self._rows[index]) for index in sorted(self._rows)])


def _row(row: dict[str, object], path: Path) -> AnswerRow:
    try:
        return msgspec.convert(row, AnswerRow)
    except msgspec.ValidationError as error:
        raise UserError(f"{path}: a row that is no answer ({error}); delete the file to draw it again") from error
