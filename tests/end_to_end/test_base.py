"""Every stage on a checkpoint with adapters: a Llama of a few thousand weights. test_hh.py does the same in full."""

import json
from collections.abc import Callable
from pathlib import Path

from tests import tiny_checkpoint


def test_every_stage_runs_from_a_checkpoint(execute: Callable[..., str], tmp_path: Path) -> None:
    """The policy's SFT and the value models in full, everything else with adapters over that SFT."""
    folder, workdir = tiny_checkpoint.write(tmp_path / "llama"), tmp_path / "run"
    flags = (
        *(f"--base={folder}", "--data.prompt-length=64", "--data.response-length=96", "--transformer.no-pooled-head"),
        *("--adapter.rank=2", "--adapter.full", "sft-policy", "value"),
    )
    output = execute(workdir, "--stage=all", *flags)
    assert "PIT x1 vs policy" in output and (workdir / "report" / "index.html").exists()
    config = json.loads((workdir / "sft-policy" / "config.json").read_text())
    assert config["transformer.width"] == 16 and config["transformer.embedding_scale"] is False
    again = execute(workdir, "--stage=all", *flags)
    assert again.count("finished before, skipped") == 8
    exported = execute(workdir, "--stage=export", "--export.adapters=peft", *flags)
    assert "export:" in exported
    found = sorted(path.name for path in (workdir / "export").iterdir() if path.is_dir())
    assert found == ["gap", "improver", "policy", "reward", "sft-policy"]
    sizes = {name: (workdir / "export" / name / "adapter_model.safetensors").stat().st_size for name in found[:-1]}
    assert max(sizes.values()) < (workdir / "export" / "sft-policy" / "model.safetensors").stat().st_size / 4
    card = (workdir / "export" / "improver" / "README.md").read_text()
    assert "PIT x1 vs policy" in card and "rm-improver" in card
