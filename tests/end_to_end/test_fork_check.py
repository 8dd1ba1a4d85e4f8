"""`python -m pit_jax.fork check` trains a fork's stage, and says what it breaks."""

from pathlib import Path

import pytest

from pit_jax.contract.check import main

UNSTEADY = """
import os
import pathlib
import time

from pit_jax.fork import Context, Models, RewardBatch, Stage, StageId, Task, by, fit, fork, pair_scores, with_head
from pit_jax.objectives.reward import bradley_terry_loss


def run(context: Context) -> None:
    models, common = Models(context), context.config.rm

    def loss(params, batch, key):
        return bradley_terry_loss(*pair_scores(context.scalar_model, params, batch), margin=batch.margin_B)

    task = Task(
        loss=loss,
        make_batch=RewardBatch,
        rows=context.data.rows("rm", "reward"),
        heldout=context.data.rows("heldout", "reward"),
        optimizer=common.optimizer,
        steps=6,
        batch_size=common.batch_size,
        accumulate=common.accumulate,
        seed=os.getpid(),
        score=by("accuracy"),
    )
    pathlib.Path(context.config.workdir, "beside.txt").write_text(str(time.time()))
    fit(context, task, models, lambda: with_head(context, models, "mine"))


SFT = StageId("sft", "policy")
fork(Stage(name="mine", run=run, help="mine", parents=lambda config: (SFT,), init_from=SFT, leaves="scalar"))
"""


@pytest.mark.slow
def test_a_stage_that_is_not_steady_and_writes_beside_its_folder(
    finished: tuple[Path, str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "mine.py"
    file.write_text(UNSTEADY)
    assert main(["check", str(file), f"--parent-run={finished[0]}"]) == 1
    printed = capsys.readouterr().out
    assert "holds  mine: it trains, every metric finite" in printed
    assert "fails  mine: it writes into its own folder alone: it also wrote beside.txt" in printed
    assert "fails  mine: killed and resumed it ends with the same bits: uninterrupted it ends with" in printed
    assert printed.count("fails") == 2, printed
