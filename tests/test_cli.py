"""The command line: the table it shows, what it runs, exit codes, and whose fault an error is."""

import contextlib
import io
import os
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import pytest
from rich.console import Console

from pit_jax import cli, flags, signals
from pit_jax.config import Config
from pit_jax.parallel import preemption
from pit_jax.recipes import pipeline as real_pipeline
from pit_jax.recipes import seeds
from pit_jax.report import figures
from pit_jax.shipped import load_config

Run = Callable[[Config], Any]


@pytest.fixture
def pipeline(monkeypatch: pytest.MonkeyPatch) -> Callable[[Run], None]:
    """Puts a function in the place of the pipeline."""

    def put(run: Run) -> None:
        monkeypatch.setattr(real_pipeline, "run", run)

    return put


def test_the_table_shows_what_differs() -> None:
    console = Console(width=100, file=io.StringIO(), record=True)
    console.print(cli.resolved(flags.parse(["--stage=rl", "--rl.kl-coef=0.77", "--workdir=runs/[/b]"])))
    text = console.export_text()
    assert "rl.kl_coef" in text and "0.77" in text
    assert "rl.gamma" not in text
    assert text.count("runs/[/b]") == 2, "a name of a folder is no markup"


def test_the_run_gets_the_config(pipeline: Callable[[Run], None]) -> None:
    seen: list[Config] = []
    pipeline(seen.append)
    assert cli.main(["--stage=rm", "--seed=5"]) == 0
    assert (seen[0].stage, seen[0].seed) == ("rm", 5)


def test_several_seeds_are_run_by_the_loop_over_seeds(monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[Config] = []
    monkeypatch.setattr(seeds, "run", seen.append)
    assert cli.main(["--stage=rm", "--seeds=3,5"]) == 0
    assert (seen[0].stage, seen[0].seeds) == ("rm", (3, 5))


def test_the_users_errors_are_one_line(pipeline: Callable[[Run], None], capsys: pytest.CaptureFixture[str]) -> None:
    pipeline(lambda config: load_config(Path("gone.py")))
    assert cli.main([]) == 2
    assert capsys.readouterr().err.startswith("error: --config=gone.py: no such file")
    assert cli.main(["--stage=rll"]) == 2
    assert capsys.readouterr().err.count("\n") == 1


@pytest.mark.parametrize(
    "bug", [KeyError("x"), ValueError("a slip, or a library's"), FileNotFoundError(2, "gone", "x")]
)
def test_bugs_keep_their_traceback(pipeline: Callable[[Run], None], bug: Exception) -> None:
    def run(config: Config) -> None:
        raise bug

    pipeline(run)
    with pytest.raises(type(bug)):
        cli.main([])


def test_a_bug_ends_the_command_with_code_1_and_commands_no_terminal(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def broken(argv: Any) -> int:
        raise ValueError("\x9b2J")

    monkeypatch.setattr(signals, "guard", lambda: None)
    monkeypatch.setattr(cli, "main", broken)
    with pytest.raises(SystemExit) as end:
        cli.entry()
    said = capsys.readouterr().err
    assert end.value.code == 1 and said.startswith("Traceback") and "\x9b" not in said


def test_a_slip_of_our_own_is_a_bug(pipeline: Callable[[Run], None]) -> None:
    wrong: Any = {"a": ["x"]}
    pipeline(lambda config: figures.distributions(wrong, xlabel=""))  # numpy: could not convert
    with pytest.raises(ValueError, match="could not convert"):
        cli.main([])


def test_an_error_inside_jax_is_a_bug(pipeline: Callable[[Run], None]) -> None:
    pipeline(lambda config: jax.numpy.ones(3).reshape(2, 2))
    with pytest.raises(TypeError):
        cli.main([])


def test_ctrl_c_says_how_to_go_on(pipeline: Callable[[Run], None], capsys: pytest.CaptureFixture[str]) -> None:
    def run(config: Config) -> None:
        raise KeyboardInterrupt

    pipeline(run)
    assert cli.main([]) == 130
    assert "the same command resumes" in capsys.readouterr().err


def test_sigterm_ends_what_saves_nothing_with_a_code_of_its_own(
    pipeline: Callable[[Run], None], capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """While data are prepared, say; where it falls into what handles errors it is none of them."""

    def run(config: Config) -> None:
        with contextlib.suppress(Exception):
            os.kill(os.getpid(), signal.SIGTERM)
        raise AssertionError("it went on")

    monkeypatch.setattr(preemption._Notice, "came", False)
    monkeypatch.setattr(signals._State, "interrupted", False)
    handler = signal.getsignal(signal.SIGTERM)
    pipeline(run)
    try:
        assert cli.main([]) == os.EX_TEMPFAIL
    finally:
        signal.signal(signal.SIGTERM, handler)
    assert "what is finished is saved, and the same command goes on" in capsys.readouterr().err


def test_a_negative_number_of_devices(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["--mesh.simulate=-2"]) == 2
    assert "error: --mesh.simulate=-2: asked for INT>=0; see --help" in capsys.readouterr().err
