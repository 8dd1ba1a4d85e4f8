"""A stage's folder: its config, lineage and done marker, and the rule that a folder belongs to one config."""

import json
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pit_jax.config import Config, config_hash, flatten

# The knobs that decide what a training stage computes; mesh and checkpoint rhythm may change between runs.
SECTIONS = {
    "sft": ("seed", "data", "tokenizer", "transformer", "sft"),
    "rm": ("seed", "data", "tokenizer", "transformer", "rm"),
    "rl": ("seed", "data", "tokenizer", "transformer", "rl"),
    "improve": ("seed", "data", "tokenizer", "transformer", "improve"),
    "evaluate": ("seed", "data", "tokenizer", "transformer", "improve", "evaluate"),
}
WITHOUT_EFFECT = ("transformer.remat", "transformer.unroll", "rl.ignore_gates")
GATES = "rm.gates."  # limits on what was trained: they stop a stage, and change none

PARENTS = {
    ("sft", "policy"): (),
    ("sft", "improver"): (("sft", "policy"),),
    ("rm", "policy"): (("sft", "policy"),),
    ("rm", "improver"): (("sft", "improver"),),
    ("rl", "policy"): (("sft", "policy"), ("rm", "policy")),
    ("rl", "improver"): (("sft", "policy"), ("sft", "improver"), ("rm", "improver"), ("rl", "policy")),
    ("improve", ""): (("rl", "policy"), ("rl", "improver"), ("rm", "improver")),
    ("evaluate", ""): (
        ("sft", "policy"),
        ("sft", "improver"),
        ("rl", "policy"),
        ("rl", "improver"),
        ("rm", "improver"),
    ),
}


def write_json(path: Path, content: Any) -> None:
    """Atomically: a reader sees the old file or the new one."""
    temporary = path.with_name(path.name + ".tmp")
    temporary.write_text(json.dumps(content, indent=1, sort_keys=True) + "\n", encoding="utf-8")
    os.replace(temporary, path)


def write_jsonl(path: Path, rows: list[dict[str, Any]]) -> None:
    """One JSON object a line, atomically."""
    temporary = path.with_name(path.name + ".tmp")
    temporary.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows), encoding="utf-8")
    os.replace(temporary, path)


def stage_name(stage: str, model: str) -> str:
    return f"{stage}-{model}" if model else stage


def relevant_config(config: Config, stage: str) -> dict[str, Any]:
    """The flat knobs that decide what `stage` computes."""
    flat = {k: v for k, v in flatten(config).items() if k not in WITHOUT_EFFECT and not k.startswith(GATES)}
    return {k: v for k, v in flat.items() if k.split(".")[0] in SECTIONS[stage]}


@dataclass(frozen=True)
class StageFolder:
    """workdir/<stage>-<model>/ of one run."""

    workdir: Path
    stage: str
    model: str

    @property
    def name(self) -> str:
        return stage_name(self.stage, self.model)

    @property
    def path(self) -> Path:
        return self.workdir / self.name

    def done(self) -> dict[str, Any] | None:
        """The done marker of a finished stage."""
        marker = self.path / "done.json"
        return json.loads(marker.read_text(encoding="utf-8")) if marker.exists() else None

    def parents(self) -> tuple["StageFolder", ...]:
        return tuple(StageFolder(self.workdir, *parent) for parent in PARENTS[self.stage, self.model])

    def check_parents(self) -> None:
        """ValueError that names the stages to run first, if any is not finished."""
        missing = [parent for parent in self.parents() if parent.done() is None]
        if missing:
            found = sorted(p.parent.name for p in self.workdir.glob("*/done.json"))
            commands = "; ".join(f"--stage={p.stage}" + (f" --model={p.model}" if p.model else "") for p in missing)
            raise ValueError(
                f"stage {self.name} needs finished {', '.join(p.name for p in missing)} in {self.workdir}, "
                f"found {', '.join(found) or 'no finished stage'}; run first: {commands} (or --stage=all)"
            )

    def check_config(self, config: Config) -> None:
        """ValueError that names the changed knobs when this folder was made with other ones."""
        path = self.path / "config.json"
        if not path.exists():
            return
        before, now = json.loads(path.read_text(encoding="utf-8")), relevant_config(config, self.stage)
        changed = sorted(k for k in before.keys() | now.keys() if before.get(k) != now.get(k))
        if changed:
            listed = ", ".join(f"{k}: {before.get(k)!r} -> {now.get(k)!r}" for k in changed)
            raise ValueError(
                f"the config of {self.path} changed ({listed}); use another --workdir, restore the old values, "
                f"or delete {self.path} to run the stage again"
            )

    def lineage(self) -> dict[str, Any]:
        """What this folder was made from; empty before the stage has begun."""
        path = self.path / "lineage.json"
        return json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}

    def check_lineage(self, lineage: dict[str, Any]) -> None:
        """ValueError when data, tokenizer or a parent differ from those this folder was made from."""
        before = {k: v for k, v in self.lineage().items() if k != "notes"}
        if not before:
            return
        changed = sorted(k for k in before.keys() | lineage.keys() if before.get(k) != lineage.get(k))
        if changed:
            raise ValueError(
                f"{self.path} was made from other inputs ({', '.join(changed)} changed); "
                f"delete {self.path} to run the stage again, or use another --workdir"
            )

    def begin(self, config: Config, *, data_fingerprint: str, notes: Mapping[str, str] | None = None) -> dict[str, Any]:
        """Check config and lineage against the folder's, then write both. Returns the lineage.

        `notes` are kept in it, beside those of earlier runs: what a reader of the results must know.
        """
        knobs = relevant_config(config, self.stage)
        lineage: dict[str, Any] = {"config": config_hash(knobs), "data": data_fingerprint}
        for parent in self.parents():
            done = parent.done()
            assert done is not None, f"{parent.name} is not finished"
            lineage[parent.name] = done["digest"]
        self.check_config(config)
        self.check_lineage(lineage)
        kept = {**self.lineage().get("notes", {}), **(notes or {})}
        lineage |= {"notes": kept} if kept else {}
        self.path.mkdir(parents=True, exist_ok=True)
        write_json(self.path / "config.json", knobs)
        write_json(self.path / "lineage.json", lineage)
        return lineage

    def finish(self, *, round: int, digest: str) -> None:
        """Mark the stage finished; children read the parameters of checkpoint `round`."""
        write_json(self.path / "done.json", {"round": round, "digest": digest})
