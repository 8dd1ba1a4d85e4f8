"""A stage's folder: its config, lineage and done marker, and the rule that a folder belongs to one config."""

import json
import os
import re
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from pit_jax.config import Config, config_hash, flatten

# Sections of the config that decide what a stage computes.
SHARED = ("seed", "data", "tokenizer", "transformer", "adapter")
SECTIONS = {"evaluate": ("improve", "evaluate"), "paper": ("rm", "rl", "dpo", "improve", "paper")}  # else: its own name
# Limits on what was trained stop a stage and change none; mesh and checkpoint rhythm are in no section.
WITHOUT_EFFECT = ("transformer.remat", "transformer.unroll", "rl.ignore_gates", "rm.gates.")
OF_THE_OTHER_MODEL = {
    "policy": (
        *("sft.improver_", "rm.improver_", "rm.guard_", "rm.gap_loss", "rl.curriculum.", "rl.reward", "rl.center_gap"),
        *("rl.guards.max_guard_fall", "rl.guards.max_disagreement", "rl.guards.worst_case"),
    ),
    "improver": ("sft.policy_", "rm.policy_", "rm.guard_", "rl.policy_"),
    "guard": ("rm.policy_", "rm.improver_", "rm.gap_loss"),
    "": (),
}

PARENTS: dict[tuple[str, str], tuple[tuple[str, str], ...]] = {
    ("sft", "policy"): (),
    ("sft", "improver"): (("sft", "policy"),),
    ("rm", "policy"): (("sft", "policy"),),
    ("rm", "improver"): (("sft", "improver"),),
    ("rm", "guard"): (("sft", "improver"),),
    ("rl", "policy"): (("sft", "policy"), ("rm", "policy")),
    ("rl", "improver"): (("sft", "policy"), ("sft", "improver"), ("rm", "improver"), ("rl", "policy")),
    ("dpo", "policy"): (("sft", "policy"),),
    ("improve", ""): (("rl", "policy"), ("rl", "improver"), ("rm", "improver")),
    ("evaluate", ""): (
        ("sft", "policy"),
        ("sft", "improver"),
        ("rl", "policy"),
        ("rl", "improver"),
        ("rm", "improver"),
    ),
    ("paper", ""): (
        ("sft", "improver"),
        ("rm", "policy"),
        ("rm", "improver"),
        ("rl", "policy"),
        ("rl", "improver"),
    ),
    ("export", ""): (("rm", "policy"), ("rm", "improver"), ("rl", "policy"), ("rl", "improver")),
}


TRAINING = ("sft", "rm", "rl", "dpo")


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


def has_guard(config: Config) -> bool:
    return config.rm.guard_steps > 0


def judged_by(config: Config, model: str) -> str:
    """Whose reward model rewards the RL of `model`: the gap model is the improver's."""
    return "policy" if config.rl.reward == "difference" else model


def parents_of(config: Config, stage: str, model: str) -> tuple[tuple[str, str], ...]:
    """PARENTS; of the improver's RL, the reward model that it is judged by, and the guard where a run has one."""
    if (stage, model) != ("rl", "improver"):
        return PARENTS[stage, model]
    named = {("rm", "improver"): ("rm", judged_by(config, model))}
    return (
        *(named.get(parent, parent) for parent in PARENTS[stage, model]),
        *((("rm", "guard"),) if has_guard(config) else ()),
    )


def relevant_config(config: Config, stage: str, model: str) -> dict[str, Any]:
    """The flat knobs that decide what `stage` computes for `model`."""
    sections, left_out = (*SHARED, *SECTIONS.get(stage, (stage,))), WITHOUT_EFFECT + OF_THE_OTHER_MODEL[model]
    flat = flatten(config)
    return {k: v for k, v in flat.items() if k.split(".")[0] in sections and not k.startswith(left_out)}


def data_folder(config: Config) -> Path:
    """`data` of the run, or of its trunk; one seed of a run over seeds (stages/seeds.py) has it beside its folder."""
    run = Path(config.trunk or config.workdir)
    own, shared = run / "data", run.parent / "data"
    among_seeds = re.fullmatch(r"seed-\d+", run.name) and not own.exists()
    return shared if among_seeds and (shared / "done.json").exists() else own


def locate(config: Config, stage: str, model: str) -> "StageFolder":
    """Where a stage of this run lives: in config.workdir, or in the run that it branches off.

    A training stage is the trunk's where that has finished it from the same config and the same parents, and the
    branch has not begun its own.
    """
    own, trunk = StageFolder(Path(config.workdir), stage, model), StageFolder(Path(config.trunk), stage, model)
    if not config.trunk or stage not in TRAINING or own.begun() or trunk.done() is None:
        return own
    parents = parents_of(config, stage, model)
    same = not trunk.changed(config) and all(locate(config, *p).workdir == trunk.workdir for p in parents)
    return trunk if same else own


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

    def begun(self) -> bool:
        return (self.path / "config.json").exists()

    def parents(self, config: Config) -> tuple["StageFolder", ...]:
        """Beside this folder, or in the trunk."""
        here = replace(config, workdir=str(self.workdir))
        return tuple(locate(here, *parent) for parent in parents_of(config, self.stage, self.model))

    def check_parents(self, config: Config) -> None:
        """ValueError that names the stages to run first, if any is not finished."""
        missing = [parent for parent in self.parents(config) if parent.done() is None]
        if missing:
            found = sorted(p.parent.name for p in self.workdir.glob("*/done.json"))
            commands = "; ".join(f"--stage={p.stage}" + (f" --model={p.model}" if p.model else "") for p in missing)
            raise ValueError(
                f"stage {self.name} needs finished {', '.join(p.name for p in missing)} in {self.workdir}, "
                f"found {', '.join(found) or 'no finished stage'}; run first: {commands} (or --stage=all)"
            )

    def changed(self, config: Config) -> list[str]:
        """`knob: before -> now` for every relevant knob in which `config` differs from the one this folder holds.

        A knob that the folder is too old to hold had the value that is now its default.
        """
        before = json.loads((self.path / "config.json").read_text(encoding="utf-8"))
        now = relevant_config(config, self.stage, self.model)
        before = {name: value for name, value in flatten(Config()).items() if name in now} | before
        names = sorted(k for k in before.keys() | now.keys() if before.get(k) != now.get(k))
        return [f"{k}: {before.get(k)!r} -> {now.get(k)!r}" for k in names]

    def check_config(self, config: Config) -> None:
        """ValueError that names the changed knobs when this folder was made with other ones."""
        if self.begun() and (changed := self.changed(config)):
            raise ValueError(
                f"the config of {self.path} changed ({', '.join(changed)}); use another --workdir, restore the old "
                f"values, or delete {self.path} to run the stage again"
            )

    def lineage(self) -> dict[str, Any]:
        """What this folder was made from; empty before the stage has begun."""
        path = self.path / "lineage.json"
        return json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}

    def check_lineage(self, lineage: dict[str, Any]) -> None:
        """ValueError when data, tokenizer or a parent differ from those this folder was made from."""
        before, apart = self.lineage(), {"notes", "config"}  # check_config names the knob itself
        if not before:
            return
        changed = sorted(k for k in (before.keys() | lineage.keys()) - apart if before.get(k) != lineage.get(k))
        if changed:
            raise ValueError(
                f"{self.path} was made from other inputs ({', '.join(changed)} changed); "
                f"delete {self.path} to run the stage again, or use another --workdir"
            )

    def begin(self, config: Config, *, data_fingerprint: str, notes: Mapping[str, str] | None = None) -> dict[str, Any]:
        """Check config and lineage against the folder's, then write both. Returns the lineage.

        `notes` are kept in it, beside those of earlier runs: what a reader of the results must know.
        """
        knobs = relevant_config(config, self.stage, self.model)
        lineage: dict[str, Any] = {"config": config_hash(knobs), "data": data_fingerprint}
        for parent in self.parents(config):
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

    def finish(self, *, round: int, digest: str, **more: Any) -> None:
        """Mark the stage finished; children read the parameters of checkpoint `round`. `more` is for the report."""
        write_json(self.path / "done.json", {"round": round, "digest": digest, **more})
