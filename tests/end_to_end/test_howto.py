"""The pages of docs/howto are true: what they show is a file of the checkout, and their commands run as they stand."""

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests import tiny_checkpoint

ROOT = Path(__file__).resolve().parents[2]
PAGES = sorted((ROOT / "docs" / "howto").glob("*.md"))
LEFT = {  # what a page leaves behind, in the folder where its commands were run
    "export_and_serve": ("runs/llama/export/gap/model.safetensors",),
    "improve_my_answers": ("runs/mine/improve/trails.jsonl",),
    "own_data": ("runs/mixed/inspect/index.html", "runs/ranked/inspect/index.html"),
    "own_judge": ("runs/micro/verdicts/overlap",),
    "own_objective": ("runs/hinge/hinge-policy/done.json", "runs/hinge/rl-policy/done.json", "runs/hinge/report"),
    "own_reward": ("runs/short/rl-improver/done.json",),
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


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_the_commands_of_a_page_run(
    page: Path, finished: tuple[Path, str], environment: dict[str, str], tmp_path: Path
) -> None:
    """In a folder with the checkout's examples, the finished run that the pages go on from, and a checkpoint."""
    if "serve_exported" in page.read_text():
        pytest.importorskip("torch")
        tiny_checkpoint.write(tmp_path / "checkpoints" / "llama")
    (tmp_path / "examples").symlink_to(ROOT / "examples")
    shutil.copytree(finished[0], tmp_path / "runs" / "micro")
    blocks = re.findall(r"```bash\n(.*?)```", page.read_text(), flags=re.DOTALL)
    path = os.pathsep.join([str(Path(sys.executable).parent), environment["PATH"]])
    done = subprocess.run(
        ["bash", "-euo", "pipefail", "-c", "\n".join(blocks)],
        env={**environment, "PATH": path},
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=1200,
    )
    assert done.returncode == 0, done.stdout[-4000:] + done.stderr[-4000:]
    assert [name for name in LEFT.get(page.stem, ()) if not (tmp_path / name).exists()] == []
