"""The one road of rollouts, references, improving, evaluation, Self-Refine and best-of-n: prompts in, completions out.

One compiled program (decoding.py) for each shape of prompts, whatever the weights and the temperature.
"""

import math
from collections.abc import Callable
from functools import cache, partial
from typing import Any

import jax
import jax.numpy as jnp
from jax.sharding import Mesh

from pit_jax.batch import Completions, DecodeSpec, PromptBatch, Responses
from pit_jax.inference.decoding import complete, for_one_device
from pit_jax.inference.sampling import Sampling
from pit_jax.model.networks import LanguageModel, Params
from pit_jax.model.placement import PARTS
from pit_jax.parallel.mesh import decode_mesh
from pit_jax.parallel.sharding import DECODE_RULES, batch_sharding, param_sharding, replicated, within


class Engine:
    """The compiled programs that draw; `model` and `spec` are fixed, parameters and prompts come with every call.

    Parameters are taken as a training holds them, or, faster, as `to_decode` gives them: one conversion
    serves every draw until the parameters move.
    """

    def __init__(self, model: LanguageModel, spec: DecodeSpec, mesh: Mesh | None = None, share: int = 0):
        """On `mesh`, with a copy of the weights over `share` devices of its fsdp axis (parallel.mesh.decode_mesh).

        Without one, on the mesh that is set, if any.
        """
        self.model, self.spec = model, spec
        parts = 1
        placed: Callable[..., Any] = unplaced

        def to_decode(params: Params) -> Params:
            return for_one_device(model, model.for_decoding(params, parts))

        whole: Params = jax.eval_shape(lambda: model.init(jax.random.key(0)))
        if mesh is None:
            self.weights: Params = jax.eval_shape(to_decode, whole)
            """Shapes of what `to_decode` gives, placed where there is a mesh."""
            self.to_decode: Any = jax.jit(to_decode)
            drawn: dict[str, Any] = {}
        else:
            leaves = jax.tree.leaves(jax.eval_shape(model.for_decoding, whole))
            decoding = decode_mesh(mesh, share, sum(leaf.size * leaf.dtype.itemsize for leaf in leaves))
            parts = math.prod(decoding.shape[axis] for axis in PARTS)
            placed = partial(within, decoding)
            shapes = jax.eval_shape(placed(to_decode), whole)
            if decoding.size == 1:
                places = jax.tree.map(lambda _: replicated(decoding), shapes)
            else:
                places = param_sharding(shapes, decoding, DECODE_RULES)
            self.weights = jax.tree.map(lambda leaf, place: leaf.update(sharding=place), shapes, places)
            self.to_decode = jax.jit(placed(to_decode), out_shardings=places)
            drawn = {"out_shardings": batch_sharding(mesh)}
        """to_decode(params) -> weights: the parameters in the compute dtype, adapters merged, placed for decoding."""

        @cache
        def completing(samples: int) -> Any:
            return jax.jit(placed(partial(complete, model, spec=spec, samples=samples)), **drawn)

        self.completing: Callable[[int], Any] = completing
        """completing(samples) -> `complete` of so many responses to each prompt, side by side, which read it once."""
        self.complete = completing(1)
        """complete(weights, prompt_BP, prompt_mask_BP, key, sampling, first) -> Completions; see decoding.complete."""
        self.improver_prompt = jax.jit(partial(improver_prompt, spec=spec))
        """improver_prompt(rows, reference) -> (tokens_BP, mask_BP)."""

    def answer(
        self,
        weights: Params,
        rows: PromptBatch,
        key: jax.Array,
        sampling: Sampling,
        *,
        first: int = 0,
        samples: int = 1,
    ) -> Completions:
        """y ~ M(x), `samples` a prompt side by side; `first` is the number of the first one among all of this key."""
        prompts = rows.prompt_BP, rows.prompt_mask_BP
        completions: Completions = self.completing(samples)(weights, *prompts, key, sampling, first)
        return completions

    def rewrite(
        self,
        weights: Params,
        rows: PromptBatch,
        reference: Responses,
        key: jax.Array,
        sampling: Sampling,
        *,
        first: int = 0,
    ) -> Completions:
        """y ~ M(x, y_ref), otherwise as `answer`."""
        prompts = self.improver_prompt(rows, reference)
        completions: Completions = self.completing(1)(weights, *prompts, key, sampling, first)
        return completions


def unplaced(program: Callable[..., Any]) -> Callable[..., Any]:
    """The program itself, where there is no mesh to place it on."""
    return program


def improver_prompt(rows: PromptBatch, reference: Responses, *, spec: DecodeSpec) -> tuple[jax.Array, jax.Array]:
    """prompt(x, y_ref) of improver and gap model, left-padded: tokens and mask [B, P + T + suffix]; no EOS of y_ref."""
    return with_reference(rows.prefix_BP, rows.prefix_mask_BP, reference, spec=spec)


def with_reference(
    prefix_BP: jax.Array, prefix_mask_BP: jax.Array, reference: Responses, *, spec: DecodeSpec
) -> tuple[jax.Array, jax.Array]:
    """`improver_prompt`, from the part of it that stands before the reference."""
    mask_BT = reference.mask_BT & (reference.tokens_BT != spec.eos_id)
    batch = prefix_BP.shape[0]
    suffix_BX = jnp.broadcast_to(jnp.asarray(spec.suffix, jnp.int32)[None], (batch, len(spec.suffix)))
    suffix_mask_BX = jnp.broadcast_to(jnp.any(prefix_mask_BP, axis=1)[:, None], suffix_BX.shape)
    tokens_BL = jnp.concatenate([prefix_BP, reference.tokens_BT, suffix_BX], axis=1)
    return left_pack(tokens_BL, jnp.concatenate([prefix_mask_BP, mask_BT, suffix_mask_BX], axis=1))


def left_pack(tokens_BL: jax.Array, mask_BL: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Real tokens moved to the right end of the row in their order, gaps closed (left padding)."""
    order_BL = jnp.argsort(mask_BL, axis=1, stable=True)
    return jnp.take_along_axis(tokens_BL, order_BL, axis=1), jnp.take_along_axis(mask_BL, order_BL, axis=1)
