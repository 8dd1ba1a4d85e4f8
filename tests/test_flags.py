"""Flags over a config, words that are wrong, and what --help tells."""

from pathlib import Path

import pytest

from pit_jax import flags
from pit_jax.config import Config, flatten
from pit_jax.recipes.catalogue import STAGES, stage_names
from pit_jax.shipped import load_config


def test_no_flags_give_the_default_config() -> None:
    assert flags.parse([]) == load_config(flags.DEFAULT_CONFIG) == load_config("tiny")


@pytest.mark.parametrize(
    ("argv", "name", "value"),
    [
        (["--stage=rl"], "stage", "rl"),
        (["--stage", "sft"], "stage", "sft"),
        (["--rl.kl-coef=0.1"], "rl.kl_coef", 0.1),
        (["--rl.kl_coef", "0.1"], "rl.kl_coef", 0.1),
        (["--rl.optimizer.learning-rate=3e-4"], "rl.optimizer.learning_rate", 3e-4),
        (["--mesh.data=-1", "--mesh.fsdp=4"], "mesh.fsdp", 4),
        (["--transformer.no-tied"], "transformer.tied", False),
        (["--transformer.tied=false"], "transformer.tied", False),
        (["--transformer.pooled-head"], "transformer.pooled_head", True),
        (["--transformer.pooled-head=True"], "transformer.pooled_head", True),
        (["--transformer.remat=dots"], "transformer.remat", "dots"),
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
    assert flatten(flags.parse(argv))[name] == value


def test_every_knob_is_a_flag() -> None:
    """All at once, each by a step of its own."""
    base = flatten(flags.parse([]))
    numbers = {name: value for name, value in base.items() if not isinstance(value, str | bool | list)}
    # Those up to 1 stay below a half, as shares must.
    wanted = {
        name: value + step if isinstance(value, int) or value > 1 else step / 1009
        for step, (name, value) in enumerate(numbers.items(), 1)
    }
    written = [f"--{name.replace('_', '-')}={value}" for name, value in wanted.items()]
    assert flatten(flags.parse(written)) == base | wanted and len(wanted) > 70


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
            r"--stage: unknown 'rll'; did you mean rl\?; known: data, sft, rm, rl, dpo, .*, export, plan, all",
        ),
        (["--stage", "evalute"], r"did you mean evaluate\?"),
        (["--model=both"], "--model: unknown 'both'; known: policy, improver, second-gap"),
        (["--stage"], "--stage: unknown ''"),
        (["--transformer.dtype=float16"], "known: float32, bfloat16"),
        (["--transformer.tied=maybe"], r"a switch is written --transformer\.tied, .* or --transformer\.no-tied"),
        (["--rl.no-kl-coef=1"], "unknown flag --rl.no-kl-coef"),
        (["rl"], "did not expect 'rl'"),
        (["--seeds"], "--seeds: asked for two or more, found none; write --seeds=0,1,2"),
        (["--seeds=4"], "--seeds: asked for two or more, found 4"),
        (["--seeds=0,x,2"], "--seeds: asked for whole numbers, found 'x'"),
        (["--seeds", "0", "1.5"], "--seeds: asked for whole numbers, found '1.5'"),
        (["--seeds=0,1", "rl"], "--seeds: asked for whole numbers, found 'rl'"),
        (["--seeds=0,1,0"], "--seeds=0,1,0: 0 is there twice"),
        (
            ["--seed=-1", "--improve.limit=-3"],
            r"0<=INT<2\*\*32; --improve.limit=-3: asked for INT>=0",
        ),
        (["--seeds=0,1", "--seed=3"], "--seed=3 beside the seeds 0,1: drop one of the two flags"),
        (["--seed", "0", "--seeds", "0", "1"], "--seed=0 beside the seeds 0,1"),
        (["--config"], "--config: asked for a path, found nothing"),
        (["--config", "--stage=rl"], "asked for a path, found --stage=rl"),
        (["--fork", "--stage=rl"], "--fork: asked for a path, found --stage=rl; write --fork=PATH"),
        (
            ["--config=nohwere.py"],
            r"--config=nohwere\.py: no such file; .*pass a Python file, or one of forkme, hh_rlhf",
        ),
    ],
)
def test_a_wrong_word_is_named_with_the_nearest(argv: list[str], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        flags.parse(argv)


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
        flags.parse([f"--config={path}"])


def test_flags_win_over_the_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    path = tmp_path / "mine.py"
    path.write_text("from pit_jax.config import Config\n\ndef get_config(): return Config(seed=7, workdir='w')\n")
    for named in (str(path), "~/mine.py"):
        config = flags.parse(["--config", named, "--seed=8"])
        assert (config.seed, config.workdir) == (8, "w")


def test_seeds_of_the_file_are_checked_like_those_of_the_flag(tmp_path: Path) -> None:
    path = tmp_path / "mine.py"
    path.write_text("from pit_jax.config import Config\n\ndef get_config(): return Config(seeds=(3, 3))\n")
    with pytest.raises(ValueError, match="--seeds=3,3: 3 is there twice"):
        flags.parse(["--config", str(path)])
    with pytest.raises(ValueError, match="--seed=5 beside the seeds 1,2"):
        flags.parse(["--config", str(path), "--seeds=1,2", "--seed=5"])
    assert flags.parse(["--config", str(path), "--seeds=1,2"]).seeds == (1, 2)


def test_a_value_of_the_wrong_type_ends_with_code_2(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stopped:
        flags.parse(["--rl.kl-coef=much"])
    assert stopped.value.code == 2
    assert "--rl.kl-coef" in capsys.readouterr().err


def test_help_has_a_line_for_every_stage_and_every_flag(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "200")
    with pytest.raises(SystemExit) as stopped:
        flags.parse(["--help"])
    assert stopped.value.code == 0
    lines = capsys.readouterr().out.splitlines()
    text = "\n".join(lines)
    told = [line.split()[0] for line in lines if line.startswith("  ") and line.split()[:1] != []]
    places = [told.index(name) for name in stage_names()]
    assert places == sorted(places), "in the order of the catalogue"
    for stage in STAGES:
        mark = " " if stage.in_all(Config()) else "*"
        role = f" ({stage.role})" if stage.role else ""
        assert f"  {stage.name:<11}{mark} {stage.help}{role}" in [line.rstrip() for line in lines]
    assert [name for name in flatten(Config()) if f"--{name.replace('_', '-')}" not in text] == []
    assert "--config=PATH" in text and "--fork=FILE" in text


def test_what_all_leaves_out_is_marked() -> None:
    marked = {line.split()[0] for line in flags.description().splitlines() if line[13:14] == "*"}
    assert {"data", "dpo", "paper", "export", "answer", "judge"} <= marked
    assert not marked & {"sft", "rl", "improve", "evaluate"}
