"""The pages of docs/howto are true: what they show is a file of the checkout, and their commands run as they stand."""

import importlib.util
import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from pit_jax.flags import parse
from tests import tiny_checkpoint

ROOT = Path(__file__).resolve().parents[2]
PAGES = sorted((ROOT / "docs" / "howto").glob("*.md"))
EXPORT = ROOT / "docs" / "howto" / "export_and_serve.md"
POD = ROOT / "docs" / "howto" / "pod.md"  # tests/launch/test_pod_page.py
REAL = ROOT / "docs" / "howto" / "real_model.md"  # downloads a model
NOT_HERE = (EXPORT, POD, REAL)
LEFT = {  # what a page leaves behind, in the folder where its commands were run
    "improve_my_answers": ("runs/mine/improve/trails.jsonl",),
    "own_data": ("runs/mixed/inspect/index.html", "runs/own/inspect/index.html", "runs/ranked/inspect/index.html"),
    "own_judge": ("runs/micro/verdicts/overlap",),
    "own_objective": ("runs/hinge/hinge-policy/done.json", "runs/hinge/rl-policy/done.json", "runs/hinge/report"),
    "own_reward": ("runs/short/rl-improver/done.json",),
    "own_world": ("runs/countdown/inspect/index.html",),
    "spa": (
        "runs/micro/spa-policy/labelled/iteration-2.jsonl",
        "runs/micro/spa-tables/results.json",
        "runs/micro/spa/without-refinement/spa-policy/done.json",
        "runs/self-labelled/inspect/index.html",
    ),
    "own_rl_algorithm": tuple(f"runs/{name}/rl-improver/done.json" for name in ("rloo", "reinforce", "references")),
}


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_a_page_shows_files_as_they_are(page: Path) -> None:
    text = page.read_text()
    shown = re.findall(r"<!-- file: (\S+) -->\n```python\n(.*?)^```$", text, flags=re.DOTALL | re.MULTILINE)
    assert len(shown) == text.count("```python"), "python that is no file is run by nobody"
    assert [name for name, code in shown if (ROOT / name).read_text() != code] == []


def test_every_fork_of_the_examples_is_checked_by_a_page() -> None:
    checked = re.findall(
        r"^python -m pit_jax\.fork check (\S+)", "\n".join(page.read_text() for page in PAGES), re.MULTILINE
    )
    assert sorted(checked) == sorted(str(path.relative_to(ROOT)) for path in (ROOT / "examples/forks").glob("*.py"))


@pytest.mark.parametrize("page", [page for page in PAGES if page not in NOT_HERE], ids=lambda page: page.stem)
def test_the_commands_of_a_page_run(
    page: Path, finished: tuple[Path, str], environment: dict[str, str], tmp_path: Path
) -> None:
    """In a folder with the checkout's examples and the finished run that the pages go on from."""
    shutil.copytree(finished[0], tmp_path / "runs" / "micro")
    run_lines(blocks(page), environment, tmp_path)
    assert [name for name in LEFT.get(page.stem, ()) if not (tmp_path / name).exists()] == []


def test_an_export_is_made_and_served(environment: dict[str, str], tmp_path: Path) -> None:
    """From a Llama of a few thousand weights with adapters, through every stage; without torch all but the serving."""
    tiny_checkpoint.write(tmp_path / "checkpoints" / "llama")
    everything = blocks(EXPORT)
    make = [block for block in everything if "serve_exported" not in block]
    output = run_lines(everything if importlib.util.find_spec("torch") else make, environment, tmp_path)
    workdir = tmp_path / "runs" / "llama"
    assert "PIT x1 vs policy" in output and (workdir / "report" / "index.html").exists()
    config = json.loads((workdir / "sft-policy" / "config.json").read_text())
    assert config["transformer.width"] == 16 and config["transformer.embedding_scale"] is False
    models = ["gap", "improver", "policy", "reward"]
    assert sorted(path.name for path in (workdir / "export").iterdir() if path.is_dir()) == models
    card = (workdir / "export" / "improver" / "README.md").read_text()
    assert "PIT x1 vs policy" in card and "rm-improver" in card
    whole = (workdir / "export" / "policy" / "model.safetensors").stat().st_size

    shutil.rmtree(workdir / "export")
    (line,) = [line for line in "".join(make).splitlines() if "--stage=export" in line]
    run_lines([f"{line} --export.adapters=peft"], environment, tmp_path)
    sizes = [(workdir / "export" / name / "adapter_model.safetensors").stat().st_size for name in models]
    assert max(sizes) < whole / 2

    flags = "--workdir=runs/llama --results=measured"
    output = run_lines([f"PYTHONPATH={ROOT} python -m benchmarks.drift {flags}"], environment, tmp_path)
    assert "drift from checkpoints/llama" in output
    figures = json.loads((tmp_path / "measured" / "drift.jsonl").read_text())["figures"]
    drift = {row["system"]: row for row in figures["rows"]}
    assert sum("KL, nats" in row for row in drift.values()) == 4 and "KL, nats" in drift["PIT x1"]
    # The untouched model is as good as random: hundreds of tokens are as likely; a few updates leave it near.
    assert all(100 < row["perplexity"] < 1000 and abs(row.get("KL, nats", 0)) < 20 for row in drift.values())


def test_the_commands_for_a_real_checkpoint_can_be_given(tmp_path: Path) -> None:
    """Every flag is one, and every benchmark has those that it is given."""
    base = tiny_checkpoint.write(tmp_path / "base")
    lines = [line.split() for line in "".join(blocks(REAL)).replace("=checkpoints/smollm2", f"={base}").splitlines()]
    assert [parse(words[1:]).stage for words in lines if words[0] == "pit-jax"] == ["data", "all", "all", "export"]
    for words in lines:
        if words[0] == "python":
            name = f"{words[2].replace('.', '/')}.py" if words[1] == "-m" else words[1]
            source = (ROOT / name).read_text()
            flags = [word.partition("=")[0] for word in words[2:] if word.startswith("--")]
            assert [flag for flag in flags if f'"{flag}"' not in source] == []


def blocks(page: Path) -> list[str]:
    """What a page asks a shell to run."""
    return re.findall(r"```bash\n(.*?)```", page.read_text(), flags=re.DOTALL)


def run_lines(lines: list[str], environment: dict[str, str], folder: Path) -> str:
    """Run commands in a folder beside the checkout's examples; what they printed."""
    if not (folder / "examples").exists():
        (folder / "examples").symlink_to(ROOT / "examples")
    path = os.pathsep.join([str(Path(sys.executable).parent), environment["PATH"]])
    done = subprocess.run(
        ["bash", "-euo", "pipefail", "-c", "\n".join(lines)],
        env={**environment, "PATH": path},
        cwd=folder,
        capture_output=True,
        text=True,
        timeout=1200,
    )
    assert done.returncode == 0, done.stdout[-4000:] + done.stderr[-4000:]
    return done.stdout
