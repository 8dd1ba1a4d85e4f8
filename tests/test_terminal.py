"""What reaches a terminal: texts of others as they are, whatever they are put in; and nothing printed elsewhere."""

import ast
import io
from collections.abc import Callable
from pathlib import Path

import pytest
from rich.table import Table
from rich.text import Text

from pit_jax.run.screen import Screen, make_progress
from pit_jax.terminal import Terminal, tell, tell_traceback, visible

ROOT = Path(__file__).resolve().parents[1]
OWNER = ROOT / "pit_jax" / "terminal.py"
HOSTILE = "x[/b] [red]:smile: \x1b[31m\x9b2J\x07\r\udc80\u202e"
SHOWN = "x[/b] [red]:smile: ␛[31m\ufffd2J␇␍\ufffd\ufffd"


def test_what_would_command_a_terminal_is_a_picture() -> None:
    assert visible("a\x1b[31mred\x1b[0m\r\x07 \x7f\x9b2J\u202e") == "a␛[31mred␛[0m␍␇ \ufffd\ufffd2J\ufffd"
    kept = "tabs\tand\nlines, ümlaut 🎂 \u2028"
    assert visible(kept) == kept


def in_a_table(screen: Screen) -> None:
    table = Table(HOSTILE, title=HOSTILE)
    table.add_row(HOSTILE, visible(HOSTILE))
    screen.say(table)


def on_a_bar(screen: Screen) -> None:
    with make_progress(screen.console) as progress:
        Screen(screen.console, progress).bar(HOSTILE, 3, note=HOSTILE).show(1, HOSTILE)


@pytest.mark.parametrize(
    ("show", "times"),
    [
        (lambda screen: screen.say(HOSTILE), 1),
        (lambda screen: screen.say(HOSTILE, style="bold"), 1),
        (lambda screen: screen.warn(HOSTILE), 1),
        (lambda screen: screen.say(Text.assemble(("a name ", "bold"), visible(HOSTILE))), 1),
        (lambda screen: screen.row(HOSTILE, {"step": 1, "phase": HOSTILE, "time": 2.0, HOSTILE: 0.5}), 3),
        (in_a_table, 4),
        (on_a_bar, 2),
    ],
)
def test_a_text_is_shown_as_it_is_in_whatever_it_stands(show: Callable[[Screen], None], times: int) -> None:
    """In a file, where rich adds no colours of its own."""
    file = io.StringIO()
    show(Screen(Terminal(file=file, width=400)))
    assert file.getvalue().count(SHOWN) == times
    assert "\x1b" not in file.getvalue() and "\x9b" not in file.getvalue()


def test_a_text_that_nobody_made_visible_commands_nothing() -> None:
    """Colours are rich's own, between texts; what rich drops by itself (here bell and return) is no command either."""
    file = io.StringIO()
    Screen(Terminal(file=file, width=400, force_terminal=True)).say(Text(HOSTILE, style="green"))
    assert "\x1b[32m" in file.getvalue() and "␛[31m\ufffd2J" in file.getvalue()
    assert file.getvalue().count("\x1b") == 2, "green, and the end of it"


def test_lines_without_a_console(capsys: pytest.CaptureFixture[str]) -> None:
    tell(HOSTILE)
    tell(HOSTILE, error=True)
    tell_traceback(ValueError(HOSTILE))
    said = capsys.readouterr()
    assert said.out == f"{SHOWN}\n" and said.err == f"{SHOWN}\nValueError: {SHOWN}\n"


AROUND = ("Console", ".print_exc", ".print_exception", "stdout.write", "stderr.write", "os.write")


def printing(source: str) -> list[int]:
    """Lines that put a text on a terminal by themselves, or hand on what does."""
    nodes = [node for node in ast.walk(ast.parse(source)) if isinstance(node, ast.Name | ast.Call)]
    return [
        node.lineno
        for node in nodes
        if (node.id in ("print", "input") if isinstance(node, ast.Name) else ast.unparse(node.func).endswith(AROUND))
    ]


def test_what_prints_is_found() -> None:
    lines = ["print(x)", "f(say=print)", "def f(say=print): ...", "rich.console.Console()", "sys.stderr.write(x)"]
    assert all(printing(line) for line in lines) and not printing("console.print(x)  # print\nprinted('print')")


@pytest.mark.parametrize("folder", ["pit_jax", "launch"])
def test_nothing_is_printed_around_the_owner(folder: str) -> None:
    for path in (ROOT / folder).rglob("*.py"):
        assert path == OWNER or not printing(path.read_text(encoding="utf-8")), f"{path}: print with pit_jax.terminal"
