"""`--seeds`: ordinary runs beside each other, on one data folder, that a second command finds finished."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from pit_jax import cli


@pytest.fixture(scope="module")
def repeated(once: Callable[..., tuple[Path, str]], execute: Callable[..., str]) -> Path:
    """The workdir of the policy's SFT over two seeds."""
    flags = ("--stage=sft", "--model=policy", "--seeds=0,1", "--sft.policy-steps=3")
    workdir, output = once("repeated", lambda folder: execute(folder, *flags))
    assert output.count("data: reading world:notes") == 1
    return workdir


def test_seeds_share_the_data_and_differ_in_their_weights(repeated: Path) -> None:
    assert sorted(path.name for path in repeated.iterdir()) == ["data", "report", "seed-0", "seed-1", "seeds.json"]
    fingerprints, digests = [], []
    for seed in (0, 1):
        folder = repeated / f"seed-{seed}"
        assert sorted(path.name for path in folder.iterdir()) == ["run.json", "sft-policy"]  # nothing copied or linked
        assert json.loads((folder / "sft-policy" / "config.json").read_text())["seed"] == seed
        fingerprints.append(json.loads((folder / "sft-policy" / "lineage.json").read_text())["data"])
        (meta,) = (folder / "sft-policy" / "checkpoints" / "3" / "meta").glob("metadata")
        digests.append({name: leaf["digest"] for name, leaf in json.loads(meta.read_text())["leaves"].items()})
    assert fingerprints[0] == fingerprints[1]
    assert digests[0].keys() == digests[1].keys() and digests[0] != digests[1]
    assert json.loads((repeated / "seeds.json").read_text()) == {"seeds": [0, 1]}


def test_a_second_command_skips_what_is_finished(repeated: Path, execute: Callable[..., str]) -> None:
    before = {path: path.stat().st_mtime_ns for path in repeated.glob("seed-*/sft-policy/done.json")}
    output = execute(repeated, "--stage=sft", "--model=policy", "--seeds", "0", "1", "--sft.policy-steps=3")
    assert output.count("sft-policy: finished before, skipped") == 2 and "data: reading" not in output
    assert len(before) == 2 and {path: path.stat().st_mtime_ns for path in before} == before


def test_one_seed_goes_on_as_a_run_of_its_own(repeated: Path, execute: Callable[..., str]) -> None:
    output = execute(repeated / "seed-1", "--stage=sft", "--model=policy", "--seed=1", "--sft.policy-steps=3")
    assert "sft-policy: finished before, skipped" in output and "data: reading" not in output
    assert not (repeated / "seed-1" / "data").exists()


def test_a_knob_that_changed_is_named_with_its_seed(
    repeated: Path, command: Callable[..., list[str]], capsys: pytest.CaptureFixture[str]
) -> None:
    flags = command(repeated, "--stage=sft", "--model=policy", "--seeds=1,0", "--sft.policy-steps=4")[2:]
    assert cli.main(flags) == 2
    error = capsys.readouterr().err
    assert f"{repeated / 'seed-1' / 'sft-policy'} changed (sft.policy_steps: 3 -> 4)" in error


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (("--seeds=0,one",), "asked for whole numbers, found 'one'"),
        (("--seeds=0",), "asked for two or more, found 0"),
        (("--seeds=2,2",), "2 is there twice"),
        (("--seeds=0,-1",), "--seeds 0 -1: asked for [0<=INT<2**32 ..]"),
        (("--seeds=0,1", "--seed=0"), "--seed=0 beside the seeds 0,1"),
    ],
)
def test_seeds_that_make_no_sense_end_before_anything_runs(
    flags: tuple[str, ...],
    message: str,
    command: Callable[..., list[str]],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert cli.main(command(tmp_path / "run", "--stage=sft", *flags)[2:]) == 2
    error = capsys.readouterr().err
    assert message in error and error.count("\n") == 1
    assert not (tmp_path / "run").exists()
