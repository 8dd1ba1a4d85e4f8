"""SPA's ablations change what their name says and nothing else."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from pit_jax.config import Config, flatten
from pit_jax.recipes.comparison.ablations import branched
from pit_jax.recipes.spa.ablations import ABLATIONS, SPA, ablations_of
from pit_jax.run.provenance import StageId
from tests.world import MakeContext

TABLES = StageId("spa-tables")
NOT_REFINED = {"spa.noise_share": 0.0}
CHANGES: dict[str, dict[str, Any]] = {
    "without-refinement": NOT_REFINED,
    "without-decoupling": {"spa.strengths": [0.0, 0.0, 0.0]},
    "judged-by-previous": {**NOT_REFINED, "spa.labels": "previous"},
    "judged-by-likelihood": {**NOT_REFINED, "spa.labels": "likelihood"},
    "judged-by-reward": {**NOT_REFINED, "spa.labels": "reward"},
}


@pytest.mark.parametrize("name", ABLATIONS)
def test_an_ablation_changes_one_thing(context: MakeContext, name: str) -> None:
    """It lies in spa/<name> of the run, and trains what its labels are judged by before."""
    base = context(Config(), None, TABLES)
    own = branched(base, ABLATIONS[name])
    before, after = flatten(base.config), flatten(own.config)
    changed = {knob: value for knob, value in after.items() if value != before[knob]}
    where = {"workdir": str(Path(base.config.workdir) / "spa" / name), "parent_run": base.config.workdir}
    assert changed == where | CHANGES[name]
    needed = own.run.stage(SPA).parents(own.config)
    assert (StageId("rm", "policy") in needed) == (name == "judged-by-reward")
    assert ABLATIONS[name].stages[:-1] == needed[1:] and ABLATIONS[name].stages[-1] == SPA


def test_wrong_names_are_refused() -> None:
    assert ablations_of(Config()) == list(ABLATIONS.values())
    config = replace(Config(), spa=replace(Config().spa, ablations=("first-only",)))
    with pytest.raises(ValueError, match="--spa.ablations: found first-only; name each of without-refinement"):
        ablations_of(config)
