"""The published architectures have as many parameters as their checkpoints."""

import jax
import pytest

from pit_jax.model.networks import LanguageModel
from pit_jax.model.pretrained.published import PUBLISHED


@pytest.mark.parametrize(
    ("name", "parameters"),
    [("gemma-2b", 2_506_172_416), ("llama-3-8b", 8_030_261_248), ("llama-3-70b", 70_553_706_496)],
)
def test_parameters(name: str, parameters: int) -> None:
    config = PUBLISHED[name]
    shapes = jax.eval_shape(LanguageModel(config, config.vocab_rows).init, jax.random.key(0))
    assert sum(leaf.size for leaf in jax.tree.leaves(shapes)) == parameters
