"""A run on disk: each stage in its folder, with its knobs, its lineage and a marker when it is done."""

import re
from collections.abc import Collection, Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any, TypedDict

from pit_jax.config import Config, config_hash, flatten
from pit_jax.errors import UserError
from pit_jax.files import read_json, write_json
from pit_jax.paths import DONE, to_path
from pit_jax.run.provenance import Provenance, StageId, is_shared

Catalogue = Mapping[StageId, Provenance]
CONFIG, LINEAGE = "config.json", "lineage.json"
NOT_INPUTS = {"notes", "config", "package"}  # of a lineage: the folder's config.json names the knobs themselves


class Done(TypedDict):
    """What every done marker says."""

    round: int
    digest: str


class Lineage(TypedDict, total=False):
    """The parts of a lineage that are read one by one."""

    ancestors: dict[str, Any]
    notes: dict[str, str]


@dataclass(frozen=True)
class Run:
    """The stages of one run by their ids, those of the run that it branches off where it uses them."""

    config: Config
    catalogue: Catalogue

    @property
    def workdir(self) -> Path:
        return to_path(self.config.workdir)

    @cached_property
    def parent(self) -> "Run | None":
        """The run that this one branches off."""
        if not self.config.parent_run:
            return None
        return Run(replace(self.config, workdir=self.config.parent_run, parent_run=""), self.catalogue)

    @property
    def data_folder(self) -> Path:
        """`data` of the run, or of its parent; one seed of a run over seeds has it beside its folder."""
        run = self.parent.workdir if self.parent else self.workdir
        inside, shared = run / "data", run.parent / "data"
        among_seeds = re.fullmatch(r"seed-\d+", run.name) and not inside.exists()
        return shared if among_seeds and (shared / DONE).exists() else inside

    def stage(self, id: StageId) -> Provenance:
        """The stage of an id, or the one that stands in for it."""
        for stage in self.catalogue.values():
            if stage.replaces == id:
                return stage
        return self.catalogue[id]

    def folder(self, id: StageId) -> "StageFolder":
        """Where a stage lives: in this run, or in the run that it branches off.

        What a training left is the parent run's where that has finished it from the same knobs and the same parents,
        and this run has not begun its own.
        """
        stage = self.stage(id)
        here = StageFolder(self, stage)
        if self.parent is None or not (stage.leaves or stage.kept) or here.begun():
            return here
        there = StageFolder(self.parent, stage)
        if there.done() is None or there.changed(self.config):
            return here
        same = all(self.folder(parent).run is self.parent for parent in stage.parents(self.config))
        return there if same else here


@dataclass(frozen=True)
class StageFolder:
    """workdir/<stage>-<role>/ of one run, or the folder in it of one of the stage's phases."""

    run: Run
    stage: Provenance
    phase: str = ""

    @property
    def name(self) -> str:
        return str(self.stage.id)

    @property
    def path(self) -> Path:
        return self.run.workdir / self.name / self.phase

    def of(self, phase: str) -> "StageFolder":
        """The folder of one of the stage's phases."""
        return replace(self, phase=phase)

    def done(self) -> dict[str, Any] | None:
        """The done marker of a finished stage."""
        marker: dict[str, Any] | None = read_json(self.path / DONE, Done, cure=self._cure)
        return marker

    @property
    def digest(self) -> str:
        """The digest of what a finished folder holds."""
        done = self.done()
        assert done is not None, f"{self.path} is not finished"
        return str(done["digest"])

    def begun(self) -> bool:
        return (self.path / CONFIG).exists()

    def lineage(self) -> dict[str, Any]:
        """What this folder was made from; empty before the stage has begun."""
        lineage: dict[str, Any] = read_json(self.path / LINEAGE, Lineage, cure=self._cure) or {}
        return lineage

    @property
    def _cure(self) -> str:
        return f"put back a copy, or delete {self.path} to run the stage again"

    def parents(self, config: Config) -> tuple["StageFolder", ...]:
        """Beside this folder, or in the run that it branches off."""
        return tuple(self.run.folder(parent) for parent in self.stage.parents(config))

    def check_parents(self, config: Config, *, but: Collection[StageId] = ()) -> None:
        """UserError that names the stages to run first, if any is not finished; or as `ancestors`, of those that are.

        `but`: stages that will be finished by then.
        """
        missing = [p for p in self.parents(config) if p.stage.id not in but and p.done() is None]
        if missing:
            finished = sorted(path.parent.name for path in self.run.workdir.glob(f"*/{DONE}"))
            commands = "; ".join(parent.stage.id.flags for parent in missing)
            raise UserError(
                f"stage {self.name} needs finished {', '.join(p.name for p in missing)} in {self.run.workdir}, "
                f"found {', '.join(finished) or 'no finished stage'}; run first: {commands} (or --stage=all)"
            )
        self.ancestors(config)

    def ancestors(self, config: Config) -> dict[str, str]:
        """{stage: digest} of every finished stage above this one.

        Raises:
            UserError: an ancestor was trained again after a stage that was made from it, with another seed or network
                than is asked for, or says no longer what it was made from.
        """
        above = self._above(config)
        digests = {name: (folder.done() or {})["digest"] for name, folder in above.items()}
        for folder in above.values():
            folder._check_origin(config, digests)
        return digests

    def _above(self, config: Config) -> dict[str, "StageFolder"]:
        """The finished stages above this one by name, each behind its own ancestors."""
        found: dict[str, StageFolder] = {}
        for parent in self.parents(config):
            if parent.name not in found and parent.done() is not None:
                found |= {**parent._above(config), parent.name: parent}
        return found

    def _check_origin(self, config: Config, digests: Mapping[str, str]) -> None:
        """UserError as `ancestors`, of this finished stage; `digests` are of those above it, and of others."""
        if lost := [name for name in (CONFIG, LINEAGE) if not (self.path / name).is_file()]:
            raise UserError(
                f"{self.path} is finished, and its {' and '.join(lost)} is gone, which said what it was made from; put "
                f"it back, or delete {self.path} to run that stage again"
            )
        if changed := [line for line in self.changed(config) if is_shared(line.partition(":")[0])]:
            raise UserError(
                f"{self.path} was made with another config ({', '.join(changed)}); restore the old values, use another "
                f"--workdir, or delete {self.path} to run that stage again"
            )
        before = self.lineage()["ancestors"]
        if changed := sorted(name for name in self._above(config) if digests[name] != before.get(name)):
            raise UserError(
                f"{self.path} was made from another {changed[0]} (digest {before.get(changed[0])}) than the one that "
                f"is there now ({digests[changed[0]]}); delete {self.path} to run that stage again"
            )

    def changed(self, config: Config) -> list[str]:
        """`knob: before -> now` for every knob of the stage in which `config` differs from what this folder holds.

        A knob that the folder is too old to hold had the value that is now its default.
        """
        before = read_json(self.path / CONFIG, dict[str, Any], cure=self._cure) or {}
        now = self.stage.depends_on(config)
        before = {name: value for name, value in flatten(type(config)()).items() if name in now} | before
        names = sorted(k for k in before.keys() | now.keys() if before.get(k) != now.get(k))
        return [f"{k}: {before.get(k)!r} -> {now.get(k)!r}" for k in names]

    def check_config(self, config: Config) -> None:
        """UserError that names the changed knobs when this folder was made with other ones."""
        if self.begun() and (changed := self.changed(config)):
            raise UserError(
                f"the config of {self.path} changed ({', '.join(changed)}); use another --workdir, restore the old "
                f"values, or delete {self.path} to run the stage again"
            )

    def lineage_now(self, config: Config, *, data_fingerprint: str) -> dict[str, Any]:
        """What the stage would be made from: digests of its knobs, the data and all its ancestors.

        Raises UserError as `ancestors`, and for one that was made from other data.
        """
        knobs, ancestors = config_hash(self.stage.depends_on(config)), self.ancestors(config)
        for folder in self._above(config).values():
            if (before := folder.lineage()["data"]) != data_fingerprint:
                raise UserError(
                    f"{folder.path} was made from other data ({before}) than {self.run.data_folder} holds "
                    f"({data_fingerprint}); put the old data back, or delete {folder.path} to run that stage again"
                )
        return {"config": knobs, "data": data_fingerprint, "ancestors": ancestors}

    def changed_inputs(self, lineage: Mapping[str, Any]) -> list[str]:
        """The names of data and ancestors in which `lineage` differs from what this folder was made from."""
        before = self.lineage()
        if not before:
            return []
        old, new = (
            {k: v for k, v in entries.items() if k not in NOT_INPUTS | {"ancestors"}} | entries.get("ancestors", {})
            for entries in (before, lineage)
        )
        return sorted(name for name in old.keys() | new.keys() if old.get(name) != new.get(name))

    def check_lineage(self, lineage: Mapping[str, Any]) -> None:
        """UserError when data, tokenizer or an ancestor differ from those this folder was made from."""
        if changed := self.changed_inputs(lineage):
            raise UserError(
                f"{self.path} was made from other inputs ({', '.join(changed)} changed); "
                f"delete {self.path} to run the stage again, or use another --workdir"
            )

    def begin(
        self,
        config: Config,
        *,
        data_fingerprint: str,
        package: str = "",
        notes: Mapping[str, str] | None = None,
        derived: bool = False,
    ) -> dict[str, Any]:
        """Check config and lineage against the folder's, then write both. Returns the lineage.

        `package` names the code of pit_jax, for a reader; `notes` are kept in the lineage, beside those of earlier
        runs: what a reader of the results must know. What is `derived` from other files on disk takes the place of
        what was derived from other ones, unchecked.
        """
        knobs = self.stage.depends_on(config)
        lineage = self.lineage_now(config, data_fingerprint=data_fingerprint)
        if not derived:
            self.check_config(config)
            self.check_lineage(lineage)
        kept = {**self.lineage().get("notes", {}), **(notes or {})}
        lineage |= {"package": package} if package else {}
        lineage |= {"notes": kept} if kept else {}
        write_json(self.path / CONFIG, knobs)
        write_json(self.path / LINEAGE, lineage)
        return lineage

    def finish(self, *, round: int, digest: str, **more: Any) -> None:
        """Mark the stage finished; children read the parameters of checkpoint `round`. `more` is for the report."""
        write_json(self.path / DONE, {"round": round, "digest": digest, **more})
