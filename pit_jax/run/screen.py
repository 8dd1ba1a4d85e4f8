"""What a person sees while stages run: lines, tables and progress bars."""

from dataclasses import dataclass, field
from typing import Any

from rich.console import Console, RenderableType
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TaskID,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)


def make_progress(console: Console) -> Progress:
    """Bars with what is done, of how much, how long it took and takes, and a note."""
    columns = (BarColumn(), MofNCompleteColumn(), TimeElapsedColumn(), TimeRemainingColumn())
    return Progress(TextColumn("{task.description}"), *columns, TextColumn("{task.fields[note]}"), console=console)


@dataclass(frozen=True)
class Screen:
    console: Console
    progress: Progress = field(default_factory=lambda: make_progress(Console(quiet=True)))

    def say(self, text: RenderableType, style: str | None = None) -> None:
        """A line or a table; long lines are left to the terminal."""
        self.console.print(text, style=style, soft_wrap=isinstance(text, str))

    def bar(self, name: str, total: int, done: int = 0, note: str = "") -> "Bar":
        """A new progress bar."""
        return Bar(self.progress, self.progress.add_task(name, total=total, completed=done, note=note))

    def row(self, name: str, row: dict[str, Any]) -> None:
        """One row of metrics in one line: the stage, the step and the row's numbers."""
        numbers = (f"{key} {value:.3f}" for key, value in row.items() if key not in ("step", "phase", "time"))
        self.say(f"[bold]{name}[/] {row['phase']} {row['step']} ({row['time']:.0f} s): {', '.join(numbers)}")


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
