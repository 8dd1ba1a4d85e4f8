"""The models of a run: a finished stage's parameters, and which of a network's a stage trains.

A stage trains its network in full, or (config.adapter) adapters and a head alone, over the weights of the nearest
ancestor that was trained in full: the base where there is none.
"""

from collections.abc import Callable

import jax
import jax.numpy as jnp

from pit_jax.errors import UserError
from pit_jax.model.adapters import ATTENTION, FFN, has_adapters, matrix_sizes, merge, split
from pit_jax.model.networks import Network, Params, trunk_of
from pit_jax.parallel.sharding import abstract_params, init_sharded
from pit_jax.run.base import load_base
from pit_jax.run.context import Context
from pit_jax.run.folders import Run, StageFolder
from pit_jax.run.frozen import cast_where, frozen_weights, trains_fully
from pit_jax.run.provenance import Provenance, StageId
from pit_jax.training.checkpoint import Checkpoints
from pit_jax.training.state import Partition, joined

VALUE = "value"  # the value model of RL, which has no stage of its own


def check_adapters(run: Run) -> None:
    """UserError for matrices or stages that no one has."""
    adapter = run.config.adapter
    trained = [str(stage.id) for stage in run.catalogue.values() if stage.leaves]
    for flag, named, known in (
        ("targets", adapter.targets, [*ATTENTION, *FFN]),
        ("full", adapter.full, [*trained, VALUE]),
    ):
        if unknown := sorted(set(named) - set(known)):
            raise UserError(f"--adapter.{flag}: unknown {', '.join(unknown)}; known: {', '.join(known)}")
    if adapter.rank and not set(adapter.targets) & set(matrix_sizes(run.config.transformer)):
        raise UserError(f"--adapter.targets={adapter.targets}: no matrix of this model would have an adapter")


def ground(run: Run, stage: Provenance) -> Provenance | None:
    """The stage whose weights lie under the adapters of this one; None where it is what the run starts from."""
    while stage.init_from is not None:
        stage = run.stage(stage.init_from)
        if trains_fully(run.config, str(stage.id)):
            return stage
    return None


class Models:
    """Parameters of the finished stages that a stage declares as parents; those over the same weights share them.

    What has been read stays for as long as this object lives.
    """

    def __init__(self, context: Context):
        self._context = context
        self._full: dict[str, Params] = {}  # weights that lie under several models
        self._root: Params | None = None

    def load(self, id: StageId, phase: str | None = None) -> Params:
        """The selected parameters of a finished stage, or of one phase of it, over the weights its adapters update.

        Raises UserError for a stage that the context's own does not declare as a parent.
        """
        stage, asking = self._context.run.stage(id), self._context.stage
        declared = {self._context.run.stage(parent).id for parent in asking.parents(self._context.config)}
        if stage.id not in declared:
            raise UserError(
                f"stage {asking.id} loads {stage.id}, which is none of its parents ({', '.join(map(str, declared))}); "
                "declare it, so that the lineage knows"
            )
        return self._load(stage, phase=phase)

    def _load(self, stage: Provenance, *, round: int | None = None, phase: str | None = None) -> Params:
        folder = self._context.run.folder(stage.id)
        folder = folder.of(stage.phases(self._context.config)[-1] if phase is None else phase)
        name = f"{stage.id}/{folder.phase}"
        if name in self._full:
            return self._full[name]
        full = trains_fully(self._context.config, str(stage.id))
        network = self.network(stage)
        params = restored(self._context, folder, network.init if full else network.init_adapter, round)
        if not full:
            below = self._below(stage)
            return joined(trunk_of(below) if stage.leaves == "scalar" else below, params)
        if self._context.config.adapter.rank:
            params = self._full[name] = frozen_weights(params, self._context.config)
        return params

    def own(self, round: int | None = None, phase: str | None = None) -> Params:
        """Of the context's own stage, which may be unfinished: a checkpoint, or the selected one, of a phase."""
        return self._load(self._context.stage, round=round, phase=phase)

    def backbone(self, id: StageId) -> Params:
        """The frozen weights under a stage that trains adapters."""
        return self._below(self._context.run.stage(id))

    def _below(self, stage: Provenance) -> Params:
        below = ground(self._context.run, stage)
        return self.root() if below is None else self._load(below)

    def root(self) -> Params:
        """The language model that a run starts from: its base, or random weights."""
        if self._root is not None:
            return self._root
        context = self._context
        if context.config.base:
            sizes = {"ids": context.data.tokenizer.vocab_size, "rows": context.vocab_size}
            params = load_base(context.config, context.mesh, context.key("new tokens"), **sizes)
        else:
            params = init_sharded(context.language_model.init, context.key("init"), context.mesh)
        if context.config.adapter.rank:
            params = self._root = frozen_weights(params, context.config)
        return params

    def network(self, stage: Provenance) -> Network:
        """The network whose parameters a stage leaves."""
        assert stage.leaves, f"stage {stage.id} trains nothing"
        return self._context.scalar_model if stage.leaves == "scalar" else self._context.language_model

    def partition(self, name: str, params: Params) -> Partition:
        """What the stage (or the value model) `name` trains, float32, where it starts from the network `params`."""
        context = self._context
        if trains_fully(context.config, name):
            whole = merge(params, context.config.adapter)
            return Partition(cast_where(whole, jax.tree.map(lambda _: True, whole), jnp.dtype("float32")))
        if not has_adapters(params):
            make = context.language_model.init_adapter
            adapters = init_sharded(make, context.key("adapters", name), context.mesh)
            params = joined(params, {"trunk": adapters} if "trunk" in params else adapters)
        frozen, trainable = split(params)
        return Partition(trainable, frozen)


def restored(
    context: Context, folder: StageFolder, init: Callable[[jax.Array], Params], round: int | None = None
) -> Params:
    """The parameters in a folder, of the shapes that `init` gives: of a checkpoint, or the selected ones."""
    if round is None:
        done = folder.done()
        assert done is not None, f"{folder.name} is not finished"
        round = done["round"]
    abstract = abstract_params(init, context.mesh)
    part = folder.stage.part
    with Checkpoints(folder.path / "checkpoints", read_only=True, say=context.screen.say) as checkpoints:
        _, params = checkpoints.restore_params({part: abstract} if part else abstract, round=round)
    return params[part] if part else params
