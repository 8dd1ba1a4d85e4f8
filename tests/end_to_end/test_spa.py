"""SPA on the micro run: what a person finds, that kills at any place cost no bit, and what is refused."""

import json
import math
import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

PHASES = ("seed", "iteration-1", "iteration-2")
SAMPLES = "spa-x2@0.7.jsonl"


@pytest.fixture(scope="module")
def spa(finished: tuple[Path, str], once: Any, execute: Callable[..., str]) -> tuple[Path, str]:
    """(workdir, output) of an uninterrupted `--stage=spa` behind the policy's SFT."""

    def make(workdir: Path) -> str:
        for name in ("data", "sft-policy"):
            shutil.copytree(finished[0] / name, workdir / name)
        return execute(workdir, "--stage=spa")

    found: tuple[Path, str] = once("spa", make)
    return found


def files(workdir: Path) -> dict[str, bytes]:
    """What SPA leaves, by name: pairs, samples, manifests and done markers."""
    folder = workdir / "spa-policy"
    found = [
        path for path in folder.rglob("*.json*") if path.name != "metrics.jsonl" and "checkpoints" not in path.parts
    ]
    return {str(path.relative_to(folder)): path.read_bytes() for path in found}


def manifest(workdir: Path, phase: str) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((workdir / "spa-policy" / phase / "manifest.json").read_text())
    return found


def pairs(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text().splitlines()]


def unfinished(workdir: Path) -> Path:
    """The folder of the last iteration, of a run that has not got through it."""
    folder = workdir / "spa-policy"
    (folder / "done.json").unlink()
    shutil.rmtree(folder / "labelled")
    (folder / "iteration-2" / "done.json").unlink()
    return folder / "iteration-2"


def last_checkpoints_gone(workdir: Path) -> None:
    """Killed between two checkpoints."""
    checkpoints = unfinished(workdir) / "checkpoints"
    rounds = sorted(int(path.name) for path in checkpoints.iterdir() if path.name.isdigit())
    assert len(rounds) > 1
    shutil.rmtree(checkpoints / str(rounds[-1]))


def samples_cut_off(workdir: Path) -> None:
    """Killed while answers were drawn: the file ends in the middle of a line, in the middle of a chunk of 16."""
    folder = unfinished(workdir)
    lines = (folder / SAMPLES).read_bytes().splitlines(keepends=True)
    kept = b"".join(lines[:20]) + lines[20][:30]
    shutil.rmtree(folder)
    folder.mkdir()
    (folder / SAMPLES).write_bytes(kept)


def labelled_without_a_manifest(workdir: Path) -> None:
    """Killed between pairs and their manifest."""
    folder = unfinished(workdir)
    (folder / "manifest.json").unlink()
    for name in ("checkpoints", "tensorboard"):
        shutil.rmtree(folder / name)
    (folder / "metrics.jsonl").unlink()


def iteration_not_begun(workdir: Path) -> None:
    """Killed between two iterations."""
    shutil.rmtree(unfinished(workdir))


@pytest.mark.parametrize(
    "kill",
    [
        last_checkpoints_gone,
        samples_cut_off,
        # More is left, and less, than of samples that were cut off.
        pytest.param(labelled_without_a_manifest, marks=pytest.mark.slow),
        pytest.param(iteration_not_begun, marks=pytest.mark.slow),
    ],
)
def test_a_killed_run_ends_as_if_it_had_not_been(
    spa: tuple[Path, str], execute: Callable[..., str], tmp_path: Path, kill: Callable[[Path], None]
) -> None:
    """The same models by their digests, the same answers, pairs and figures, to the byte; what was done stays."""
    shutil.copytree(spa[0], tmp_path, dirs_exist_ok=True)
    kill(tmp_path)
    earlier = tmp_path / "spa-policy" / "iteration-1" / "metrics.jsonl"
    before = earlier.stat().st_mtime_ns
    execute(tmp_path, "--stage=spa")
    found, expected = files(tmp_path), files(spa[0])
    assert found.keys() == expected.keys()
    assert [name for name in expected if found[name] != expected[name]] == []
    assert earlier.stat().st_mtime_ns == before


def test_every_pair_is_the_best_and_the_worst_of_its_samples(spa: tuple[Path, str]) -> None:
    """Of each prompt but those that are counted; gold prompts and those of the iterations are disjoint."""
    workdir, seen = spa[0] / "spa-policy", set[str]()
    for phase in PHASES:
        found, known = pairs(workdir / phase / "pairs.jsonl"), manifest(spa[0], phase)
        prompts = {row["prompt"] for row in found}
        assert known["pairs"]["count"] == len(found) > 20 and not prompts & seen
        seen |= prompts
        if phase == "seed":
            continue
        (file,) = (workdir / phase).glob("spa-x*@0.7.jsonl")
        drawn = {row["prompt"]: row for row in pairs(file)}
        assert known["prompts"]["count"] == len(drawn) == len(found) + sum(known["dropped"].values())
        assert known["samples"]["answers"] == 2 * len(drawn)
        for row in found:
            texts = [draft["text"] for draft in drawn[row["prompt"]]["drafts"]]
            assert sorted(texts) == sorted([row["chosen"], row["rejected"]])


def test_phases_follow_each_other_from_the_sft_model(spa: tuple[Path, str]) -> None:
    """Each names what it was trained from; agreement with gold labels, noise and held-out figures are there."""
    done = [json.loads((spa[0] / "spa-policy" / phase / "done.json").read_text()) for phase in PHASES]
    sft = json.loads((spa[0] / "sft-policy" / "done.json").read_text())["digest"]
    parents = [manifest(spa[0], phase)["parents"] for phase in PHASES]
    assert [parent["trained from"] for parent in parents] == [sft, done[0]["digest"], done[1]["digest"]]
    assert {parent["sft"] for parent in parents} == {sft}
    assert len({sft, *(marker["digest"] for marker in done)}) == 4
    assert json.loads((spa[0] / "spa-policy" / "done.json").read_text())["digest"] == done[2]["digest"]
    size = json.loads((spa[0] / "spa-policy" / "config.json").read_text())["spa.batch_size"]
    for phase in PHASES:
        found = manifest(spa[0], phase)
        updates = 9 if phase == "seed" else math.ceil(found["pairs"]["count"] / size)  # how many make a pair is drawn
        assert found["training"]["updates"] == updates and found["held-out"]["prompts"] == 75
        assert (0 < found["training"]["noisy"] < 0.5) == (phase != "seed")
        assert phase == "seed" or 0 <= found["labels"]["against gold"]["accuracy"] <= 1


def test_a_person_sees_a_line_a_phase(spa: tuple[Path, str]) -> None:
    assert [phase for phase in PHASES if re.search(rf"^{phase} +\d+ ", spa[1], re.MULTILINE)] == list(PHASES)


def test_pairs_that_were_changed_are_refused(
    spa: tuple[Path, str], refused: Callable[..., str], tmp_path: Path
) -> None:
    workdir = shutil.copytree(spa[0], tmp_path / "changed")
    path = unfinished(workdir) / "pairs.jsonl"
    path.write_text(path.read_text().replace('"chosen": "', '"chosen": "x', 1))
    said = refused("--stage=spa", workdir=workdir)
    assert said.count("error:") == 1 and f"{path} is not what was labelled: digest " in said
    assert f"put it back, or delete {path.parent} to make the iteration again" in said


def test_all_pairs_are_a_source_of_their_own(
    spa: tuple[Path, str], execute: Callable[..., str], tmp_path: Path
) -> None:
    """Gold and own pairs, and the other folds as they are, which docs/howto/spa.md reads; and one iteration alone."""
    labelled = spa[0] / "spa-policy" / "labelled"
    lines = {path.stem: len(path.read_text().splitlines()) for path in labelled.iterdir()}
    own = {phase: manifest(spa[0], phase)["pairs"]["count"] for phase in PHASES}
    assert lines == {"gold": own.pop("seed"), **own, "other-folds": 263 + 251 + 75}
    wide = ("--data.prompt-length=128", "--data.response-length=256")  # a model that has learned nothing ends no answer
    last = spa[0] / "spa-policy" / "iteration-2" / "pairs.jsonl"
    execute(tmp_path, "--stage=data", f"--data.sources=pairs:{last}", *wide)
    folds = json.loads((tmp_path / "data" / "report.json").read_text())["folds"]
    assert {name: fold["examples"] for name, fold in folds.items()} == {
        "sft": 0,
        "rm": own["iteration-2"],
        "rl": 0,
        "heldout": 0,
    }
