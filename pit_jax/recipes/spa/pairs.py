"""An iteration's pairs: answers of the model in training to its slice of prompts, the best against the worst of each.

They are on disk before anything is trained on them: samples in chunks, so that a kill costs one, pairs at once.
"""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from pit_jax.batch import Triple
from pit_jax.data.features import row_lengths
from pit_jax.data.layouts import pairs
from pit_jax.data.packing import widths_of
from pit_jax.data.rows import StoredRows
from pit_jax.data.text.chat import Refusal
from pit_jax.data.text.row import Unusable
from pit_jax.errors import UserError
from pit_jax.evaluation.answers import AnswerFile, AnswerRow
from pit_jax.evaluation.systems import SystemId
from pit_jax.files import digest_of
from pit_jax.inference.sampling import Sampling
from pit_jax.inference.texts import written
from pit_jax.model.networks import Params
from pit_jax.parallel.preemption import check
from pit_jax.recipes.spa.labels import Bench, Labels
from pit_jax.run.context import Context
from pit_jax.run.screen import Bar

PAIRS = "pairs.jsonl"
SAME = "all answers are the same text"


@dataclass(frozen=True)
class Sampler:
    """Draws the samples of an iteration, all from one key."""

    context: Context
    bench: Bench
    weights: Params
    made_by: str  # digest of the model
    key: jax.Array

    def samples(self, prompts: Sequence[str], folder: Path, system: SystemId, bar: Bar) -> list[AnswerRow]:
        """A row a prompt with spa.samples answers, those in the file of the folder read from there."""
        config, texts = self.context.config.spa, self.bench.texts
        settings = f"{config.temperature:g} {config.samples} {self.context.config.seed}"
        made_by = settings, self.context.data.fingerprint, self.made_by
        keys = [digest_of(*made_by, str(index), prompt) for index, prompt in enumerate(prompts)]
        file = AnswerFile(folder, system, config.temperature)
        rows = file.rows(prompts, keys)
        chunks = texts.chunks(prompts, least=self.context.data.report["layout"]["prompt_slot"])
        sampling = Sampling(jnp.float32(config.temperature))
        for chunk in chunks:
            mine = rows[chunk.first : chunk.first + chunk.real]
            if any(len(row.drafts) < config.samples for row in mine):
                answers = texts.answer(self.weights, chunk, self.key, sampling, samples=config.samples)
                for number, row in enumerate(mine):
                    drawn = answers[number * config.samples :][: config.samples]
                    for answer in drawn[len(row.drafts) :]:  # the first ones may be there, since a kill
                        row.add(answer)
                file.add(mine)
                check(f"{chunk.first + chunk.real} of {len(rows)} answers are in {file.path}")
            bar.advance(chunk.real)
        file.close()
        return rows


def labelled(rows: Sequence[AnswerRow], bench: Bench, labels: Labels) -> tuple[list[Triple], Counter[str]]:
    """(the best and the worst answer to each prompt, prompts that make no pair by reason).

    An answer is taken for the text that a person would read: tokenised again, and with an end, as in training.
    """
    template, dropped, found = bench.texts.template, Counter[str](), []
    texts = [list(dict.fromkeys(draft.text for draft in row.drafts)) for row in rows]
    owners = [index for index, answers in enumerate(texts) for _ in answers]
    answers = [written(template, text) for row in texts for text in row]
    scores = iter(labels.score(bench, [rows[owner].prompt for owner in owners], answers).tolist())
    for row, candidates in zip(rows, texts, strict=True):
        scored = {text: next(scores) for text in candidates}
        best, worst = max(scored, key=scored.__getitem__), min(scored, key=scored.__getitem__)
        try:
            template.check(row.prompt, best, worst)
            triple = pairs({"prompt": row.prompt, "chosen": best, "rejected": worst})
        except (Unusable, Refusal) as why:
            dropped[SAME if len(candidates) == 1 else str(why)] += 1
            continue
        found.append(replace(triple, prompt=row.prompt))
    return found, dropped


def line_of(triple: Triple) -> dict[str, Any]:
    """A pair in a file of the layout `pairs`."""
    line: dict[str, Any] = {"prompt": triple.prompt, "chosen": triple.chosen, "rejected": triple.rejected}
    return line | ({"margin": triple.margin} if triple.margin else {})


def triples_of(lines: Sequence[dict[str, Any]]) -> list[Triple]:
    """The pairs of such a file."""
    return [Triple(line["prompt"], line["chosen"], line["rejected"]) for line in lines]


def training_rows(context: Context, triples: Sequence[Triple], folder: Path) -> tuple[StoredRows, np.ndarray]:
    """(rows of pairs as those of prepared data, in widths of their own; which of the pairs they are).

    Pairs whose answers are the same to the tokenizer are left out. UserError where none is left.
    """
    rows = context.data.rows_of("reward", triples)
    if not len(rows):
        raise UserError(f"{folder}: none of {len(triples):,} pairs can be trained on; raise --spa.temperature")
    lengths_N = row_lengths("reward", rows.feature_lengths, len(rows.layout.suffix))
    widths = widths_of(lengths_N, context.config.data.buckets)
    layout = replace(
        rows.layout, row_lengths={"reward": widths[-1]}, buckets={"reward": widths[:-1]} if widths[1:] else {}
    )
    return replace(rows, layout=layout), rows.numbers
