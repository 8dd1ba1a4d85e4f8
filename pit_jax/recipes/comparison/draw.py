"""The answers of a run's systems to its held-out prompts: read from disk, drawn where they are not there yet.

All trails of a temperature share their key, so their originals: two improvers rewrite the same answers of the policy.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np

from pit_jax.batch import Answer
from pit_jax.data.text.word_model import WordModel
from pit_jax.errors import UserError
from pit_jax.evaluation.answers import AnswerFile, AnswerRow
from pit_jax.evaluation.systems import CHOSEN, POLICY, Output, SystemId, pit
from pit_jax.files import digest_of
from pit_jax.inference.best_of_n import Reward, best_of_n
from pit_jax.inference.engine import Engine
from pit_jax.inference.improve import Gap, Trail, extend
from pit_jax.inference.sampling import Sampling
from pit_jax.inference.stopping import chosen_round, goes_on
from pit_jax.inference.texts import Chunk, TextEngine, written
from pit_jax.model.networks import Params
from pit_jax.parallel.preemption import check
from pit_jax.recipes.word_model import word_model_of
from pit_jax.rl.rewards import scorer_of
from pit_jax.rl.roles import WORD_MODEL
from pit_jax.run.context import Context
from pit_jax.run.params import Models
from pit_jax.run.provenance import StageId
from pit_jax.run.screen import Bar

POLICY_RL, IMPROVER_RL, REWARD = StageId("rl", "policy"), StageId("rl", "improver"), StageId("rm", "policy")


class Source:
    """A finished model that draws or scores: its digest, and its parameters, read when they are needed."""

    def __init__(self, context: Context, id: StageId, models: Models, phase: str | None = None):
        folder = context.folder_of(id)
        self.digest = folder.digest if phase is None else folder.of(phase).digest
        self._load = lambda: models.load(id, phase)

    @cached_property
    def params(self) -> Params:
        return self._load()


def text_engine(context: Context) -> TextEngine:
    """The engine of a run over texts."""
    knobs = context.config.improve
    spec = replace(context.decode_spec, rows=knobs.batch_size)
    return TextEngine(
        engine=Engine(context.language_model, spec, context.mesh, context.config.mesh.decode),
        scalar=context.scalar_model,
        template=context.data.template,
        mesh=context.mesh,
        prompt_length=context.config.data.prompt_length,
        batch_size=knobs.batch_size,
        queue=knobs.queue,
    )


@dataclass(frozen=True)
class Prompts:
    """What is answered: prompts, where the answers of a trail begin if not with the policy, and where they are kept."""

    texts: list[str]
    folder: Path
    given: Sequence[str | None] = ()
    """An answer of the user's for each prompt, None where the policy answers first; empty = it always does."""


class Answering:
    """Every system on the same prompts."""

    def __init__(self, context: Context, prompts: Prompts, *, bar: Bar | None = None, draws: bool = True):
        """Without `draws` answers are read alone, and no device is touched."""
        self.context, self.prompts = context, prompts
        self._bar, self._draws, self._models = bar, draws, Models(context)
        self._sources: dict[tuple[Path, StageId, str | None], Source] = {}
        self._originals: dict[float, Output] = {}
        self._outputs: dict[tuple[SystemId, float, int], list[Output]] = {}
        self._weights: dict[str, Params] = {}

    @cached_property
    def texts(self) -> TextEngine:
        return text_engine(self.context)

    @cached_property
    def chunks(self) -> Sequence[Chunk]:
        """In the slot of the data's prompts, so that no draw depends on how many are answered."""
        return self.texts.chunks(self.prompts.texts, least=self.context.data.report["layout"]["prompt_slot"])

    def source(self, id: StageId, context: Context | None = None, phase: str | None = None) -> Source:
        """A model of this run, or of a branch; of a phase of its stage, if not of the last."""
        context = context or self.context
        key = context.run.workdir, id, phase
        if key not in self._sources:
            models = self._models if context is self.context else Models(context)
            self._sources[key] = Source(context, id, models, phase)
        return self._sources[key]

    def weights(self, source: Source) -> Params:
        """What a model draws with."""
        if source.digest not in self._weights:
            self._weights[source.digest] = self.texts.engine.to_decode(source.params)
        return self._weights[source.digest]

    def policy(self, temperature: float) -> Output:
        """The policy's answers, or the given ones."""
        if temperature not in self._originals:
            self._originals[temperature] = self._answers(POLICY, temperature, self.source(POLICY_RL))
        return self._originals[temperature]

    def answered_by(self, system: SystemId, temperature: float, source: Source) -> Output:
        """The answers of another policy, drawn by keys of its own."""
        return self._answers(system, temperature, source, system.stem)

    def trail(self, temperature: float, rounds: int) -> list[Output]:
        """The policy's answers, and what PIT makes of them in 1, 2, .. rounds: rounds + 1 outputs.

        Of a prompt's trail that is the answer which --improve.stop returns.
        """
        return self.improved_by(pit(0), temperature, rounds, self.source(IMPROVER_RL), gaps=True)

    def improved_by(
        self, system: SystemId, temperature: float, rounds: int, improver: Source, *, gaps: bool = False
    ) -> list[Output]:
        """The policy's answers and their improvements by an improver: rounds + 1 outputs.

        The last drafts, or with `gaps` those that --improve.stop chooses among the drafts so far and the original.
        """
        original, knobs = self.policy(temperature), self.context.config.improve
        rows = self.trail_rows(system, temperature, rounds, improver, gaps=gaps)
        stop, limit = (knobs.stop, knobs.stop_threshold) if gaps else ("rounds", 0.0)
        outputs = [original]
        for round in range(1, rounds + 1):
            chosen = [chosen_round(row.gaps, stop, rounds=round, threshold=limit) for row in rows]
            drawn = [stop != "threshold" or goes_on(row.gaps[: round - 1], limit) for row in rows]
            before = outputs[-1]
            outputs.append(
                Output(
                    answers=[
                        [first, *row.drafts][k] for first, row, k in zip(original.answers, rows, chosen, strict=True)
                    ],
                    keys=[
                        f"{row.key}/{k}" if k else key for key, row, k in zip(original.keys, rows, chosen, strict=True)
                    ],
                    drawn_N=before.drawn_N
                    + np.array([row.tokens[round - 1] * on for row, on in zip(rows, drawn, strict=True)]),
                    replies=before.replies + float(np.mean(drawn)),
                    reference=before,
                )
            )
        return outputs

    def trail_rows(
        self,
        system: SystemId,
        temperature: float,
        rounds: int,
        improver: Source,
        *,
        gaps: bool = False,
        threshold: float = -np.inf,
    ) -> list[AnswerRow]:
        """The drafts of an improver; a trail whose last gap is below `threshold` may have fewer than `rounds`."""
        scored_by = scorer_of(self.context.config, "improver")
        original, scorer = self.policy(temperature), self.source(scored_by) if gaps else None
        made_by = improver.digest, scorer.digest if scorer else "", *(self._worded if scorer else ())
        keys = self._keys(system.trail, temperature, *made_by, each=original.keys)

        def draw(chunk: Chunk, rows: list[AnswerRow], key: jax.Array) -> None:
            trails = [Trail(row.prompt, original.answers[row.index], list(row.drafts), list(row.gaps)) for row in rows]
            gap = None if scorer is None else self._gap(scorer)
            sampling, weights = self.sampling(temperature), self.weights(improver)
            extend(self.texts, weights, chunk, trails, key, sampling, rounds=rounds, gap=gap, threshold=threshold)
            for row, trail in zip(rows, trails, strict=True):
                for draft in trail.drafts[len(row.drafts) :]:
                    row.add(draft)
                row.gaps = trail.gaps

        def enough(row: AnswerRow) -> bool:
            return len(row.drafts) >= rounds or any(gap < threshold for gap in row.gaps)

        return self._drawn(system.trail, temperature, keys, enough, draw)

    def chosen(self, texts: Sequence[str]) -> Output:
        """Texts that no model drew: the chosen answers of the pairs, or controls."""
        answers = [written(self.context.data.template, text) for text in texts]
        keys = [digest_of(CHOSEN.stem, text) for text in texts]
        return Output(answers, keys, np.zeros(len(answers), int), replies=0.0)

    def best_of_n(self, system: SystemId, temperature: float) -> Output:
        """The policy's best of system.round answers, by the reward model and, where there is one, the word model."""
        policy, reward, n = self.source(POLICY_RL), self.source(REWARD), system.round
        keys = self._keys(system, temperature, policy.digest, reward.digest, *self._worded)

        def draw(chunk: Chunk, rows: list[AnswerRow], key: jax.Array) -> None:
            prompts, sampling = [row.prompt for row in rows], self.sampling(temperature)
            picks = best_of_n(
                self.texts, self.weights(policy), self._reward(reward), chunk, prompts, key, sampling, n=n
            )
            for row, best in zip(rows, picks, strict=True):
                if not row.drafts:
                    row.add(best.answer, tokens=best.tokens, replies=n)

        return self._output(self._drawn(system, temperature, keys, _has_one, draw, "best"))

    def _gap(self, scorer: Source) -> Gap:
        """What the improver is rewarded with, in either order: a gap and what the word model adds, or a difference."""
        reward = self._reward(scorer)

        def gap(prompts: Sequence[str], candidates: Sequence[Answer], references: Sequence[Answer]) -> np.ndarray:
            gap_N = self.texts.gaps(scorer.params, prompts, candidates, references)
            return gap_N + self._by_words(prompts, candidates) - self._by_words(prompts, references)

        def difference(
            prompts: Sequence[str], candidates: Sequence[Answer], references: Sequence[Answer]
        ) -> np.ndarray:
            return reward(prompts, candidates) - reward(prompts, references)

        return difference if self.context.config.rl.reward == "difference" else gap

    def _reward(self, reward_model: Source) -> Reward:
        """The reward model's, and what the word model adds to it."""

        def reward(prompts: Sequence[str], answers: Sequence[Answer]) -> np.ndarray:
            return self.texts.scores(reward_model.params, prompts, answers) + self._by_words(prompts, answers)

        return reward

    def _by_words(self, prompts: Sequence[str], answers: Sequence[Answer]) -> np.ndarray:
        """The weighted score of each answer by the word model, [N] float32; 0 without one."""
        if self._word_model is None:
            return np.zeros(len(prompts), np.float32)
        scores_N = self._word_model.scores(prompts, [answer.text for answer in answers])
        return (self.context.config.rm.word_model * scores_N).astype(np.float32)

    @cached_property
    def _word_model(self) -> WordModel | None:
        return word_model_of(self.context)

    @property
    def _worded(self) -> tuple[str, ...]:
        """What names the word model's part in a score; nothing without one. Its weights are not read."""
        weight = self.context.config.rm.word_model
        return (f"{weight:g} {self.context.folder_of(WORD_MODEL).digest}",) if weight else ()

    def _answers(self, system: SystemId, temperature: float, source: Source, *names: str) -> Output:
        """One answer a prompt; given ones are tokenised and no more."""
        given = self.prompts.given or [None] * len(self.prompts.texts)
        keys = self._keys(system, temperature, source.digest, each=[text or "" for text in given])

        def draw(chunk: Chunk, rows: list[AnswerRow], key: jax.Array) -> None:
            wanted = [given[row.index] is None and not row.drafts for row in rows]
            drawn: Sequence[Answer] = [written(self.texts.template, given[row.index] or "") for row in rows]
            if any(wanted):
                sampling, weights = self.sampling(temperature), self.weights(source)
                fresh = self.texts.answer(weights, chunk, jax.random.fold_in(key, 0), sampling, wanted=wanted)
                drawn = [new if asked else old for new, old, asked in zip(fresh, drawn, wanted, strict=True)]
            for row, answer, asked in zip(rows, drawn, wanted, strict=True):
                if not row.drafts:
                    row.add(answer, tokens=None if asked else 0, replies=int(asked))

        return self._output(self._drawn(system, temperature, keys, _has_one, draw, *names))

    def _drawn(
        self,
        system: SystemId,
        temperature: float,
        keys: list[str],
        enough: Callable[[AnswerRow], bool],
        draw: Callable[[Chunk, list[AnswerRow], jax.Array], None],
        *names: str,
    ) -> list[AnswerRow]:
        """The rows of a system, a chunk of prompts after the other; those that have `enough` are left as they are.

        All draw from the key of the temperature and the names.
        """
        file, knobs = AnswerFile(self.prompts.folder, system, temperature), self.context.config.improve
        size = knobs.batch_size * knobs.queue
        rows = file.rows(self.prompts.texts, keys)
        for index, first in enumerate(range(0, len(rows), size)):
            mine = rows[first : first + size]
            if not all(map(enough, mine)):
                if not self._draws:
                    raise UserError(f"{file.path} lacks answers; draw them first, with --stage=answer")
                draw(self.chunks[index], mine, self.key(temperature, *names))
                file.add(mine)
                check(f"{first + len(mine)} of {len(rows)} answers are in {file.path}")
            if self._bar is not None:
                self._bar.advance(len(mine))
        file.close()
        return rows

    def _output(self, rows: Sequence[AnswerRow]) -> Output:
        """The one draft of each row."""
        return Output(
            answers=[row.drafts[0] for row in rows],
            keys=[f"{row.key}/1" for row in rows],
            drawn_N=np.array([row.tokens[0] for row in rows]),
            replies=float(np.mean([row.replies[0] for row in rows])),
        )

    def sampling(self, temperature: float) -> Sampling:
        knobs = self.context.config.improve
        return Sampling(jnp.float32(temperature), knobs.top_k, knobs.top_p)

    def key(self, temperature: float, *names: str) -> jax.Array:
        return self.context.key("answers", f"{temperature:g}", *names)

    def _keys(self, system: SystemId, temperature: float, *digests: str, each: Sequence[str] = ()) -> list[str]:
        """What each row is drawn from: the prompt and its place, models, sampling, seed and data."""
        config, knobs = self.context.config, self.context.config.improve
        settings = f"{temperature:g} {knobs.top_k} {knobs.top_p} {config.seed}"
        shared = (system.stem, settings, self.context.data.fingerprint, *digests)
        per_row = each or [""] * len(self.prompts.texts)
        return [
            digest_of(*shared, str(index), prompt, mine)
            for index, (prompt, mine) in enumerate(zip(self.prompts.texts, per_row, strict=True))
        ]


def _has_one(row: AnswerRow) -> bool:
    return bool(row.drafts)


def heldout_prompts(context: Context) -> Prompts:
    """The held-out prompts of every comparison, whose answers are in `answers` of the run."""
    triples = context.data.triples("heldout")[: context.config.evaluate.prompts]
    return Prompts([triple.prompt for triple in triples], context.run.workdir / "answers")
