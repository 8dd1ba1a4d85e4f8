"""What every stage shares: config, mesh, data, the two networks, the console."""

import zlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

import jax
import numpy as np
from jax.sharding import Mesh
from rich.console import Console

from pit_jax.config import Config
from pit_jax.data import notes
from pit_jax.data.store import Prepared
from pit_jax.model.networks import LanguageModel, ScalarModel
from pit_jax.parallel.sharding import batch_sharding, param_sharding, put, replicated
from pit_jax.stages.workspace import PARENTS, StageFolder, locate

T = TypeVar("T")
TruthScore = Callable[[str, str], float]


@dataclass(frozen=True)
class Context:
    config: Config
    mesh: Mesh
    data: Prepared
    console: Console
    backbones: dict[str, Any] = field(default_factory=dict)
    """Weights under several models (stages/models.py); empty where every stage trains all of them."""

    @property
    def vocab_size(self) -> int:
        """Rows of the embedding: the tokenizer's ids, and those that a checkpoint has beyond them."""
        return max(self.data.tokenizer.vocab_size, self.config.transformer.vocab_rows)

    @property
    def language_model(self) -> LanguageModel:
        return LanguageModel(self.config.transformer, self.vocab_size, self.config.adapter)

    @property
    def scalar_model(self) -> ScalarModel:
        return ScalarModel(self.config.transformer, self.vocab_size, self.config.adapter)

    @property
    def truth(self) -> TruthScore | None:
        """The hidden rubric, for judging only; None where the data has no known truth."""
        return notes.score if self.config.data.sources == ("notes",) else None

    def places(self) -> dict[str, Path]:
        """Where the data and each stage of this run lie, by name: for the report."""
        stages = (self.folder(*stage) for stage in PARENTS)
        return {"data": self.data.folder, **{folder.name: folder.path for folder in stages}}

    def folder(self, stage: str, model: str) -> StageFolder:
        return locate(self.config, stage, model)

    def key(self, *names: str) -> jax.Array:
        """A PRNG key that depends on the seed and the names alone."""
        key = jax.random.key(self.config.seed)
        for name in names:
            key = jax.random.fold_in(key, zlib.crc32(name.encode()))
        return key

    def init(self, make: Callable[[jax.Array], Any], key: jax.Array) -> Any:
        """The parameters make(key), directly in their shards."""
        sharding = param_sharding(jax.eval_shape(make, key), self.mesh)
        return jax.jit(make, out_shardings=sharding)(key)

    def abstract_params(self, make: Callable[[jax.Array], Any]) -> Any:
        """Shapes, dtypes and shardings of the parameters that make(key) gives."""
        shapes = jax.eval_shape(make, jax.random.key(0))
        return jax.tree.map(
            lambda s, sharding: jax.ShapeDtypeStruct(s.shape, s.dtype, sharding=sharding),
            shapes,
            param_sharding(shapes, self.mesh),
        )

    def texts(self, tokens_NT: Any) -> list[str]:
        """One text a row, special tokens left out."""
        return [self.data.template.text(row) for row in np.asarray(tokens_NT).tolist()]

    def put_rows(self, make: Callable[..., T], rows: Mapping[str, np.ndarray]) -> T:
        """A batch of class `make`, from named host arrays onto the mesh."""
        return self.put_batch(make(**rows))

    def put_batch(self, tree: Any) -> Any:
        return put(tree, batch_sharding(self.mesh))

    def put_replicated(self, tree: Any) -> Any:
        return put(tree, replicated(self.mesh))
