"""How far training took a run's models from its base, the untouched checkpoint, on answers that it has drawn.

    python -m benchmarks.drift --workdir=runs/smollm2

Of the answers of a finished --stage=evaluate with --base at its headline temperature: their perplexity under the
untouched model, and the KL divergence of the model that drew them from it at that temperature, in nats an answer: the
mean over its answers of log M(y | x) - log base(y | x), for an improver of its first drafts, log M(y | x, y_ref) -
log base(y | x, y_ref). What the untouched model would not write is not wrong; what is no language is far from it.
"""

import math
import sys
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

import jax
import numpy as np
from rich.console import Console
from rich.table import Table

from benchmarks.greedy import opened
from benchmarks.results import keep, parser_of
from pit_jax.batch import Answer
from pit_jax.errors import UserError
from pit_jax.evaluation.systems import POLICY, POLICY_SFT, SFT_IMPROVER, SystemId, pit
from pit_jax.recipes.comparison.draw import IMPROVER_RL, POLICY_RL, Answering, heldout_prompts
from pit_jax.recipes.comparison.evaluate import (
    EVALUATE,
    SFT_IMPROVER_STAGE,
    SFT_POLICY_STAGE,
    headline_temperature,
    outputs_at,
)
from pit_jax.run.context import Context
from pit_jax.run.params import Models
from pit_jax.run.provenance import StageId

COLUMNS = ("system", "tokens", "perplexity", "KL, nats")


def figures_of(context: Context) -> list[dict[str, Any]]:
    """Of every system a row. UserError for a run without a base, or without answers."""
    config = context.config
    if not config.base:
        raise UserError(f"{context.run.workdir}: asked for a run with --base, found one without")
    prompts, temperature = heldout_prompts(context), headline_temperature(config)
    answering = Answering(context, prompts, draws=False)
    outputs, logprobs = outputs_at(answering, temperature), partial(answering.texts.logprobs, prompts=prompts.texts)
    drafts = answering.trail_rows(pit(0), temperature, 1, answering.source(IMPROVER_RL), gaps=True)
    drawn_by: dict[SystemId, tuple[StageId, Sequence[Answer], Sequence[Answer]]] = {
        POLICY_SFT: (SFT_POLICY_STAGE, outputs[POLICY_SFT].answers, ()),
        POLICY: (POLICY_RL, outputs[POLICY].answers, ()),
        SFT_IMPROVER: (SFT_IMPROVER_STAGE, outputs[SFT_IMPROVER].answers, outputs[POLICY].answers),
        pit(1): (IMPROVER_RL, [row.drafts[0] for row in drafts], outputs[POLICY].answers),
    }
    rows = []
    with jax.set_mesh(context.mesh):
        base = Models(context).root()
        for system, output in outputs.items():
            row: dict[str, Any] = {"system": str(system), "tokens": float(output.lengths_N.mean())}
            nats = -float(logprobs(base, answers=output.answers, temperature=1.0).sum())
            row["perplexity"] = math.exp(nats / int(output.lengths_N.sum()))
            if system in drawn_by:
                stage, answers, references = drawn_by[system]
                own_N, base_N = (
                    logprobs(params, answers=answers, references=references, temperature=temperature)
                    for params in (answering.source(stage).params, base)
                )
                row["KL, nats"] = float(np.mean(own_N - base_N))
            rows.append(row)
    return rows


def main(argv: Sequence[str]) -> None:
    parser = parser_of(__doc__)
    parser.add_argument("--workdir", type=Path, required=True)
    given = parser.parse_args(argv)
    context = opened(given.workdir, EVALUATE)
    rows, count = figures_of(context), len(heldout_prompts(context).texts)
    table = Table(*COLUMNS, title=f"drift from {context.config.base}, n = {count:,}", title_justify="left")
    for row in rows:
        values = (row.get(name) for name in COLUMNS[1:])
        table.add_row(row["system"], *("–" if value is None else f"{value:.2f}" for value in values))
    Console().print(table)
    keep(given.results, "drift", {"n": count, "rows": rows})


if __name__ == "__main__":
    main(sys.argv[1:])
