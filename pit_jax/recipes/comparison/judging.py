"""What the judges of a run say of its systems, asked once and kept in `verdicts` of the run."""

import contextlib
from collections.abc import Mapping, Sequence
from dataclasses import replace

from pit_jax.errors import UserError
from pit_jax.evaluation.controls import CONTROLS
from pit_jax.evaluation.judges.builtin import JUDGES, judges_of
from pit_jax.evaluation.judges.judge import Bench, Judge, Judgement, ask
from pit_jax.evaluation.results import ComparisonRow, ControlRow, comparison_row
from pit_jax.evaluation.systems import Output, SystemId
from pit_jax.evaluation.verdicts import VerdictFile, verdict_keys
from pit_jax.parallel.hosts import main_first
from pit_jax.recipes.comparison.draw import Answering

Outputs = Mapping[SystemId, Output]
Pair = tuple[SystemId, SystemId]


class Judging:
    """The judges of a run over the prompts that were answered."""

    def __init__(self, answering: Answering, *, models: bool = True, judges: list[Judge] | None = None):
        """Without `models` a judge that asks the run's own models says only what it said before.

        `judges`: those that the run asks for, if nothing else is said.
        """
        self._answering, self._models = answering, models
        self.judges = judges_of(answering.context.config) if judges is None else judges

    def judgement(self, judge: Judge, pair: Pair, outputs: Outputs, temperature: float) -> Judgement:
        """What a judge says of (left, right) at a temperature."""
        left, right = (outputs[system] for system in pair)
        prompts = self._answering.prompts.texts
        folder = self._answering.context.run.workdir / "verdicts"

        def asked(indices: Sequence[int]) -> Judgement:
            if judge.needs and not self._models:
                raise UserError(
                    f"{file.path} lacks verdicts, and judge {judge.name} asks the run's own models: let "
                    "--stage=evaluate ask it, where there are devices, or leave it out of --evaluate.judges"
                )
            mine, theirs = ([side.answers[i] for i in indices] for side in (left, right))
            bench = self._bench(judge) if judge.needs else None
            return ask(judge, [prompts[i] for i in indices], mine, theirs, bench)

        keys = verdict_keys(self._identity(judge), left, right)
        with contextlib.nullcontext() if judge.needs else main_first(f"verdicts of {judge.name}"):
            file = VerdictFile(folder, judge.name, *pair, temperature)
            return file.judged(keys, asked, batch=judge.batch)

    def rows(self, pairs: Sequence[Pair], outputs: Outputs, temperature: float) -> list[ComparisonRow]:
        """What every judge says of every pair."""
        return [self.row(judge, pair, outputs, temperature) for judge in self.judges for pair in pairs]

    def row(self, judge: Judge, pair: Pair, outputs: Outputs, temperature: float) -> ComparisonRow:
        judgement = self.judgement(judge, pair, outputs, temperature)
        left, right = ((system, outputs[system]) for system in pair)
        return comparison_row(self._answering.context.config, judge.name, judgement, left, right, temperature)

    def controls(self, original: SystemId, outputs: Outputs, temperature: float) -> list[ControlRow]:
        """What every judge says of the controls against the original answers."""
        source = outputs[original]
        made = {}
        for control in CONTROLS:
            written = self._answering.chosen(control.answers(source.texts))
            # An unchanged text is the very answer: tokenised anew it could be other tokens, and no copy.
            pairs = zip(written.answers, source.answers, strict=True)
            answers = [old if new.text == old.text else new for new, old in pairs]
            made[SystemId("control", source=control.name)] = replace(written, answers=answers)
        control_rows = []
        for judge in self.judges:
            for control, system in zip(CONTROLS, made, strict=True):
                row = self.row(judge, (system, original), {**outputs, **made}, temperature)
                control_rows.append(ControlRow(row, control.expected, control.holds(row)))
        return control_rows

    def _identity(self, judge: Judge) -> str:
        """The judge by all that its verdicts depend on: its name, a fork's code, the models that it asks."""
        models = (self._answering.source(id).digest for id in judge.needs)
        return " ".join([judge.name, *JUDGES.code(judge.name).values(), *models])

    def _bench(self, judge: Judge) -> Bench:
        answering = self._answering
        return Bench(answering.texts, {id: answering.source(id).params for id in judge.needs})
