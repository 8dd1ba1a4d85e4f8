"""What stages compile, from shapes alone: for lowering tests, plans and costs, with no array and no model in memory."""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import jax
import jax.numpy as jnp
import optax
from jax.sharding import Mesh

from pit_jax.batch import DecodeSpec, GapBatch, PromptBatch, Responses, RewardBatch, RolloutPrompts, SftBatch
from pit_jax.config import Config
from pit_jax.data.features import Example, Layout, build
from pit_jax.model.flops import Passes
from pit_jax.model.networks import LanguageModel, Network, ScalarModel, trunk_of
from pit_jax.parallel.sharding import abstract_params, batch_sharding, replicated
from pit_jax.run.frozen import frozen_weights, trains_fully
from pit_jax.training.state import Partition, TrainState, abstract_state, create_state, state_sharding
from pit_jax.training.step import Loss, Remembering, compile_step, make_train_step

BATCHES = {
    "sft-policy": SftBatch,
    "sft-improver": SftBatch,
    "reward": RewardBatch,
    "gap": GapBatch,
    "prompts": PromptBatch,
}


@dataclass(frozen=True)
class Program:
    """One jitted function and the placed shapes of its arguments."""

    name: str
    function: Any
    args: tuple[Any, ...]

    def lower(self, mesh: Mesh, platform: str = "tpu") -> Any:
        """The lowered program for a platform; neither it nor a compiler for it is needed."""
        with jax.sharding.use_abstract_mesh(mesh.abstract_mesh):  # its devices may be none of this process's
            return self.function.trace(*self.args).lower(lowering_platforms=(platform,))


@dataclass(frozen=True)
class Shapes:
    """Everything that the programs of a run take, as ShapeDtypeStructs placed on a mesh."""

    config: Config
    layout: Layout
    vocab_size: int
    devices: Mesh | None = None
    """None where costs alone are asked for."""
    pairs: int = 0
    """In the fold that preferences are learned from; 0 where no data are known."""

    @property
    def mesh(self) -> Mesh:
        assert self.devices is not None, "programs are placed on a mesh"
        return self.devices

    @cached_property
    def language_model(self) -> LanguageModel:
        return LanguageModel(self.config.transformer, self.vocab_size, self.config.adapter)

    @cached_property
    def scalar_model(self) -> ScalarModel:
        return ScalarModel(self.config.transformer, self.vocab_size, self.config.adapter)

    @property
    def decode_spec(self) -> DecodeSpec:
        layout = self.layout
        return DecodeSpec(layout.response_slot, layout.eos_id, layout.pad_id, layout.suffix)

    @property
    def passes(self) -> Passes:
        return Passes(self.config.transformer, self.vocab_size)

    @property
    def improver_slot(self) -> int:
        """Slots of prompt(x, y_ref): a prompt's, a response's and the template's suffix."""
        return self.layout.prompt_slot + self.layout.response_slot + len(self.layout.suffix)

    def params(self, network: Network) -> Any:
        """Of all weights of a network."""
        return abstract_params(network.init, self.mesh)

    @cached_property
    def backbone(self) -> Any:
        """Of the frozen weights under all adapters: the same objects wherever they stand, as the arrays of a run are.

        Stages of adapter.full make further ones, for the stages above them; those count here as this one.
        """
        return frozen_weights(self.params(self.language_model), self.config)

    def partition(self, network: Network, name: str) -> Partition:
        """Of what the stage (or the value model) `name` trains, and of the backbone under it."""
        if trains_fully(self.config, name):
            return Partition(self.params(network))
        trainable = abstract_params(network.init_adapter, self.mesh)
        return Partition(trainable, trunk_of(self.backbone) if "trunk" in trainable else self.backbone)

    def frozen(self, network: Network, name: str) -> Any:
        """Of the model that the finished stage `name` left, where nothing of it is trained."""
        partition = self.partition(network, name)
        if partition.frozen is None:
            return frozen_weights(partition.trainable, self.config)
        return partition.combine(partition.trainable)

    def array(self, shape: tuple[int, ...], dtype: Any) -> Any:
        """Rows over the mesh."""
        return jax.ShapeDtypeStruct(shape, dtype, sharding=batch_sharding(self.mesh))

    def scalar(self, dtype: Any = jnp.float32) -> Any:
        return jax.ShapeDtypeStruct((), dtype, sharding=replicated(self.mesh))

    def key(self) -> Any:
        return jax.eval_shape(lambda: jax.random.key(0))

    def batch(self, kind: str, rows: int) -> Any:
        """The batch of a kind of prepared rows."""
        fields = build(kind, [Example([0], [0], [0], [0])], self.layout)
        return BATCHES[kind](**{name: self.array((rows, *x.shape[1:]), x.dtype) for name, x in fields.items()})

    def responses(self, rows: int) -> Responses:
        shape = rows, self.layout.response_slot
        return Responses(self.array(shape, jnp.int32), self.array(shape, jnp.bool))

    def rollout_prompts(self, rows: int, prompt_slot: int) -> RolloutPrompts:
        def prompt(slot: int) -> tuple[Any, Any]:
            return self.array((rows, slot), jnp.int32), self.array((rows, slot), jnp.bool)

        answer = self.responses(rows)
        plain, prefix = (prompt(self.layout.prompt_slot) for _ in range(2))
        return RolloutPrompts(*prompt(prompt_slot), *plain, *prefix, answer.tokens_BT, answer.mask_BT)

    def step(
        self,
        name: str,
        loss: Loss | Remembering,
        optimizer: optax.GradientTransformation,
        params: Any,
        batch: Any,
        *,
        accumulate: int = 1,
        frozen: Any = None,
    ) -> Program:
        """The program of one update of `params` on a batch, over `frozen` ones."""
        state = self.state(params, optimizer, loss.extras if isinstance(loss, Remembering) else {})
        step = compile_step(
            make_train_step(loss, optimizer, accumulate=accumulate, params_dtype=self.config.transformer.params_dtype),
            state_sharding=jax.tree.map(lambda x: x.sharding, state),
            batch_sharding=batch_sharding(self.mesh),
            frozen=frozen,
        )
        return Program(name, step, (state, batch))

    def state(
        self, params: Any, optimizer: optax.GradientTransformation, extras: Mapping[str, Any] | None = None
    ) -> TrainState:
        """The state of a training of `params`."""
        extras = dict(extras or {})
        shapes = jax.eval_shape(lambda params: create_state(params, optimizer, seed=0, extras=extras), params)
        places = state_sharding(shapes, jax.tree.map(lambda x: x.sharding, params), replicated(self.mesh))
        return abstract_state(shapes, places)
