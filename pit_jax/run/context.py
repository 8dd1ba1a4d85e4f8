"""What a stage is given: the config, the devices, the two networks, and the run that it belongs to."""

import zlib
from dataclasses import dataclass, fields
from typing import TypeVar

import jax
from jax.sharding import Mesh

from pit_jax.batch import DecodeSpec
from pit_jax.config import Config
from pit_jax.data.store import Prepared
from pit_jax.errors import UserError
from pit_jax.model.networks import LanguageModel, ScalarModel
from pit_jax.run.folders import Run, StageFolder
from pit_jax.run.provenance import Provenance, StageId
from pit_jax.run.screen import Screen

Section = TypeVar("Section")


@dataclass(frozen=True)
class Context:
    config: Config
    run: Run
    stage: Provenance
    """The stage that this context is for."""
    prepared: Prepared | None
    """None for a stage that reads no data."""
    devices: Mesh | None
    """None for a stage that needs no device."""
    screen: Screen

    @property
    def data(self) -> Prepared:
        """The run's prepared data: a folder that is read when it is asked."""
        assert self.prepared is not None, f"stage {self.stage.id} said that it reads no data"
        return self.prepared

    @property
    def mesh(self) -> Mesh:
        assert self.devices is not None, f"stage {self.stage.id} said that it needs no devices"
        return self.devices

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
    def decode_spec(self) -> DecodeSpec:
        tokenizer, template = self.data.tokenizer, self.data.template
        suffix = tuple(template.improver_suffix)
        return DecodeSpec(self.data.response_slot, tokenizer.eos_id, tokenizer.pad_id, suffix)

    def section(self, kind: type[Section]) -> Section:
        """The flags of a fork's stage, by the dataclass that declares them."""
        for f in fields(self.config):
            if isinstance(value := getattr(self.config, f.name), kind):
                return value
        raise UserError(
            f"no stage of a loaded fork has the flags {kind.__name__}; give its Stage config={kind.__name__}"
        )

    @property
    def folder(self) -> StageFolder:
        """The stage's own folder."""
        return self.run.folder(self.stage.id)

    def folder_of(self, id: StageId) -> StageFolder:
        """The folder of any stage of the run."""
        return self.run.folder(id)

    def key(self, *names: str) -> jax.Array:
        """A PRNG key that depends on the seed and the names alone."""
        key = jax.random.key(self.config.seed)
        for name in names:
            key = jax.random.fold_in(key, zlib.crc32(name.encode()))
        return key
