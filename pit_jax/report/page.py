"""The one page a person opens: workdir/report/index.html, built from what the stages left behind."""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pit_jax import files
from pit_jax.errors import UserError
from pit_jax.evaluation.results import ComparisonRow, Results, read_results
from pit_jax.evaluation.systems import POLICY, pit
from pit_jax.paths import METRICS, resolved
from pit_jax.report import curves, diffs, paper, performance, records, spa
from pit_jax.report.bars import Bar, by_temperature
from pit_jax.report.curves import Section
from pit_jax.report.render import render, signed
from pit_jax.run.folders import Run
from pit_jax.run.provenance import StageId

TRAILS_SHOWN = 8
MEASURE = "delete gaps.json and quality.json, which the improver's RL measures again, for a page without these figures"
EVALUATE, IMPROVE, GAP = StageId("evaluate"), StageId("improve"), StageId("rm", "improver")
WORD_MODEL = StageId("rm", "word-model")


@dataclass(frozen=True)
class Headline:
    """The first sentence. `tone` is good, bad or even: where the 95% interval lies against 0."""

    text: str
    detail: str
    tone: str


def build(run: Run) -> Path:
    """Write workdir/report/index.html from the files that exist; a section without its file names the stage to run.

    Stages that lie in the run's parent are read there. The page is replaced in one piece: a reader never sees half.

    Raises:
        UserError: no such folder, or a file in it that is not what a stage writes.
    """
    workdir = run.workdir
    if not workdir.is_dir():
        raise UserError(
            f"report: asked for {workdir}, found no such folder; run a stage with --workdir={workdir} first"
        )
    results = read_results(run.folder(EVALUATE).path / "results.json", Results)
    rows, of_spa = results.rows if results else [], spa.build(run)
    first = results or (of_spa and of_spa.results)
    return render(
        "report.html.j2",
        workdir / "report" / "index.html",
        name=resolved(workdir).name,
        headline=headline(first) if first else None,
        groups=by_temperature(rows),
        bar=Bar(rows),
        stop=run.config.improve.stop,
        rewrites=results.rewrites if results else [],
        controls=results.controls if results else [],
        headline_temperature=results.headline_temperature if results else None,
        systems=results.systems if results else [],
        max_score=results.max_score if results else None,
        paper=paper.build(workdir, run.folder(StageId("rl", "improver")).path),
        spa=of_spa,
        curves=_curves(run),
        performance=performance.of_run(run),
        trails=diffs.sample(files.read_jsonl(run.folder(IMPROVE).path / "trails.jsonl", diffs.Written), TRAILS_SHOWN),
        documents=_documents(run),
    )


def headline(results: Results) -> Headline | None:
    """One improvement against the policy, at the headline temperature, by the first judge; None without any row."""
    judge = results.judges[0] if results.judges else None

    def rank(row: ComparisonRow) -> tuple[bool, ...]:
        at_temperature = row.temperature == results.headline_temperature
        return (row.judge != judge, not at_temperature, row.left != pit(1), row.right != POLICY)

    if not results.rows:
        return None
    row = min(results.rows, key=rank)
    texts = {
        "good": f"{row.left} beats {row.right} by {abs(row.delta):.1f} points",
        "bad": f"{row.left} loses to {row.right} by {abs(row.delta):.1f} points",
        "even": f"{row.left} and {row.right} cannot be told apart ({signed(row.delta)} points)",
    }
    detail = (
        f"win {row.win:.1f}% − lose {row.lose:.1f}%, 95% interval {signed(row.low)} to {signed(row.high)}; "
        f"judged by {row.judge} on {row.n:,} held-out prompts, both sampled at temperature {row.temperature}."
    )
    return Headline(texts[row.tone], detail, row.tone)


def _curves(run: Run) -> list[Section]:
    """RL and the gap model first, then every other training in the catalogue."""

    def metrics(name: str, role: str) -> list[files.Row]:
        return records.read_metrics(run.folder(StageId(name, role)).path / METRICS)

    done = {role: run.folder(StageId("rl", role)).done() for role in ("policy", "improver")}
    gap, evaluate = run.folder(GAP).path, run.folder(EVALUATE).path
    outputs = files.read_json(
        evaluate / "gap_outputs.json", dict[str, Any], cure=f"delete {evaluate}, and evaluate again"
    )
    sections = [
        curves.reinforcement("improver", metrics("rl", "improver"), done["improver"]),
        curves.gaps(
            files.read_json(gap / "gaps.json", dict[str, list[float]], cure=MEASURE),
            metrics("rm", "improver"),
            files.read_json(gap / "quality.json", dict[str, Any], cure=MEASURE),
            outputs and outputs["sets"],
        ),
        curves.reinforcement("policy", metrics("rl", "policy"), done["policy"]),
        curves.reward_models(metrics("rm", "policy"), metrics("rm", "improver"), run.folder(WORD_MODEL).done()),
        curves.fine_tuning(metrics("sft", "policy"), metrics("sft", "improver")),
    ]
    for stage in run.catalogue.values():
        shown = getattr(stage, "curves", ())
        if shown and run.folder(stage.id).begun():
            sections.append(curves.training(stage.id, shown, metrics(*stage.id)))
    return sections


def _documents(run: Run) -> list[tuple[str, str]]:
    """(name, pretty JSON) of the configs, lineages and the data report that exist."""
    contents = [("data/report.json", files.read_json(run.data_folder / "report.json"))]
    for id in run.catalogue:
        path = run.folder(id).path
        contents += [(f"{id}/{name}.json", files.read_json(path / f"{name}.json")) for name in ("config", "lineage")]
    return [
        (name, json.dumps(content, indent=2, ensure_ascii=False)) for name, content in contents if content is not None
    ]
