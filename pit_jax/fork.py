"""What a fork imports: the values that it may declare, `fork(...)` that declares them, and what they are made with.

    from pit_jax.fork import TextReward, fork

    def short(prompts, responses, rows):
        return [-len(response.split()) for response in responses]

    fork(TextReward("short", short, weight=0.05))

Then: pit-jax --fork=mine.py --stage=rl --rl.improver-rewards short. `python -m pit_jax.fork check mine.py` tries it.
"""

import inspect
import sys
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from pit_jax import table
from pit_jax.batch import Experience, GapBatch, PromptBatch, Responses, RewardBatch, SftBatch, Triple
from pit_jax.config import Config, RlConfig
from pit_jax.data.layouts import LAYOUTS, Layout
from pit_jax.data.text.row import Unusable
from pit_jax.data.worlds.builtin import WORLDS
from pit_jax.data.worlds.world import World, score_of
from pit_jax.errors import UserError
from pit_jax.evaluation.judges.builtin import JUDGES
from pit_jax.evaluation.judges.judge import Bench, Judge
from pit_jax.masked import Mean, fill, masked_mean
from pit_jax.model.scoring import counted_logprobs, end_scores, pair_scores, response_logprobs, tree_gaps
from pit_jax.recipes.catalogue import STAGES
from pit_jax.rl.algorithms import ALGORITHMS, Advantages, Algorithm, mean_policy_loss
from pit_jax.rl.references import REFERENCES, Draw, Reference
from pit_jax.rl.rewards import TEXT_REWARDS, RewardRow, TextReward
from pit_jax.run.context import Context
from pit_jax.run.params import Models
from pit_jax.run.programs import Program, Shapes
from pit_jax.run.provenance import SHARED, StageId, section
from pit_jax.run.stage import Stage
from pit_jax.run.supervised import Task, by, fit, with_head

Value = Stage | Algorithm | Reference | TextReward | Judge | Layout | World
TABLES: dict[type, table.Table[Any]] = {
    Stage: STAGES,
    Algorithm: ALGORITHMS,
    Reference: REFERENCES,
    TextReward: TEXT_REWARDS,
    Judge: JUDGES,
    Layout: LAYOUTS,
    World: WORLDS,
}
# What a fork's stage depends on where it does not say: everything that is trained with.
EVERYTHING = (*SHARED, *(knob for name in ("sft", "rm", "rl", "dpo") for knob in section(name)))


def fork(*values: Value) -> None:
    """Declare values beside the built-in ones. To be called when the fork's file is imported.

    The file's code, and that of modules beside it which it imports, becomes part of the hash of every stage that uses
    a value, and of the data fingerprint for a layout or a world. UserError for a name that is taken: it names both
    files.
    """
    source = _source()
    for value in values:
        kind = next((kind for kind in TABLES if isinstance(value, kind)), None)
        if kind is None:
            known = ", ".join(kind.__name__ for kind in TABLES)
            raise UserError(f"fork(...): asked for values of {known}, found {type(value).__name__}")
        TABLES[kind].add(with_code(value) if isinstance(value, Stage) else value, source)


def with_code(stage: Stage) -> Stage:
    """A fork's stage with its code in what it depends on."""
    knobs = stage.knobs or (*EVERYTHING, *((stage.name,) if stage.config is not None else ()))

    def contents(config: Config) -> Mapping[str, str]:
        return {**stage.contents(config), **STAGES.code(str(stage.id))}

    return replace(stage, knobs=knobs, contents=contents)


def _source() -> table.Source:
    """The fork that is being loaded, or the file that calls `fork`."""
    if (loading := table.loading()) is not None:
        return loading
    caller = inspect.stack()[2].filename
    if not Path(caller).is_file():
        raise UserError("fork(...) is called in a file, whose code becomes part of what is made with it")
    return table.source_of(Path(caller))


__all__ = [
    "Advantages",
    "Algorithm",
    "Bench",
    "Config",
    "Context",
    "Draw",
    "Experience",
    "GapBatch",
    "Judge",
    "Layout",
    "Mean",
    "Models",
    "Program",
    "PromptBatch",
    "Reference",
    "Responses",
    "RewardBatch",
    "RewardRow",
    "RlConfig",
    "SHARED",
    "SftBatch",
    "Shapes",
    "Stage",
    "StageId",
    "Task",
    "TextReward",
    "Triple",
    "Unusable",
    "UserError",
    "World",
    "by",
    "counted_logprobs",
    "end_scores",
    "fill",
    "fit",
    "fork",
    "masked_mean",
    "mean_policy_loss",
    "pair_scores",
    "response_logprobs",
    "score_of",
    "section",
    "tree_gaps",
    "with_head",
]

if __name__ == "__main__":
    from pit_jax.contract.check import main

    sys.exit(main(sys.argv[1:]))
