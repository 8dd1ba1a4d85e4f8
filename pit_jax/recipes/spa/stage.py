"""SPA (arXiv 2406.04412): DPO on a few gold pairs, then on pairs that the model makes and labels itself."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from pit_jax.batch import SpaBatch, Triple
from pit_jax.config import Config
from pit_jax.data.folds import FOLDS
from pit_jax.data.rows import JoinedRows, Rows
from pit_jax.data.sources import known_truth
from pit_jax.data.worlds.world import Score
from pit_jax.errors import UserError
from pit_jax.evaluation.systems import SystemId
from pit_jax.files import digest_of, file_digest, read_json, read_jsonl, write_json, write_jsonl
from pit_jax.inference.texts import TextEngine
from pit_jax.model.networks import Params
from pit_jax.parallel import hosts
from pit_jax.paths import local
from pit_jax.recipes.comparison.draw import text_engine
from pit_jax.recipes.spa import figures, schedule
from pit_jax.recipes.spa.labels import LABELS, MODEL, PREVIOUS, REWARD, SFT, Bench, make_logprob
from pit_jax.recipes.spa.objective import ANCHOR, make_loss
from pit_jax.recipes.spa.pairs import PAIRS, Sampler, labelled, line_of, training_rows, triples_of
from pit_jax.recipes.spa.programs import batches, loads, programs
from pit_jax.recipes.spa.schedule import phase_of
from pit_jax.recipes.spa.slices import FOLD, GOLD, prompts_of, sliced
from pit_jax.report import page
from pit_jax.report.spa import MANIFEST, manifests_of, phase_table
from pit_jax.run.code import package_code
from pit_jax.run.context import Context
from pit_jax.run.folders import StageFolder
from pit_jax.run.frozen import frozen_weights
from pit_jax.run.params import Models
from pit_jax.run.provenance import StageId
from pit_jax.run.stage import Recipe
from pit_jax.run.supervised import Task, train

SFT_POLICY, REWARD_MODEL = StageId("sft", "policy"), StageId("rm", "policy")
LABELLED = "labelled"  # the folder of all pairs as sources


def run(context: Context) -> None:
    """The gold pairs, then each iteration; what is finished is not done again."""
    context.folder.begin(context.config, data_fingerprint=context.data.fingerprint, package=package_code())
    spa = Spa(context)
    last = len(context.config.spa.slices)
    for number in range(last + 1):
        if spa.folder(number).done() is None:
            spa.phase(number)
            hosts.barrier(f"{context.stage.id}: {schedule.iteration(number)} done")
    write_labelled(spa)
    context.folder.finish(round=last, digest=spa.digest(last))


@dataclass(frozen=True)
class Spa:
    """The phases of a run: 0 is that of the gold pairs, whose model comes from the SFT model, here -1."""

    context: Context

    def phase(self, number: int) -> None:
        """Make the pairs of a phase, train on them, measure what was learned, and mark it finished."""
        context, folder = self.context, self.folder(number)
        models = Models(context)
        rows, manifest = self.own_pairs(models, number) if number else self.gold_pairs()
        task = self.task(number, rows, self.model(models, number - 1))
        round, digest = train(context, task, models, lambda: self.model(models, number - 1))
        manifest |= {"model": digest, "training": figures.trained(folder.path)}
        manifest["held-out"] = self.heldout(models.own(round, folder.phase))
        write_json(folder.path / MANIFEST, manifest)
        folder.finish(round=round, digest=digest)

    def task(self, number: int, rows: Rows, before: Params) -> Task:
        """The training of a phase, beside the model that it starts from."""
        context, config = self.context, self.context.config
        phase = phase_of(config.spa, number, len(rows))
        heldout = context.data.rows("heldout", "reward")
        return Task(
            loss=make_loss(context.language_model, phase),
            make_batch=SpaBatch,
            rows=rows,
            heldout=with_wrong(heldout, np.zeros(len(heldout), bool)),
            optimizer=phase.optimizer,
            steps=phase.steps,
            batch_size=phase.batch_size,
            accumulate=config.spa.accumulate,
            seed=config.seed + number,
            score=None,
            beside={ANCHOR: frozen_weights(before, config)},
            phase=phase.name,
        )

    def gold_pairs(self) -> tuple[Rows, dict[str, Any]]:
        """(rows of the gold pairs, the beginning of the manifest)."""
        rows, numbers = self.context.data.rows(FOLD, "reward"), self.slices[GOLD]
        triples = self.triples(GOLD)
        write_jsonl(self.folder(GOLD).path / PAIRS, map(line_of, triples))
        picked = rows.picked(np.array(numbers))
        return with_wrong(picked, self.wrong(triples)), self.manifest(GOLD, triples)

    def own_pairs(self, models: Models, number: int) -> tuple[Rows, dict[str, Any]]:
        """(rows of the pairs of an iteration, the beginning of its manifest): from disk, or drawn and labelled."""
        folder = self.folder(number).path
        manifest = read_json(folder / MANIFEST)
        if manifest is None:
            manifest = self.label(models, number)
            hosts.barrier(f"{folder} labelled")
        else:
            check_pairs(folder / PAIRS, manifest["pairs"]["digest"])
        triples = triples_of(read_jsonl(folder / PAIRS))
        rows, kept = training_rows(self.context, triples, folder)
        wrong_N = self.wrong(triples)
        return with_wrong(rows, wrong_N[kept]), manifest

    def label(self, models: Models, number: int) -> dict[str, Any]:
        """Draw the samples of an iteration, label them, and write pairs and manifest."""
        context, config, folder = self.context, self.context.config.spa, self.folder(number).path
        labels, prompts = LABELS[config.labels], prompts_of(context.data.triples(FOLD), self.slices[number])
        bench = self.bench(self.parts(models, number, {MODEL, *labels.parts}))
        weights = bench.texts.engine.to_decode(bench.models[MODEL])
        key = context.key("spa", schedule.iteration(number))
        sampler = Sampler(context, bench, weights, self.digest(number - 1), key)
        bar = context.screen.bar(f"{context.stage.id}/{schedule.iteration(number)}: answers", len(prompts))
        samples = sampler.samples(prompts, folder, SystemId("spa", number), bar)
        triples, dropped = labelled(samples, bench, labels)
        write_jsonl(folder / PAIRS, map(line_of, triples))
        manifest = self.manifest(number, triples, prompts) | {
            "samples": figures.of_samples(samples),
            "dropped": dict(dropped),
            "labels": {
                "by": labels.name,
                "against gold": figures.agreement(bench, labels, self.triples(number)),
                "against truth": figures.known(figures.truth_of(triples, self.truth)),
            },
        }
        write_json(folder / MANIFEST, manifest)
        return manifest

    def manifest(self, number: int, triples: list[Triple], prompts: list[str] | None = None) -> dict[str, Any]:
        """What a phase is made from: its prompts, its pairs, and its parents by their digests."""
        prompts = prompts or list(dict.fromkeys(triple.prompt for triple in triples))
        pairs = file_digest(local(self.folder(number).path / PAIRS)) if hosts.is_main() else ""
        return {
            "prompts": {"count": len(prompts), "digest": digest_of(*prompts)},
            "pairs": {"count": len(triples), "digest": pairs},
            "parents": {"trained from": self.digest(number - 1), "sft": self.digest(-1)},
        }

    def heldout(self, params: Params) -> dict[str, Any]:
        """What the model that a phase has trained answers to held-out prompts."""
        context = self.context
        prompts = [triple.prompt for triple in context.data.triples("heldout")[: figures.MOST]]
        asked = figures.Heldout(prompts, context.key("spa", "held-out"), context.data.report["layout"]["prompt_slot"])
        bench = self.bench({MODEL: params, SFT: self.model(Models(context), -1)})
        return asked.figures(bench, bench.texts.engine.to_decode(params), self.truth)

    def bench(self, models: dict[str, Params]) -> Bench:
        return Bench(self.texts, self.logprob, models)

    def parts(self, models: Models, number: int, names: set[str]) -> dict[str, Params]:
        """The models that the labels of an iteration ask, by the parts that they play."""
        load: dict[str, Callable[[], Params]] = {
            MODEL: lambda: self.model(models, number - 1),
            SFT: lambda: self.model(models, -1),
            PREVIOUS: lambda: self.model(models, max(number - 2, -1)),
            REWARD: lambda: models.load(REWARD_MODEL),
        }
        return {name: load[name]() for name in sorted(names)}

    def model(self, models: Models, number: int) -> Params:
        """What a finished phase has trained."""
        return models.load(SFT_POLICY) if number < 0 else models.own(phase=schedule.iteration(number))

    def digest(self, number: int) -> str:
        folder = self.context.folder_of(SFT_POLICY) if number < 0 else self.folder(number)
        return folder.digest

    def folder(self, number: int) -> StageFolder:
        return self.context.folder.of(schedule.iteration(number))

    def triples(self, number: int) -> list[Triple]:
        """The pairs of a slice, with their gold labels."""
        triples = self.context.data.triples(FOLD)
        return [triples[row] for row in self.slices[number]]

    def wrong(self, triples: list[Triple]) -> np.ndarray:
        """Which labels the truth is against, [N]; none where nobody knows one."""
        margins_N = figures.truth_of(triples, self.truth)
        return np.zeros(len(triples), bool) if margins_N is None else margins_N < 0

    @cached_property
    def slices(self) -> list[list[int]]:
        return sliced(self.context.data.triples(FOLD), self.context.config.spa)

    @cached_property
    def truth(self) -> Score | None:
        return known_truth(self.context.config.data)

    @cached_property
    def texts(self) -> TextEngine:
        return text_engine(self.context)

    @cached_property
    def logprob(self) -> Any:
        return make_logprob(self.context.language_model)


def with_wrong(rows: Rows, wrong_N: np.ndarray) -> Rows:
    """Rows of RewardBatch as those of SpaBatch."""
    return JoinedRows(rows, {"wrong_B": wrong_N}, without=("margin_B",))


def check_pairs(file: Path, digest: str) -> None:
    """UserError unless the pairs are those that were labelled."""
    found = file_digest(local(file)) if file.exists() else "of no file"
    if found != digest:
        raise UserError(
            f"{file} is not what was labelled: digest {found}, and {MANIFEST} says {digest}; put it back, or delete "
            f"{file.parent} to make the iteration again"
        )


def write_labelled(spa: Spa) -> None:
    """All pairs as sources, in one folder: gold and own ones of the fold, and the other folds as they are."""
    data, folder = spa.context.data, spa.context.folder.path / LABELLED
    for number in range(len(spa.slices)):
        name = schedule.iteration(number) if number else "gold"
        write_jsonl(folder / f"{name}.jsonl", read_jsonl(spa.folder(number).path / PAIRS))
    others = (triple for fold in FOLDS if fold != FOLD for triple in data.triples(fold))
    write_jsonl(folder / "other-folds.jsonl", map(line_of, others))


def check(config: Config, role: str) -> None:
    """UserError for labels that nobody gives, and for iterations without a strength of their own."""
    spa = config.spa
    _ = LABELS[spa.labels]
    if len(spa.strengths) != len(spa.slices):
        raise UserError(
            f"--spa.strengths {' '.join(f'{x:g}' for x in spa.strengths)}: give one for each of the "
            f"{len(spa.slices)} iterations of --spa.slices"
        )
    if spa.noise_share and spa.noise_share * spa.window < 1:
        raise UserError(
            f"--spa.noise-share={spa.noise_share:g} of --spa.window={spa.window} is less than one pair: raise one of "
            "them, or smooth no label with --spa.noise-share=0"
        )


def parents(config: Config, role: str) -> tuple[StageId, ...]:
    return (SFT_POLICY, REWARD_MODEL) if REWARD in LABELS[config.spa.labels].parts else (SFT_POLICY,)


def contents(config: Config, role: str) -> Mapping[str, str]:
    """The code of a fork's labels."""
    return LABELS.code(config.spa.labels)


def show(context: Context) -> None:
    """What each phase did."""
    context.screen.say(phase_table(manifests_of(context.run)))
    context.screen.say(f"report: {page.build(context.run)}")


RECIPE = Recipe(
    run=run,
    check=check,
    parents=parents,
    contents=contents,
    batches=batches,
    programs=programs,
    loads=loads,
    show=show,
)
