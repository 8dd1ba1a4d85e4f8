"""A finished run from Python: lists of texts in, plain Python out."""

import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import cached_property, partial

import jax
import jax.numpy as jnp

from pit_jax.batch import Answer
from pit_jax.config import Config, MeshConfig
from pit_jax.data.layouts import asked
from pit_jax.data.store import Prepared, open_data
from pit_jax.data.text.row import Unusable
from pit_jax.errors import UserError
from pit_jax.forks import config_class, load_forks
from pit_jax.inference.improve import in_both_orders
from pit_jax.inference.prompts import check_length, check_texts
from pit_jax.inference.sampling import Sampling, check_sampling
from pit_jax.inference.texts import Chunk, TextEngine, written
from pit_jax.model.networks import Params
from pit_jax.parallel.mesh import make_mesh, mesh_shape
from pit_jax.parallel.sharding import row_shards
from pit_jax.paths import to_path
from pit_jax.recipes.catalogue import catalogue
from pit_jax.recipes.comparison.draw import text_engine
from pit_jax.run.context import Context
from pit_jax.run.folders import Run
from pit_jax.run.params import Models
from pit_jax.run.provenance import Provenance, StageId
from pit_jax.run.record import read_record, recorded_forks
from pit_jax.run.screen import Screen
from pit_jax.terminal import Terminal

Message = Mapping[str, str]  # {"role": ..., "content": ...}
Text = str | Sequence[Message]
POLICY, IMPROVER = StageId("rl", "policy"), StageId("rl", "improver")
REWARD, GAP = StageId("rm", "policy"), StageId("rm", "improver")


def load(run: str | os.PathLike[str]) -> "Pit":
    """The run in a workdir. UserError for a folder that is none."""
    workdir = to_path(run)
    load_forks(recorded_forks(workdir))
    return Pit(read_record(workdir, config_class()))


class Pit:
    """A run's models: the policy answers, the improver improves, the gap and the reward model score.

    Prompts are texts, or lists of {"role", "content"} that the assistant answers; answers are texts, or lists of
    one message of the assistant. Every call takes lists and gives lists of the same length.

    Sampling at a temperature draws by `seed` and by a text's place in its list: the same call gives the same texts. At
    temperature 0 (greedy) a text does not depend on the others. UserError names the prompt or answer that is too long
    for the models, empty or of another form, and the stage to run where a model is missing.
    """

    def __init__(self, config: Config):
        self.config = config
        self._run = Run(config, catalogue())
        self._engines: dict[int, TextEngine] = {}
        self._params: dict[StageId, Params] = {}
        self._decoding: dict[StageId, Params] = {}

    def __repr__(self) -> str:
        return f"Pit({self.config.workdir!r})"

    def answer(self, prompts: Sequence[Text], temperature: float = 0.0, seed: int = 0) -> list[str]:
        """One answer of the policy to each prompt."""
        sampling, policy, asked_N = _sampling(temperature), self._weights(POLICY), self._asked(prompts)

        def draw(texts: TextEngine, chunk: Chunk, key: jax.Array) -> list[Answer]:
            return texts.answer(policy, chunk, jax.random.fold_in(key, 0), sampling)

        return [answer.text for answer in self._drawn(asked_N, draw, seed)]

    def improve(
        self,
        prompts: Sequence[Text],
        answers: Sequence[Text],
        rounds: int = 1,
        temperature: float = 0.0,
        seed: int = 0,
    ) -> list[str]:
        """Each answer after `rounds` improvements in a row."""
        if rounds < 1:
            raise UserError(f"rounds={rounds}: ask for at least one improvement")
        sampling, improver, asked_N = _sampling(temperature), self._weights(IMPROVER), self._asked(prompts)
        given = self._answers(asked_N, answers, "answers", most=self._context.data.response_slot)

        def draw(texts: TextEngine, chunk: Chunk, key: jax.Array) -> list[Answer]:
            now = given[chunk.first : chunk.first + chunk.real]
            for round in range(1, rounds + 1):
                now = texts.rewrite(
                    improver, chunk, [answer.ids for answer in now], jax.random.fold_in(key, round), sampling
                )
            return now

        return [answer.text for answer in self._drawn(asked_N, draw, seed)]

    def gap(self, prompts: Sequence[Text], candidates: Sequence[Text], references: Sequence[Text]) -> list[float]:
        """By how much each candidate is better than its reference: what the gap model says in both orders, halved.

        A copy scores exactly 0, and two texts that change places the opposite.
        """
        params, asked_N = self._model(GAP), self._asked(prompts)
        better = self._answers(asked_N, candidates, "candidates")
        worse = self._answers(asked_N, references, "references")
        with jax.set_mesh(self._context.mesh):
            texts = self._engine(len(asked_N))
            gaps_N = in_both_orders(partial(texts.gaps, params), asked_N, better, worse)
        return [float(gap) for gap in gaps_N]

    def reward(self, prompts: Sequence[Text], answers: Sequence[Text]) -> list[float]:
        """The score of each answer by the reward model; only differences between answers to one prompt mean much."""
        params, asked_N = self._model(REWARD), self._asked(prompts)
        given = self._answers(asked_N, answers, "answers")
        with jax.set_mesh(self._context.mesh):
            scores_N = self._engine(len(asked_N)).scores(params, asked_N, given)
        return [float(score) for score in scores_N]

    def _asked(self, prompts: Sequence[Text]) -> list[str]:
        texts = _prompts(prompts)
        check_texts(self._context.data.template, "prompts", texts)
        return texts

    def _drawn(
        self, prompts: list[str], draw: Callable[[TextEngine, Chunk, jax.Array], list[Answer]], seed: int
    ) -> list[Answer]:
        """What is drawn for all prompts, a chunk after the other."""
        answers: list[Answer] = []
        with jax.set_mesh(self._context.mesh):
            texts = self._engine(len(prompts))
            for chunk in texts.chunks(prompts, least=self._context.data.report["layout"]["prompt_slot"]):
                answers += draw(texts, chunk, jax.random.key(seed))
        return answers

    def _answers(
        self, prompts: list[str], answers: Sequence[Text], name: str, *, most: int | None = None
    ) -> list[Answer]:
        """Answers as tokens; at most `most` of them, EOS included."""
        template, tokenised = self._context.data.template, []
        texts = _texts(answers, name, "answer")
        check_texts(template, name, [], texts)
        for number, text in enumerate(texts, 1):
            tokenised.append(written(template, text))
            if most is not None:
                check_length(f"{name}: number {number}", len(tokenised[-1].ids), most, kind="an answer")
        if len(tokenised) != len(prompts):
            raise UserError(f"found {len(prompts)} prompts and {len(tokenised)} {name}; pass one of each per prompt")
        return tokenised

    def _engine(self, rows: int) -> TextEngine:
        """The engine for so many rows: few batch sizes, so that few programs are compiled."""
        mesh, most = self._context.mesh, self.config.improve.batch_size
        shards = row_shards(mesh)
        size = min(most, 1 << (max(rows, 1) - 1).bit_length())
        size = -(-size // shards) * shards
        if size not in self._engines:  # each keeps what it has compiled
            queue = self._texts.queue if rows > most else 1
            self._engines[size] = replace(self._texts, batch_size=size, queue=queue)
        return self._engines[size]

    def _weights(self, id: StageId) -> Params:
        """What a finished stage's model draws with."""
        if id not in self._decoding:
            params = self._model(id)
            with jax.set_mesh(self._context.mesh):
                self._decoding[id] = self._texts.engine.to_decode(params)
        return self._decoding[id]

    def _model(self, id: StageId) -> Params:
        """The parameters of a finished stage, read once."""
        if id not in self._params:
            folder = self._run.folder(id)
            if folder.done() is None:
                raise UserError(
                    f"{self.config.workdir} has no finished {folder.name}; run {folder.stage.id.flags} first"
                )
            folder.ancestors(self.config)
            with jax.set_mesh(self._context.mesh):
                self._params[id] = self._models.load(id)
        return self._params[id]

    @cached_property
    def _texts(self) -> TextEngine:
        return text_engine(self._context)

    @cached_property
    def _models(self) -> Models:
        return Models(self._context)

    @cached_property
    def _context(self) -> Context:
        asking = Provenance(name="api", parents=lambda config: (POLICY, IMPROVER, REWARD, GAP))
        data: Prepared = open_data(self._run.data_folder)
        return Context(self.config, self._run, asking, data, make_mesh(_mesh(self.config)), Screen(Terminal()))


def _mesh(config: Config) -> MeshConfig:
    """The run's own mesh where this machine has as many devices; else the batch over all that there are."""
    try:
        mesh_shape(config.mesh, jax.device_count())
    except UserError:
        return MeshConfig()
    return replace(config.mesh, simulate=0)


def _sampling(temperature: float) -> Sampling:
    return replace(check_sampling(Sampling(temperature)), temperature=jnp.float32(temperature))


def _prompts(prompts: Sequence[Text]) -> list[str]:
    texts = _texts(prompts, "prompts", "prompt")
    if not texts:
        raise UserError("prompts: found none; pass at least one")
    return texts


def _texts(values: Sequence[Text], name: str, column: str) -> list[str]:
    """Texts of strings or message lists. UserError names the number of one that is neither."""
    if isinstance(values, str):
        raise UserError(f"{name}: found one text; pass a list of texts")
    texts = []
    for number, value in enumerate(values, 1):
        if column == "answer" and isinstance(value, str):
            texts.append(value)  # an empty one is an answer too
            continue
        if not isinstance(value, Sequence):
            raise UserError(f"{name}: number {number} is {value!r}; pass a text or a list of messages")
        plain = value if isinstance(value, str) else list(value)
        row = {"prompt": plain} if column == "prompt" else {"prompt": "x", "answer": plain}
        try:
            prompt, answer = asked(row)
        except Unusable as why:
            raise UserError(f"{name}: number {number}: {why.reason} ({why.found})") from why
        texts.append(prompt if answer is None else answer)
    return texts
