"""`python -m pit_jax.fork check`: its exit codes, and what it finds without training.

Forks that are trained stand in tests/end_to_end: those that keep the contract in test_howto.py, one that breaks it in
test_fork_check.py.
"""

import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from pit_jax.contract.check import digest_moves, main, rl_flags
from pit_jax.rl.algorithms import ALGORITHMS
from pit_jax.rl.references import REFERENCES

WORDS = """
from pit_jax.fork import TextReward, fork


def words(prompts, responses, rows):
    return [{value} for response in responses]


fork(TextReward("words", words))
"""


@pytest.fixture
def check(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> Callable[[str], tuple[int, str]]:
    """check(source) -> (exit code, what was printed, on one line)."""

    def run(source: str) -> tuple[int, str]:
        file = tmp_path / "mine.py"
        file.write_text(source)
        return main(["check", str(file)]), capsys.readouterr().out

    return run


@pytest.mark.parametrize("argv", [[], ["check"], ["try", "mine.py"]])
def test_the_command_says_how_it_is_used(argv: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stopped:
        main(argv)
    assert stopped.value.code == 2
    told = " ".join(capsys.readouterr().err.split())
    assert told.startswith("usage: python -m pit_jax.fork [-h] [--parent-run PARENT_RUN] {check} FILE [FILE ...]")


def test_it_is_a_command(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "pit_jax.fork", "check", str(tmp_path / "nowhere.py")]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 1 and "fails  it loads: --fork=" in done.stdout, done.stderr


@pytest.mark.parametrize(
    ("source", "told"),
    [
        ("x = 1 / 0\n", r"fails  it loads: .*line 1: ZeroDivisionError"),
        ("import pit_jax.fork\n", r"holds  it loads\n  fails  it declares something"),
    ],
)
def test_a_file_that_declares_nothing(check: Callable[[str], tuple[int, str]], source: str, told: str) -> None:
    code, printed = check(source)
    assert code == 1 and re.search(told, printed)


def test_the_digest_of_a_fork_moves_with_its_code(tmp_path: Path) -> None:
    file = tmp_path / "mine.py"
    file.write_text(WORDS.format(value="1.0"))
    digest_moves(file)


def test_rl_is_run_with_all_that_a_fork_brings() -> None:
    mine: dict[str, list[Any]] = {
        "RL algorithm": [ALGORITHMS["rloo"]],
        "text reward": [],
        "reference": [REFERENCES["chosen"]],
    }
    curriculum = ["--rl.curriculum.references", "chosen", "--rl.curriculum.rounds", "2"]
    assert rl_flags(mine) == ["--rl.improver-algorithm=rloo", *curriculum]
    assert rl_flags({"RL algorithm": [], "text reward": [], "reference": []}) == []
