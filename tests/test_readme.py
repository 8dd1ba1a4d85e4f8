"""The README is true: its commands parse, its paths exist, its code runs."""

import re
import shlex
import textwrap
from pathlib import Path
from typing import Any

import jax.numpy as jnp
import pytest

from pit_jax.stages import command
from tests.stages import tiny_checkpoint

README = (Path(__file__).parents[1] / "README.md").read_text()
COMMANDS = re.findall(r"^python launch/tpu_run\.py (.*)$", README, flags=re.MULTILINE)


@pytest.mark.parametrize("line", COMMANDS)
def test_every_command_parses(line: str, monkeypatch: pytest.MonkeyPatch, repository: Path, tmp_path: Path) -> None:
    """Beside a checkpoint, where the command names one."""
    if base := re.search(r"--base=(\S+)", line):
        tiny_checkpoint.write(tmp_path / base[1])
    (tmp_path / "configs").symlink_to(repository / "configs")
    monkeypatch.chdir(tmp_path)
    assert command.parse(shlex.split(line, comments=True)).stage in line


def test_there_are_commands() -> None:
    assert len(COMMANDS) >= 9


@pytest.mark.parametrize("target", re.findall(r"^make (\w+)", README, flags=re.MULTILINE))
def test_every_make_target_exists(target: str, repository: Path) -> None:
    assert f"\n{target}:" in (repository / "Makefile").read_text()


@pytest.mark.parametrize("path", re.findall(r"^\| `([\w/.]+)` \|", README, flags=re.MULTILINE))
def test_every_path_of_the_map_exists(path: str, repository: Path) -> None:
    assert (repository / path).exists() or (repository / "configs" / path).exists()


def test_the_objective_of_the_guide_works() -> None:
    """max(0, 1 - (2 - 0)) = 0 and max(0, 1 - (0 - 1)) = 2: mean 1."""
    (block,) = re.findall(r"```python\n(.*?)```", README, flags=re.DOTALL)
    names: dict[str, Any] = {}
    exec(compile(textwrap.dedent(block), "README.md", "exec"), names)
    loss, metrics = names["hinge_loss"](jnp.array([2.0, 0.0]), jnp.array([0.0, 1.0]), margin=1.0)
    assert float(loss) == 1.0 and metrics["loss"].value == 1.0
