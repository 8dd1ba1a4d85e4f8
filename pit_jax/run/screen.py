"""What a person sees while stages run: lines, tables and progress bars."""

from dataclasses import dataclass, field
from typing import Any

from rich.console import Console, RenderableType
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    ProgressColumn,
    Task,
    TaskID,
    TimeElapsedColumn,
    TimeRemainingColumn,
)
from rich.text import Text

from pit_jax.terminal import Terminal, plain_text, visible


class _Words(ProgressColumn):
    """A field of a task as it is: of TextColumn it would be a format."""

    def __init__(self, field: str):
        super().__init__()
        self._field = field

    def render(self, task: Task) -> Text:
        return plain_text(task.fields.get(self._field, task.description))


def make_progress(console: Console) -> Progress:
    """Bars with what is done, of how much, how long it took and takes, and a note."""
    columns = (BarColumn(), MofNCompleteColumn(), TimeElapsedColumn(), TimeRemainingColumn())
    return Progress(_Words("description"), *columns, _Words("note"), console=console)


@dataclass(frozen=True)
class Screen:
    console: Console
    progress: Progress = field(default_factory=lambda: make_progress(Terminal(quiet=True)))

    def say(self, text: RenderableType, style: str | None = None) -> None:
        """A line or a table; long lines are left to the terminal."""
        self.console.print(text, style=style, soft_wrap=isinstance(text, str | Text))

    def warn(self, text: str) -> None:
        """A line that nobody should miss."""
        self.say(text, style="red")

    def bar(self, name: str, total: int, done: int = 0, note: str = "") -> "Bar":
        """A new progress bar."""
        return Bar(self.progress, self.progress.add_task(name, total=total, completed=done, note=note))

    def row(self, name: str, row: dict[str, Any]) -> None:
        """One row of metrics in one line: the stage, the step and the row's numbers."""
        numbers = (f"{key} {value:.3f}" for key, value in row.items() if key not in ("step", "phase", "time"))
        line = f" {row['phase']} {row['step']} ({row['time']:.0f} s): {', '.join(numbers)}"
        self.say(Text.assemble((visible(name), "bold"), visible(line)))


@dataclass(frozen=True)
class Bar:
    """One progress bar."""

    progress: Progress
    task: TaskID

    def advance(self, count: int) -> None:
        """`count` more are done."""
        self.progress.advance(self.task, count)

    def show(self, done: int, note: str = "", *, name: str | None = None) -> None:
        """`done` are done; a hidden bar appears."""
        self.progress.update(self.task, completed=done, note=note, description=name, visible=True)

    def hide(self) -> None:
        """Take the bar off the screen until it is shown again."""
        self.progress.update(self.task, visible=False)
