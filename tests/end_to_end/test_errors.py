"""What a person gets wrong: one clear message before anything compiles, exit code 2, nothing written over."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from tests import tiny_checkpoint


def pair(**columns: object) -> str:
    return json.dumps({"prompt": "p", "chosen": "a", "rejected": "b", **columns}) + "\n"


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        (b"", "empty"),
        (pair().encode() + b'{"prompt": \n', "line 2"),
        (pair().encode() + b"\xff\xfe\n", "line 2"),
        (json.dumps({"question": "p", "good": "a"}).encode(), "question"),
        (pair().encode() + pair(margin="wide").encode() * 2, "2 of 3 rows cannot be pairs"),
        (pair(chosen="b").encode(), "line 1"),
        (pair(rejected=" ").encode(), "line 1"),
    ],
)
def test_bad_pairs(refused: Callable[..., str], tmp_path: Path, content: bytes, expected: str) -> None:
    path = tmp_path / "pairs.jsonl"
    path.write_bytes(content)
    message = refused("--stage=sft", "--model=policy", "--data.sources", f"jsonl:{path}")
    assert expected in message and "pairs.jsonl" in message
    assert path.read_bytes() == content
    assert not (tmp_path / "run" / "data").exists()


def test_a_chat_template_that_raises(refused: Callable[..., str], tmp_path: Path) -> None:
    """Before anything compiles, and before a folder of data appears."""
    folder = tiny_checkpoint.write(tmp_path / "llama", chat="{{ raise_exception('only on Mondays') }}")
    flags = (f"--base={folder}", "--data.prompt-length=64", "--data.response-length=96")
    message = refused("--stage=sft", "--model=policy", *flags)
    for part in (str(folder), "raises 'only on Mondays'", "change chat_template, or remove it"):
        assert part in message
    assert not (tmp_path / "run" / "data").exists() and not (tmp_path / "run" / "sft-policy").exists()


@pytest.mark.parametrize(
    ("flags", "expected"),
    [
        (("--stage=sft", "--model=policy", "--data.sources", "jsonl:/no/such/file"), ("/no/such/file",)),
        (("--stage=sft", "--model=policy", "--data.sources", "hh:harmless-base"), ("hf download Anthropic/hh-rlhf",)),
        (("--stage=data", "--seeds=0,1"), ("--stage=data", "leave it out")),
        (("--stage=sfd",), ("sfd", "did you mean sft")),
        (("--rl.kl-ceof=1",), ("kl-ceof", "did you mean --rl.kl-coef")),
        (("--stage=all", "--rl.temperature=0"), ("--rl.temperature=0",)),
        (("--stage=all", "--evaluate.temperatures", "0.4", "-1.0"), ("--evaluate.temperatures 0.4 -1.0: asked",)),
        (("--stage=all", "--improve.rounds=0"), ("--improve.rounds=0",)),
        (("--stage=all", "--improve.stop=bset"), ("bset", "did you mean best")),
        (("--stage=all", "--improve.stop-threshold=0.1"), ("no effect", "add --improve.stop=threshold")),
        (("--stage=rl",), ("rl-improver needs", "sft-improver", "--stage=sft --model=improver")),
        (("--stage=rl", "--rm.second-gap-steps=5"), ("rm-second-gap", "--stage=rm --model=second-gap")),
        (("--stage=rl", "--rm.word-model=1"), ("rm-word-model", "--stage=rm --model=word-model")),
        (("--stage=sft", "--model=second-gap"), ("--stage=sft --model=second-gap", "for policy, improver alone")),
        (("--stage=all", "--rl.monitors.worst-case"), ("--rl.monitors.worst-case", "--rm.second-gap-steps=0")),
        (("--stage=evaluate",), ("evaluate needs", "rl-policy")),
        (("--stage=sft", "--model=policy", "--mesh.fsdp=3"), ("mesh does not divide", "found 8")),
        (
            ("--stage=sft", "--model=policy", "--mesh.fsdp=8", "--sft.batch-size=12"),
            ("--sft.batch-size=12", "make it 16"),
        ),
        (("--stage=sft", "--model=policy", "--workdir=/proc/nowhere"), ("/proc/nowhere",)),
    ],
)
def test_bad_commands(refused: Callable[..., str], flags: tuple[str, ...], expected: tuple[str, ...]) -> None:
    message = refused(*flags)
    for part in expected:
        assert part in message


def test_a_changed_knob_is_named_and_nothing_is_touched(
    finished: tuple[Path, str], refused: Callable[..., str]
) -> None:
    workdir = finished[0]
    before = {path: path.read_bytes() for path in workdir.glob("rl-improver/*.json*")}
    message = refused("--stage=all", "--rl.kl-coef=0.33", workdir=workdir)
    assert "rl.kl_coef: 0.15 -> 0.33" in message
    assert {path: path.read_bytes() for path in before} == before


def test_rl_refuses_a_gap_model_that_learned_nothing(
    finished: tuple[Path, str], refused: Callable[..., str], tmp_path: Path
) -> None:
    """The micro run's gap model saw eight batches. The text names gate, figure, limit and what to do."""
    workdir = tmp_path / "run"
    shutil.copytree(finished[0], workdir, ignore=shutil.ignore_patterns("rl-improver", "improve", "evaluate", "report"))
    model = workdir / "rm-improver"
    found = {gate["name"]: gate for gate in json.loads((model / "quality.json").read_text())["gates"]}
    others = ", ".join(name for name, gate in found.items() if not gate["passed"] and name != "accuracy")
    message = refused("--stage=rl", "--rl.no-ignore-gates", "--rm.gates.min-accuracy=0.99", workdir=workdir)
    assert message == (
        f"error: stage rl-improver refuses the gap model of {model}: gate accuracy {found['accuracy']['figure']:.3f}, "
        "asked for at least 0.990 (the model does not prefer the better answer often enough for this many pairs: it "
        f"has not learned the labels, or they hold nothing to learn){'; also failed: ' + others if others else ''}. "
        f"Mend its data or its training (delete {model} to train it again), move the limit with "
        "--rm.gates.min-accuracy, or run anyway with --rl.ignore-gates\n"
    )
    assert not (workdir / "rl-improver").exists()
