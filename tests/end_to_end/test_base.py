"""Every stage on a checkpoint, here a Llama of a few thousand weights."""

import json
from collections.abc import Callable
from pathlib import Path

from tests.stages import tiny_checkpoint


def test_every_stage_runs_from_a_checkpoint(execute: Callable[..., str], tmp_path: Path) -> None:
    folder, workdir = tiny_checkpoint.write(tmp_path / "llama"), tmp_path / "run"
    flags = (f"--base={folder}", "--data.prompt-length=64", "--data.response-length=96", "--transformer.no-pooled-head")
    output = execute(workdir, "--stage=all", *flags)
    assert "PIT x1 vs policy" in output and (workdir / "report" / "index.html").exists()
    config = json.loads((workdir / "sft-policy" / "config.json").read_text())
    assert config["transformer.width"] == 16 and config["transformer.embedding_scale"] is False
    again = execute(workdir, "--stage=all", *flags)
    assert again.count("finished before, skipped") == 8
    exported = execute(workdir, "--stage=export", *flags)
    assert "export:" in exported
    found = sorted(path.name for path in (workdir / "export").iterdir() if path.is_dir())
    assert found == ["gap", "improver", "policy", "reward"]
    card = (workdir / "export" / "improver" / "README.md").read_text()
    assert "PIT x1 vs policy" in card and "rm-improver" in card
