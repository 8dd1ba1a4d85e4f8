"""What a person gets wrong: one clear message before anything compiles, exit code 2, nothing written over."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from pit_jax.stages import command

MICRO = str(Path(__file__).with_name("micro.py"))


@pytest.fixture
def refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> Callable[..., str]:
    """refused(*flags) -> the message of a command that must end with exit code 2."""

    def run(*flags: str, workdir: Path = tmp_path / "run") -> str:
        assert command.main([f"--config={MICRO}", f"--workdir={workdir}", *flags]) == 2
        return capsys.readouterr().err

    return run


def pair(**columns: object) -> str:
    return json.dumps({"prompt": "p", "chosen": "a", "rejected": "b", **columns}) + "\n"


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        (b"", "empty"),
        (pair().encode() + b'{"prompt": \n', "line 2"),
        (pair().encode() + b"\xff\xfe\n", "line 2"),
        (json.dumps({"question": "p", "good": "a"}).encode(), "question"),
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


@pytest.mark.parametrize(
    ("flags", "expected"),
    [
        (("--stage=sft", "--model=policy", "--data.sources", "jsonl:/no/such/file"), ("/no/such/file",)),
        (("--stage=sfd",), ("sfd", "did you mean sft")),
        (("--rl.kl-ceof=1",), ("kl-ceof", "did you mean --rl.kl-coef")),
        (("--stage=all", "--rl.temperature=0"), ("--rl.temperature=0",)),
        (("--stage=all", "--evaluate.temperatures", "0.4", "-1.0"), ("temperature=-1.0",)),
        (("--stage=all", "--improve.rounds=0"), ("--improve.rounds=0",)),
        (("--stage=all", "--improve.stop=bset"), ("bset", "did you mean best")),
        (("--stage=all", "--improve.stop-threshold=0.1"), ("no effect", "add --improve.stop=threshold")),
        (("--stage=rl",), ("rl-improver needs", "sft-improver", "--stage=sft --model=improver")),
        (("--stage=evaluate",), ("evaluate needs", "rl-policy")),
        (("--stage=sft", "--model=policy", "--mesh.fsdp=3"), ("mesh does not divide", "found 8")),
        (
            ("--stage=sft", "--model=policy", "--mesh.fsdp=8", "--sft.batch-size=12"),
            ("--sft.batch-size=12", "multiple of 16"),
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
