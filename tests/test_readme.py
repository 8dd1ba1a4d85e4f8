"""The README is true: its commands parse, its paths exist. Its Python: end_to_end/test_api.py."""

import re
import shlex
from pathlib import Path

import pytest

from pit_jax import flags
from tests import tiny_checkpoint

README = (Path(__file__).parents[1] / "README.md").read_text()
MAP = README.partition("## Where things are")[2]
COMMANDS = re.findall(r"^python launch/tpu_run\.py (.*)$", README, flags=re.MULTILINE)


@pytest.mark.parametrize("line", COMMANDS)
def test_every_command_parses(line: str, monkeypatch: pytest.MonkeyPatch, repository: Path, tmp_path: Path) -> None:
    """Beside a checkpoint, where the command names one."""
    if base := re.search(r"--base=(\S+)", line):
        tiny_checkpoint.write(tmp_path / base[1])
    (tmp_path / "configs").symlink_to(repository / "configs")
    monkeypatch.chdir(tmp_path)
    assert flags.parse(shlex.split(line, comments=True)).stage in line


def test_there_are_commands() -> None:
    assert len(COMMANDS) >= 9


@pytest.mark.parametrize("target", re.findall(r"^make (\w+)", README, flags=re.MULTILINE))
def test_every_make_target_exists(target: str, repository: Path) -> None:
    assert f"\n{target}:" in (repository / "Makefile").read_text()


@pytest.mark.parametrize("path", re.findall(r"^\| `([\w/.]+)` \|", MAP, flags=re.MULTILINE))
def test_every_path_of_the_map_exists(path: str, repository: Path) -> None:
    assert (repository / path).exists() or (repository / "configs" / path).exists()
