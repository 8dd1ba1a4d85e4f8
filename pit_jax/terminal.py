"""What reaches a terminal: the one place that prints. No text is markup, and none commands the terminal.

Paths, rows, reasons, names of columns and words of a judge or a template are others' texts: a bracket in them is a
bracket, and a control character is shown as a picture of itself.
"""

import sys
import traceback
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from rich.console import Console, ConsoleOptions, ConsoleRenderable, RenderHook, RenderResult
from rich.segment import Segment
from rich.text import Text

_UNSEEN = (
    *range(0x7F, 0xA0),
    *range(0x202A, 0x202F),  # these and the next turn the direction of what follows
    *range(0x2066, 0x206A),
    *range(0xD800, 0xE000),  # bytes of a path that are no UTF-8
)
PICTURES = {
    **{code: chr(0x2400 + code) for code in range(32) if chr(code) not in "\t\n"},
    **dict.fromkeys(_UNSEEN, "\N{REPLACEMENT CHARACTER}"),
}


def visible(text: str) -> str:
    """The text with pictures in place of the characters that would command a terminal; lines and tabs stay."""
    return text.translate(PICTURES)


def plain_text(text: str) -> Text:
    """A cell or a line: `visible`, and no markup in any console."""
    return Text(visible(text))


def tell(text: str, *, error: bool = False, end: str = "\n") -> None:
    """A line for whoever started the command, now; to stderr where it is an `error`."""
    print(visible(text), file=sys.stderr if error else sys.stdout, end=end, flush=True)


def show_cursor() -> None:
    """As before a progress bar, which hides it and may not come to its end."""
    if sys.stdout.isatty():
        print("\x1b[?25h", end="", flush=True)


def tell_traceback(error: BaseException) -> None:
    """A fault of ours, for its report."""
    tell("".join(traceback.format_exception(error)), error=True, end="")


class Terminal(Console):
    """A console that shows every text as it is, in whatever it is put: lines, cells, titles."""

    def __init__(self, **options: Any):
        """`options` are those of rich's Console."""
        super().__init__(markup=False, emoji=False, **options)
        self.push_render_hook(_Show())

    def render_str(self, text: str, **options: Any) -> Text:
        """As rich's, of a `visible` text: rich itself drops some control characters without a trace."""
        return super().render_str(visible(text), **options)


class _Show(RenderHook):
    def process_renderables(self, renderables: list[ConsoleRenderable]) -> list[ConsoleRenderable]:
        return [_Shown(renderable) for renderable in renderables]


@dataclass(frozen=True)
class _Shown:
    """What is printed, its texts visible; what rich itself tells the terminal, such as where a bar begins, stays."""

    inside: ConsoleRenderable

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        segments: Iterable[Segment] = console.render(self.inside, options)
        for text, style, control in segments:
            yield Segment(text if control else visible(text), style, control)
