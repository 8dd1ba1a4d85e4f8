"""Forks on the command line: their stages and flags, what is wrong with a file, and whose fault an error is."""

import re
import runpy
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from pit_jax import cli, flags
from pit_jax.config import Config, flatten
from pit_jax.forks import unload_forks
from pit_jax.recipes import pipeline
from pit_jax.recipes.catalogue import STAGES, stage_names
from pit_jax.rl.rewards import TEXT_REWARDS

STAGE = '''
from dataclasses import dataclass

from pit_jax.fork import Stage, fork


@dataclass(frozen=True)
class MineConfig:
    margin: float = 0.5
    """How far apart two scores must be."""
    quick: bool = False
    """Whether to hurry."""


def run(context):
    pass


fork(Stage(name="mine", run=run, help="a stage of my own", config=MineConfig))
'''
REWARD = """
from pit_jax.fork import TextReward, fork


def short(prompts, responses, rows):
    return [1 / len(responses[0])]


fork(TextReward("short", short))
"""


@pytest.fixture(autouse=True)
def no_fork_stays() -> Iterator[None]:
    yield
    unload_forks()


@pytest.fixture
def write(tmp_path: Path) -> Callable[..., Path]:
    """write(source, name) -> the path of a fork."""

    def save(source: str, name: str = "mine.py") -> Path:
        path = tmp_path / name
        path.write_text(source)
        return path

    return save


@pytest.fixture
def runs(monkeypatch: pytest.MonkeyPatch) -> Callable[[Callable[[Config], None]], None]:
    """Puts a function in the place of the pipeline."""
    return lambda run: monkeypatch.setattr(pipeline, "run", run)


def test_a_forks_stage_has_typed_flags(write: Callable[..., Path]) -> None:
    path = write(STAGE)
    config = flags.parse([f"--fork={path}", "--stage=mine", "--mine.margin=0.25", "--mine.quick", "--rl.gamma=0.5"])
    flat = flatten(config)
    assert (config.stage, flat["mine.margin"], flat["mine.quick"], flat["rl.gamma"]) == ("mine", 0.25, True, 0.5)
    assert config.forks == (str(path),)
    assert flatten(flags.parse(["--fork", str(path)]))["mine.margin"] == 0.5


@pytest.mark.parametrize(
    ("flag", "message"),
    [
        ("--mine.marign=1", r"unknown flag --mine\.marign; did you mean --mine\.margin\?"),
        ("--mine.quick=perhaps", r"a switch is written --mine\.quick, --mine\.quick=false or --mine\.no-quick"),
        ("--stage=mien", "--stage: unknown 'mien'; did you mean mine\\?; known: data, .*, mine, all"),
    ],
)
def test_a_wrong_word_about_a_fork_is_named(write: Callable[..., Path], flag: str, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        flags.parse([f"--fork={write(STAGE)}", flag])


def test_a_forks_flag_of_the_wrong_type_ends_with_code_2(
    write: Callable[..., Path], capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as stopped:
        flags.parse([f"--fork={write(STAGE)}", "--mine.margin=wide"])
    assert stopped.value.code == 2 and "--mine.margin" in capsys.readouterr().err


def test_help_tells_of_a_forks_stage_and_flags(
    write: Callable[..., Path], capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "200")
    with pytest.raises(SystemExit):
        flags.parse(["--help", f"--fork={write(STAGE)}"])
    text = capsys.readouterr().out
    assert re.search(r"\n  mine +a stage of my own\n", text)
    assert "--mine.margin FLOAT" in text and "How far apart two scores must be." in text


def test_a_fork_is_forgotten_where_nobody_names_it(write: Callable[..., Path]) -> None:
    path = write(STAGE)
    flags.parse([f"--fork={path}"])
    unload_forks()
    assert "mine" not in stage_names() and not hasattr(flags.parse([]), "mine")
    with pytest.raises(ValueError, match="--stage: unknown 'mine'"):
        flags.parse(["--stage=mine"])


def test_one_fork_named_twice_is_one_fork(write: Callable[..., Path]) -> None:
    path = write(STAGE)
    config = flags.parse([f"--fork={path}", "--fork", str(path), "--stage=mine"])
    assert config.forks == (str(path),) and stage_names().count("mine") == 1
    assert flags.parse([f"--fork={path}"]).forks == (str(path),), "and again in the same process"


def test_two_forks_with_one_name_are_both_named(write: Callable[..., Path]) -> None:
    first, second = write(STAGE), write(STAGE, "yours.py")
    with pytest.raises(ValueError) as told:
        flags.parse([f"--fork={first}", f"--fork={second}"])
    for part in (str(second), "the stage 'mine' is declared by", str(first), "give one of them another name"):
        assert part in str(told.value)


def test_the_forks_of_a_config_file_count(write: Callable[..., Path]) -> None:
    path, reward = write(STAGE), write(REWARD, "reward.py")
    source = "from pit_jax.config import Config\n\ndef get_config(): return Config(seed=7, forks=({!r},))\n"
    config = flags.parse(
        [f"--config={write(source.format(str(path)), 'config.py')}", f"--fork={reward}", "--stage=mine"]
    )
    assert config.forks == (str(path), str(reward)) and flatten(config)["mine.margin"] == 0.5 and config.seed == 7


def test_a_changed_fork_is_read_again(write: Callable[..., Path]) -> None:
    path = write(STAGE)
    assert flatten(flags.parse([f"--fork={path}"]))["mine.margin"] == 0.5
    write(STAGE.replace("0.5", "0.75"))
    assert flatten(flags.parse([f"--fork={path}"]))["mine.margin"] == 0.75


@pytest.mark.parametrize(
    ("source", "message"),
    [
        ("x = 1\ny = 1 / 0\n", "{path}, line 2: ZeroDivisionError: division by zero"),
        ("import nowhere_at_all\n", "{path}, line 1: ModuleNotFoundError: No module named 'nowhere_at_all'"),
        ("def f(:\n", "{path}, line 1: not Python"),
        (STAGE + "1 / 0\n", "{path}, line 20: ZeroDivisionError"),
        ("from pit_jax.fork import fork\n\nfork('mine')\n", "fork(...): asked for values of Stage, Algorithm, "),
        (STAGE.replace('"mine"', '"rl"'), "a fork's stage with flags is called rl, as a section of the config"),
    ],
)
def test_a_fork_that_cannot_be_loaded(
    write: Callable[..., Path], capsys: pytest.CaptureFixture[str], source: str, message: str
) -> None:
    """One sentence with its file and line, and nothing of it stays."""
    path = write(source)
    assert cli.main([f"--fork={path}"]) == 2
    error = capsys.readouterr().err
    assert error.startswith("error: ") and error.count("\n") == 1
    assert message.format(path=path) in error
    if "rl" not in message:
        assert "mine" not in {stage.name for stage in STAGES}


@pytest.mark.parametrize("name", ["nowhere.py", "unknown-fork"])
def test_a_fork_that_is_not_there(name: str) -> None:
    with pytest.raises(ValueError) as told:
        flags.parse([f"--fork={name}"])
    assert f"--fork={name}: no such file, and no installed fork of that name; installed are " in str(told.value)


def test_an_error_in_a_forks_function_names_file_and_line(
    write: Callable[..., Path], runs: Callable[..., None], capsys: pytest.CaptureFixture[str]
) -> None:
    path = write(REWARD)
    runs(lambda config: TEXT_REWARDS["short"].score(["p"], [""], []) and None)
    assert cli.main([f"--fork={path}"]) == 2
    assert capsys.readouterr().err == f"error: fork {path}, line 6, in short: ZeroDivisionError: division by zero\n"


def test_an_error_in_what_a_fork_imports_beside_it_is_the_forks(
    write: Callable[..., Path], runs: Callable[..., None], capsys: pytest.CaptureFixture[str]
) -> None:
    helper = write("def helped(text):\n    return {}[text]\n", "helper_of_mine.py")
    path = write(
        "from helper_of_mine import helped\n" + REWARD.replace("1 / len(responses[0])", "helped(responses[0])")
    )
    runs(lambda config: TEXT_REWARDS["short"].score(["p"], ["r"], []) and None)
    assert cli.main([f"--fork={path}"]) == 2
    assert capsys.readouterr().err == f"error: fork {helper}, line 2, in helped: KeyError: 'r'\n"


def test_an_error_beside_a_fork_is_not_the_forks(write: Callable[..., Path], runs: Callable[..., None]) -> None:
    """A bug of ours keeps its traceback, also where it is called from a script in the fork's folder."""
    script = write("def run(config):\n    raise KeyError('a slip')\n", "script_of_others.py")
    runs(runpy.run_path(str(script))["run"])
    with pytest.raises(KeyError, match="a slip"):
        cli.main([f"--fork={write(REWARD)}"])


FIRST = """
import sys
from pit_jax.forks import load_forks, unload_forks

load_forks(sys.argv[1:])
from pit_jax.evaluation.judges.builtin import JUDGES
from pit_jax.rl.algorithms import ALGORITHMS
from pit_jax.rl.rewards import TEXT_REWARDS

print(ALGORITHMS.code("ppo", "grpo"), JUDGES.code("gap"), list(TEXT_REWARDS.code("short")))
unload_forks()
print(ALGORITHMS.names(), JUDGES.names(), TEXT_REWARDS.names())
"""


def test_what_a_fork_is_the_first_to_import_is_not_its_own(write: Callable[..., Path]) -> None:
    """In a process of its own, where nothing of pit_jax has been imported before."""
    imports = "import pit_jax.evaluation.judges.builtin\n"
    command = [sys.executable, "-c", FIRST, str(write(imports + REWARD))]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines() == [
        "{} {} ['code of text reward short']",
        "['ppo', 'grpo', 'rloo', 'dr_grpo'] ['rubric', 'gap'] []",
    ]
