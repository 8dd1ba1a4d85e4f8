"""The baselines that only prompt, by the policy itself: Self-Refine and its one-line form."""

from collections.abc import Callable, Sequence
from functools import partial

import jax
import numpy as np

from pit_jax.batch import Answer
from pit_jax.config import Config
from pit_jax.evaluation.answers import AnswerFile, AnswerRow
from pit_jax.evaluation.systems import Output, SystemId
from pit_jax.files import digest_of
from pit_jax.inference.self_refine import PROMPTS, Refined, Wording, load_wording, reflect, self_refine
from pit_jax.inference.texts import written
from pit_jax.paths import local, to_path
from pit_jax.recipes.comparison.draw import POLICY_RL, Answering


def wording_of(config: Config) -> Wording:
    """The prompts of Self-Refine. UserError names the file of --paper.wording that does not serve."""
    return load_wording(local(to_path(config.paper.wording)) if config.paper.wording else PROMPTS)


def wording_digest(wording: Wording) -> str:
    """Names the texts."""
    return digest_of(*(template.template for template in vars(wording).values()))


class Refining:
    """The policy prompted to review and rewrite its answers, or to rewrite them, on the prompts of an Answering.

    What it writes for one prompt depends on which others are still asked (it draws for all of them together), so a
    system is drawn whole or not at all.
    """

    def __init__(self, answering: Answering):
        self._answering, self._context = answering, answering.context

    def refined(self, temperature: float, rounds: int) -> list[Output]:
        """Self-Refine: what it has after 1, 2, .. rounds at most."""
        return self._prompted(SystemId("self-refine"), partial(self_refine, rounds=rounds), temperature, rounds)

    def reflected(self, temperature: float) -> Output:
        """The one-line form, once."""
        return self._prompted(SystemId("one-line"), partial(reflect, rounds=1), temperature, 1)[0]

    def _prompted(
        self, system: SystemId, method: "partial[list[Refined]]", temperature: float, rounds: int
    ) -> list[Output]:
        original, prompts = self._answering.policy(temperature), self._answering.prompts
        wording, longest = wording_of(self._context.config), self._longest
        everything = digest_of(*original.keys, wording_digest(wording), str(longest), str(rounds))
        keys = [digest_of(system.stem, everything, str(index)) for index in range(len(prompts.texts))]
        named = SystemId(system.kind, rounds) if system.kind == "self-refine" else system
        file = AnswerFile(prompts.folder, named, temperature)
        rows = file.rows(prompts.texts, keys)
        if not all(len(row.drafts) == rounds for row in rows):
            refinements = self._ask(system, method, temperature, original, wording)
            rows = [AnswerRow(row.index, row.prompt, row.key) for row in rows]
            for row, refined in zip(rows, refinements, strict=True):
                self._add(row, refined, rounds)
            file.add(rows)
            file.close()
        return [self._after(rows, round, original) for round in range(rounds)]

    def _ask(
        self,
        system: SystemId,
        method: "partial[list[Refined]]",
        temperature: float,
        original: Output,
        wording: Wording,
    ) -> list[Refined]:
        answering, context = self._answering, self._context
        writer = Writer(answering, temperature, key=answering.key(temperature, system.stem), longest=self._longest)
        ask = partial(method, limit=writer.limit, wording=wording)
        refinements = ask(answering.prompts.texts, original.texts, writer, writer.count)
        if over := sum(row.stopped == "length" for row in refinements):
            context.screen.say(
                f"{system.kind} at temperature {temperature:g}: {over} of {len(refinements)} prompts would take over "
                f"{writer.limit} tokens and keep their answers; --paper.refine-length gives room"
            )
        return refinements

    @property
    def _longest(self) -> int:
        return self._context.config.paper.refine_length or self._context.config.data.prompt_length

    def _add(self, row: AnswerRow, refined: Refined, rounds: int) -> None:
        """What is there after 1, 2, .. rounds at most, and the tokens of the rewrites and reviews up to there."""
        template = self._context.data.template
        for round in range(1, rounds + 1):
            texts = [*refined.answers[1 : round + 1], *refined.reviews[:round]]
            answer: Answer = written(template, refined.answers[: round + 1][-1])
            row.add(answer, tokens=sum(len(template.response(text)) + 1 for text in texts), replies=len(texts))

    def _after(self, rows: Sequence[AnswerRow], round: int, original: Output) -> Output:
        return Output(
            answers=[row.drafts[round] for row in rows],
            keys=[f"{row.key}/{round + 1}" for row in rows],
            drawn_N=original.drawn_N + np.array([row.tokens[round] for row in rows]),
            replies=1.0 + float(np.mean([row.replies[round] for row in rows])),
            reference=original,
        )


class Writer:
    """The policy as a text function: texts in, replies out, calls in one shape; call c draws from fold_in(key, c)."""

    def __init__(self, answering: Answering, temperature: float, *, key: jax.Array, longest: int):
        """`longest`: most tokens of a prompt with its frame, which may be more than the model was trained on."""
        self._answering, self._temperature = answering, temperature
        self._key, self._calls, self._longest = key, 0, longest
        template = answering.context.data.template
        self._template: Callable[[str], list[int]] = template.response
        around = template.frame_length
        self._slot = longest + max(0, len(template.improver_prefix("")) - around)
        self.limit = longest - around + 1
        """The largest `count` of a text that the model can be asked."""

    def __call__(self, texts: Sequence[str]) -> list[str]:
        """The policy's reply to each text. UserError for a text over `limit`."""
        key, answering = jax.random.fold_in(self._key, self._calls), self._answering
        self._calls += 1
        chunks = answering.texts.chunks(texts, least=self._slot, longest=self._longest)
        weights, sampling = answering.weights(answering.source(POLICY_RL)), answering.sampling(self._temperature)
        replies: list[Answer] = []
        for chunk in chunks:
            replies += answering.texts.answer(weights, chunk, key, sampling)
        return [answer.text for answer in replies]

    def count(self, text: str) -> int:
        """Tokens that the model draws to write a text: its own and EOS."""
        return len(self._template(text)) + 1
