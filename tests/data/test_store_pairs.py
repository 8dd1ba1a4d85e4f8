"""data/store.py: the pairs of the models that score, of one fold or of all that are trained on."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from pit_jax.config import DataConfig, TokenizerConfig
from pit_jax.data.store import Prepared, prepare


@pytest.fixture(scope="module")
def prepared(tmp_path_factory: pytest.TempPathFactory) -> Prepared:
    folder: Path = tmp_path_factory.mktemp("pairs") / "data"
    data = DataConfig(world_pairs=300, heldout_fraction=0.2, prompt_length=64, response_length=96)
    return prepare(data, TokenizerConfig(vocab_size=512), folder, say=lambda _: None)


@pytest.mark.parametrize("kind", ["gap", "reward"])
def test_pairs_of_the_own_fold_are_its_rows(prepared: Prepared, kind: str) -> None:
    np.testing.assert_array_equal(prepared.pairs(kind, "fold").numbers, prepared.rows("rm", kind).numbers)


@pytest.mark.parametrize("shorter", [0, 8])
def test_pairs_of_other_folds_stand_behind_those_of_the_own_one(prepared: Prepared, shorter: int) -> None:
    """Each once, none that is held out; those that are longer than the layout of its rows are left out."""
    data = replace(prepared)
    lengths = dict(prepared.layout.row_lengths)
    data.__dict__["layout"] = replace(prepared.layout, row_lengths=lengths | {"gap": lengths["gap"] - shorter})
    own = data.rows("rm", "gap")
    others = [replace(own, numbers=data.rows(*row).numbers) for row in (("sft", "sft-policy"), ("rl", "prompts"))]
    expected = np.concatenate([own.numbers, *(other.fitting().numbers for other in others)])
    found = data.pairs("gap", "all").numbers
    np.testing.assert_array_equal(found, expected)
    assert (len(found) < len(own) + sum(map(len, others))) == (shorter > 0)
    assert len(np.unique(found)) == len(found) and not np.isin(data.rows("heldout", "gap").numbers, found).any()
