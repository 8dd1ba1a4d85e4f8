"""The models of a run: which parameters a stage trains and which stay frozen, and a finished stage's put together.

A stage trains its network in full, or (config.adapter) adapters and a head alone, over the weights of the nearest
ancestor that was trained in full: the base where there is none. Models over the same weights hold the same arrays.
"""

from dataclasses import dataclass
from typing import Any

from pit_jax.config import Config
from pit_jax.model.adapters import ATTENTION, FFN, has_adapters, matrix_sizes, merge, split
from pit_jax.model.networks import Network, Params
from pit_jax.stages.base import load_base
from pit_jax.stages.context import Context
from pit_jax.stages.workspace import PARENTS, TRAINING, stage_name
from pit_jax.training.checkpoint import Checkpoints
from pit_jax.training.state import joined

VALUE = "value"  # the value model of RL, which has no stage of its own
GROWN_FROM = {
    ("sft", "improver"): ("sft", "policy"),
    ("rm", "policy"): ("sft", "policy"),
    ("rm", "improver"): ("sft", "improver"),
    ("rm", "guard"): ("sft", "improver"),
    ("rl", "policy"): ("sft", "policy"),
    ("rl", "improver"): ("sft", "improver"),
    ("dpo", "policy"): ("sft", "policy"),
}


@dataclass(frozen=True)
class Start:
    """What a training begins with: parameters that it moves, and the frozen rest of the network."""

    trained: Params
    frozen: Params | None = None  # nothing is

    def whole(self, trained: Params) -> Params:
        """The network's parameters with `trained` in the place of what the training began with."""
        return trained if self.frozen is None else joined(self.frozen, trained)


def check_adapters(config: Config) -> None:
    """ValueError for a rank below 0 and for matrices or stages that no one has."""
    adapter, trained = config.adapter, [stage_name(*stage) for stage in PARENTS if stage[0] in TRAINING]
    if adapter.rank < 0 or not adapter.alpha > 0:
        raise ValueError(
            f"--adapter.rank={adapter.rank}, --adapter.alpha={adapter.alpha}: a rank of 0 or more, alpha above 0"
        )
    for flag, named, known in (
        ("targets", adapter.targets, [*ATTENTION, *FFN]),
        ("full", adapter.full, [*trained, VALUE]),
    ):
        if unknown := sorted(set(named) - set(known)):
            raise ValueError(f"--adapter.{flag}: unknown {', '.join(unknown)}; known: {', '.join(known)}")
    if adapter.rank and not set(adapter.targets) & set(matrix_sizes(config.transformer)):
        raise ValueError(f"--adapter.targets={adapter.targets}: no matrix of this model would have an adapter")


def trains_fully(config: Config, name: str) -> bool:
    """Whether the stage (or the value model) of this name trains all its weights."""
    return config.adapter.rank == 0 or name in config.adapter.full


def load(context: Context, stage: str, model: str) -> Params:
    """The selected parameters of a finished stage, over the weights that its adapters update."""
    full, scalar = trains_fully(context.config, stage_name(stage, model)), stage == "rm"
    network: Network = context.scalar_model if scalar else context.language_model
    place = str(context.folder(stage, model).path)
    if place in context.backbones:
        return context.backbones[place]
    params = restored(context, stage, model, network.init if full else network.init_adapter)
    if not full:
        below = backbone(context, stage, model)
        return joined({"trunk": below} if scalar else below, params)
    if stage == "sft" and context.config.adapter.rank:
        context.backbones[place] = params
    return params


def ground(config: Config, stage: str, model: str) -> tuple[str, str] | None:
    """The stage whose weights lie under the adapters of this one; None where it is what the run starts from."""
    parent = GROWN_FROM.get((stage, model))
    while parent is not None and not trains_fully(config, stage_name(*parent)):
        parent = GROWN_FROM.get(parent)
    return parent


def backbone(context: Context, stage: str, model: str) -> Params:
    """The frozen weights under a stage that trains adapters; read once for all stages over them."""
    below = ground(context.config, stage, model)
    return root(context) if below is None else load(context, *below)


def root(context: Context) -> Params:
    """The language model that a run starts from: its base, or random weights."""
    if "root" in context.backbones:
        return context.backbones["root"]
    random = context.language_model.init, context.key("init")
    params = load_base(context) if context.config.base else context.init(*random)
    if not trains_fully(context.config, "sft-policy"):
        context.backbones["root"] = params
    return params


def start(context: Context, name: str, params: Params) -> Start:
    """What the stage (or the value model) `name` trains, where it starts from the network `params`."""
    if trains_fully(context.config, name):
        return Start(merge(params, context.config.adapter))
    if not has_adapters(params):
        adapters = context.init(context.language_model.init_adapter, context.key("adapters", name))
        params = joined(params, {"trunk": adapters} if "trunk" in params else adapters)
    frozen, trained = split(params)
    return Start(trained, frozen)


def restored(context: Context, stage: str, model: str, init: Any) -> Params:
    folder = context.folder(stage, model)
    done = folder.done()
    assert done is not None, f"{folder.name} is not finished"
    abstract = context.abstract_params(init)
    checkpoints = Checkpoints(folder.path / "checkpoints", read_only=True, say=context.console.print)
    _, params = checkpoints.restore_params({"policy": abstract} if stage == "rl" else abstract, round=done["round"])
    checkpoints.close()
    return params["policy"] if stage == "rl" else params
