import io
import sys
import types
from collections.abc import Callable
from pathlib import Path

import jax
import pytest
from rich.console import Console

from pit_jax import stages
from pit_jax.config import Config, flatten
from pit_jax.report import figures
from pit_jax.stages import command, seeds


@pytest.fixture
def pipeline(monkeypatch: pytest.MonkeyPatch) -> Callable[[Callable[[Config], None]], None]:
    """Puts a function in the place of the pipeline."""

    def put(run: Callable[[Config], None]) -> None:
        module = types.ModuleType("pit_jax.stages.pipeline")
        module.__dict__["run"] = run
        monkeypatch.setitem(sys.modules, "pit_jax.stages.pipeline", module)
        monkeypatch.setattr(stages, "pipeline", module, raising=False)

    return put


def test_no_flags_give_the_default_config() -> None:
    assert command.parse([]) == command.load_config(command.DEFAULT_CONFIG)


@pytest.mark.parametrize(
    ("argv", "name", "value"),
    [
        (["--stage=rl"], "stage", "rl"),
        (["--stage", "sft"], "stage", "sft"),
        (["--rl.kl-coef=0.1"], "rl.kl_coef", 0.1),
        (["--rl.kl_coef", "0.1"], "rl.kl_coef", 0.1),
        (["--rl.optimizer.learning-rate=3e-4"], "rl.optimizer.learning_rate", 3e-4),
        (["--mesh.data=-1", "--mesh.fsdp=4"], "mesh.fsdp", 4),
        (["--rl.no-center-gap"], "rl.center_gap", False),
        (["--rl.center_gap=false"], "rl.center_gap", False),
        (["--transformer.remat"], "transformer.remat", True),
        (["--transformer.remat=True"], "transformer.remat", True),
        (["--evaluate.temperatures", "0.4", "0.8", "--seed=3"], "evaluate.temperatures", [0.4, 0.8]),
        (["--data.sources=jsonl:a_b.jsonl"], "data.sources", ["jsonl:a_b.jsonl"]),
        (["--workdir=runs/my_run"], "workdir", "runs/my_run"),
        (["--seed=1", "--seed=2"], "seed", 2),
        (["--seeds=0,1,2"], "seeds", [0, 1, 2]),
        (["--seeds", "2", "0", "--stage=sft"], "seeds", [2, 0]),
        (["--seeds", "0,", "1", "--stage=sft"], "stage", "sft"),
        (["--seeds=0,1", "--seeds=3,4"], "seeds", [3, 4]),
    ],
)
def test_flags_go_on_top_of_the_config(argv: list[str], name: str, value: object) -> None:
    assert flatten(command.parse(argv))[name] == value


def test_every_knob_is_a_flag() -> None:
    base = flatten(command.parse([]))
    for name, value in base.items():
        if isinstance(value, str | bool | list):
            continue
        changed = flatten(command.parse([f"--{name.replace('_', '-')}={value + 1}"]))
        assert changed == base | {name: value + 1}


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        (["--rl.kl-coeff=1"], r"unknown flag --rl\.kl-coeff; did you mean --rl\.kl-coef\?"),
        (["--rl.kl_coeff", "1"], r"did you mean --rl\.kl-coef\?"),
        (["--kl-coef=1"], r"did you mean --rl\.kl-coef\?"),
        (["--stag=rl"], r"did you mean --stage\?"),
        (["--qqqq=1"], "unknown flag --qqqq; see --help"),
        (
            ["--stage=rll"],
            r"--stage: unknown 'rll'; did you mean rl\?; known: data, sft, rm, .*, export, all",
        ),
        (["--stage", "evalute"], r"did you mean evaluate\?"),
        (["--model=both"], "--model: unknown 'both'; known: policy, improver, guard"),
        (["--stage"], "--stage: unknown ''"),
        (["--transformer.dtype=float16"], "known: float32, bfloat16"),
        (["--rl.center-gap=maybe"], r"a switch is written --rl\.center-gap, .* or --rl\.no-center-gap"),
        (["--rl.no-kl-coef=1"], "unknown flag --rl.no-kl-coef"),
        (["rl"], "did not expect 'rl'"),
        (["--seeds"], "--seeds: asked for two or more, found none; write --seeds=0,1,2"),
        (["--seeds=4"], "--seeds: asked for two or more, found 4"),
        (["--seeds=0,x,2"], "--seeds: asked for whole numbers, found 'x'"),
        (["--seeds", "0", "1.5"], "--seeds: asked for whole numbers, found '1.5'"),
        (["--seeds=0,1", "rl"], "--seeds: asked for whole numbers, found 'rl'"),
        (["--seeds=0,1,0"], "--seeds=0,1,0: 0 is there twice"),
        (["--seeds", "-1", "2"], "--seeds=-1,2: -1 is no seed; pass whole numbers from 0 to 4294967295"),
        (["--seeds=0,4294967296"], "4294967296 is no seed"),
        (["--seeds=0,1", "--seed=3"], "--seed=3 beside the seeds 0,1: drop one of the two flags"),
        (["--seed", "0", "--seeds", "0", "1"], "--seed=0 beside the seeds 0,1"),
        (["--config"], "--config: asked for a path, found nothing"),
        (["--config", "--stage=rl"], "asked for a path, found --stage=rl"),
        (["--config=nowhere.py"], r"--config=nowhere\.py: no such file; .*configs/tiny\.py"),
    ],
)
def test_a_wrong_word_is_named_with_the_nearest(argv: list[str], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        command.parse(argv)


@pytest.mark.parametrize(
    ("source", "message"),
    [
        ("x = 1", r"asked for a function get_config\(\), found no function"),
        ("def config(): pass", r"found config; define"),
        ("def get_config(): return {'seed': 1}", r"get_config\(\) returned dict; return a pit_jax\.config\.Config"),
    ],
)
def test_a_config_file_that_gives_no_config(tmp_path: Path, source: str, message: str) -> None:
    path = tmp_path / "mine.py"
    path.write_text(source)
    with pytest.raises(ValueError, match=message):
        command.parse([f"--config={path}"])


def test_flags_win_over_the_file(tmp_path: Path) -> None:
    path = tmp_path / "mine.py"
    path.write_text("from pit_jax.config import Config\n\ndef get_config(): return Config(seed=7, workdir='w')\n")
    config = command.parse(["--config", str(path), "--seed=8"])
    assert (config.seed, config.workdir) == (8, "w")


def test_seeds_of_the_file_are_checked_like_those_of_the_flag(tmp_path: Path) -> None:
    path = tmp_path / "mine.py"
    path.write_text("from pit_jax.config import Config\n\ndef get_config(): return Config(seeds=(3, 3))\n")
    with pytest.raises(ValueError, match="--seeds=3,3: 3 is there twice"):
        command.parse(["--config", str(path)])
    with pytest.raises(ValueError, match="--seed=5 beside the seeds 1,2"):
        command.parse(["--config", str(path), "--seeds=1,2", "--seed=5"])
    assert command.parse(["--config", str(path), "--seeds=1,2"]).seeds == (1, 2)


def test_a_value_of_the_wrong_type_ends_with_code_2(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stopped:
        command.parse(["--rl.kl-coef=much"])
    assert stopped.value.code == 2
    assert "--rl.kl-coef" in capsys.readouterr().err


def test_help_lists_the_stages_and_every_flag(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "200")
    with pytest.raises(SystemExit) as stopped:
        command.parse(["--help"])
    assert stopped.value.code == 0
    text = capsys.readouterr().out
    for stage in ("sft ", "rm ", "rl ", "improve ", "evaluate ", "all "):
        assert f"\n  {stage}" in text
    assert [name for name in flatten(Config()) if f"--{name.replace('_', '-')}" not in text] == []
    assert "--config=PATH" in text


def test_the_table_shows_what_differs() -> None:
    console = Console(width=100, file=io.StringIO(), record=True)
    console.print(command.resolved(command.parse(["--stage=rl", "--rl.kl-coef=0.77"])))
    text = console.export_text()
    assert "rl.kl_coef" in text and "0.77" in text
    assert "rl.gamma" not in text


def test_the_run_gets_the_config(pipeline: Callable[[Callable[[Config], None]], None]) -> None:
    seen: list[Config] = []
    pipeline(seen.append)
    assert command.main(["--stage=rm", "--seed=5"]) == 0
    assert (seen[0].stage, seen[0].seed) == ("rm", 5)


def test_several_seeds_are_run_by_the_loop_over_seeds(monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[Config] = []
    monkeypatch.setattr(seeds, "run", seen.append)
    assert command.main(["--stage=rm", "--seeds=3,5"]) == 0
    assert (seen[0].stage, seen[0].seeds) == ("rm", (3, 5))


def test_the_users_errors_are_one_line(
    pipeline: Callable[[Callable[[Config], None]], None], capsys: pytest.CaptureFixture[str]
) -> None:
    pipeline(lambda config: command.load_config(Path("gone.py")) and None)
    assert command.main([]) == 2
    assert capsys.readouterr().err.startswith("error: --config=gone.py: no such file")
    assert command.main(["--stage=rll"]) == 2
    assert capsys.readouterr().err.count("\n") == 1


@pytest.mark.parametrize(
    "bug", [KeyError("x"), ValueError("a slip, or a library's"), FileNotFoundError(2, "gone", "x")]
)
def test_bugs_keep_their_traceback(pipeline: Callable[[Callable[[Config], None]], None], bug: Exception) -> None:
    def run(config: Config) -> None:
        raise bug

    pipeline(run)
    with pytest.raises(type(bug)):
        command.main([])


def test_a_slip_of_our_own_is_a_bug(pipeline: Callable[[Callable[[Config], None]], None]) -> None:
    pipeline(lambda config: figures.distributions({"a": ["x"]}, xlabel="") and None)  # numpy: could not convert
    with pytest.raises(ValueError, match="could not convert"):
        command.main([])


def test_an_error_inside_jax_is_a_bug(pipeline: Callable[[Callable[[Config], None]], None]) -> None:
    pipeline(lambda config: jax.numpy.ones(3).reshape(2, 2) and None)
    with pytest.raises(TypeError):
        command.main([])


def test_ctrl_c_says_how_to_go_on(
    pipeline: Callable[[Callable[[Config], None]], None], capsys: pytest.CaptureFixture[str]
) -> None:
    def run(config: Config) -> None:
        raise KeyboardInterrupt

    pipeline(run)
    assert command.main([]) == 130
    assert "the same command resumes" in capsys.readouterr().err


def test_a_negative_number_of_devices(capsys: pytest.CaptureFixture[str]) -> None:
    assert command.main(["--mesh.simulate=-2"]) == 2
    assert "--mesh.simulate=-2: pass a number of devices" in capsys.readouterr().err
