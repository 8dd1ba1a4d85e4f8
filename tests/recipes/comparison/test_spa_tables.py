"""SPA's tables, and its iterations beside PIT's systems: who answers, who is compared with whom, by which judges."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from pit_jax.config import Config
from pit_jax.evaluation.results import Results, read_results
from pit_jax.evaluation.systems import DPO, DPO_SEED, POLICY, POLICY_SFT, SystemId, spa
from pit_jax.recipes.catalogue import catalogue
from pit_jax.recipes.comparison import evaluate
from pit_jax.recipes.comparison.ablations import branched
from pit_jax.recipes.comparison.policies import OTHERS, stages_of
from pit_jax.recipes.spa import tables
from pit_jax.recipes.spa.ablations import ABLATIONS, SPA
from pit_jax.run.context import Context
from pit_jax.run.provenance import StageId
from tests.recipes.comparison.conftest import CONFIG
from tests.world import MakeContext, finish

TABLES = StageId("spa-tables")
ABLATED = SystemId("branch-policy", source="judged-by-previous")
PHASES = ("seed", "iteration-1", "iteration-2")
SMALL = replace(
    CONFIG, spa=replace(CONFIG.spa, slices=(1.0, 1.0), strengths=(0.5, 0.25), ablations=("judged-by-previous",))
)


def finish_phases(context: Context) -> None:
    """Each phase a digest, and so answers, of its own."""
    for phase in PHASES:
        context.folder_of(SPA).of(phase).finish(round=1, digest=f"digest of {phase}")


@pytest.fixture
def written(ready: MakeContext, mesh: Any) -> Context:
    """The context of finished tables."""
    context = ready(SMALL, TABLES, truth=True)
    finish_phases(context)
    branch = branched(context, ABLATIONS["judged-by-previous"])
    finish(branch.folder_of(SPA))
    tables.run(context)
    return context


def test_every_phase_answers_and_is_compared_with_dpo_on_the_gold_pairs(written: Context) -> None:
    found = read_results(written.folder.path / "results.json", Results)
    assert found is not None and found.judges == ["rubric"], "no gap model is needed where a truth is known"
    assert (found.headline_temperature, found.controls) == (1.0, [])
    assert [row.system for row in found.systems] == [POLICY_SFT, DPO_SEED, spa(1), spa(2), DPO, ABLATED]
    assert [(row.left, row.right) for row in found.rows] == [
        (spa(1), DPO_SEED),
        (spa(2), DPO_SEED),
        (DPO, DPO_SEED),
        (ABLATED, DPO_SEED),
        (DPO_SEED, POLICY_SFT),
        (spa(2), DPO),
        (spa(2), ABLATED),
    ]
    names = ("policy-sft", "dpo-seed", "spa-x1", "spa-x2", "dpo", "branch-policy-judged-by-previous")
    assert {path.name for path in (written.run.workdir / "answers").iterdir()} == {f"{name}@1.jsonl" for name in names}
    assert str(spa(2)) == "SPA x2" and str(DPO_SEED) == "DPO on the seed"


def test_what_comes_before_the_tables(context: MakeContext) -> None:
    """SPA and DPO in the run itself, the ablations beside it; a judge that is named brings the model that it asks."""
    config = context(SMALL, None, TABLES).config
    trained = [(Path(branch.workdir).name, str(id)) for branch, id in tables.all_branches(config)]
    own = Path(config.workdir).name
    assert trained == [(own, "spa-policy"), (own, "dpo-policy"), ("judged-by-previous", "spa-policy")]
    gap = StageId("rm", "improver")
    assert gap in tables.parents(config, ""), "nobody knows a truth here"
    known = replace(config, data=replace(config.data, sources=("notes",)))
    assert gap not in tables.parents(known, "")
    asked = replace(known, evaluate=replace(known.evaluate, judges=("rubric", "gap")))
    assert gap in tables.parents(asked, "")


def test_an_evaluation_compares_policies_that_were_trained_otherwise(
    ready: MakeContext, mesh: Any, without_outputs: None
) -> None:
    config = replace(SMALL, evaluate=replace(SMALL.evaluate, policies=("spa", "dpo")))
    context = ready(config, evaluate.EVALUATE, truth=True)
    assert {*OTHERS.values()} <= {*context.stage.parents(config)}
    finish_phases(context)
    evaluate.run(context)
    found = read_results(context.folder.path / "results.json", Results)
    assert found is not None
    others = [DPO_SEED, spa(1), spa(2), DPO]
    assert [row.system for row in found.systems][-4:] == others
    assert [row.left for row in found.rows if row.right == POLICY and row.judge == "rubric"][-4:] == others
    assert all(np.isfinite(row.delta) for row in found.rows)


def test_branches_of_a_branch_are_refused() -> None:
    """Without ablations a branch of a run can be compared too."""
    branch = replace(SMALL, parent_run="runs/other")
    with pytest.raises(ValueError, match="--stage=spa-tables makes branches of a run: leave --parent-run out"):
        tables.check(branch, "")
    tables.check(replace(branch, spa=replace(branch.spa, ablations=())), "")


def test_unknown_policies_are_refused() -> None:
    with pytest.raises(ValueError, match=r"--evaluate.policies: no policy 'spaa'; did you mean spa\?; known: dpo, spa"):
        stages_of(replace(Config(), evaluate=replace(Config().evaluate, policies=("spaa",))))
    assert catalogue()[evaluate.EVALUATE].parents(Config()) == catalogue()[StageId("judge")].parents(Config())
