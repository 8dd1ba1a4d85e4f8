"""Every parameter has a rule, and lives where the rule says."""

import re
from dataclasses import replace
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import Mesh
from jax.sharding import PartitionSpec as P

from pit_jax.batch import Responses
from pit_jax.config import AdapterConfig, MeshConfig, TransformerConfig
from pit_jax.errors import UserError
from pit_jax.model.networks import LanguageModel, ScalarModel
from pit_jax.parallel.mesh import make_mesh
from pit_jax.parallel.sharding import (
    DECODE_RULES,
    RULES,
    abstract_params,
    batch_sharding,
    constrain,
    constrain_batch,
    init_sharded,
    named_leaves,
    param_sharding,
    put,
    put_rows,
    replicated,
    within,
)
from tests.trees import structure

CONFIG = TransformerConfig(width=16, layers=2, query_heads=4, kv_heads=2, head_size=6, ffn=24, tied=False)


@pytest.fixture(scope="module")
def mesh() -> Mesh:
    return make_mesh(MeshConfig(fsdp=4, tensor=2))


def shapes(network: LanguageModel | ScalarModel) -> Any:
    return jax.eval_shape(network.init, jax.random.key(0))


def specs(params: Any, mesh: Mesh) -> dict[str, P]:
    places = jax.tree_util.tree_leaves_with_path(param_sharding(params, mesh))
    return {jax.tree_util.keystr(path, simple=True, separator="/"): place.spec for path, place in places}


def test_every_parameter_of_both_networks_is_covered(mesh: Mesh) -> None:
    scalar = specs(shapes(ScalarModel(CONFIG, 40)), mesh)
    language = specs(shapes(LanguageModel(CONFIG, 40)), mesh)
    trunk = {name.removeprefix("trunk/"): spec for name, spec in scalar.items() if "trunk/" in name}
    assert trunk == {name: spec for name, spec in language.items() if name != "unembedding"}
    assert language == {
        "embedding": P("tensor", "fsdp"),
        "unembedding": P("fsdp", "tensor"),
        "blocks/attention/query": P(None, "fsdp", "tensor", None),
        "blocks/attention/key": P(None, "fsdp", "tensor", None),
        "blocks/attention/value": P(None, "fsdp", "tensor", None),
        "blocks/attention/out": P(None, "tensor", None, "fsdp"),
        "blocks/ffn/gate": P(None, "fsdp", "tensor"),
        "blocks/ffn/up": P(None, "fsdp", "tensor"),
        "blocks/ffn/down": P(None, "tensor", "fsdp"),
        "blocks/attention_norm/scale": P(None, None),
        "blocks/ffn_norm/scale": P(None, None),
        "final_norm/scale": P(None),
    }
    assert {name: spec for name, spec in scalar.items() if "head" in name} == {"head/kernel": P(None)}
    pooled = specs(shapes(ScalarModel(replace(CONFIG, pooled_head=True), 40)), mesh)
    assert {spec for name, spec in pooled.items() if "head" in name} == {P(None)}


BIASED = replace(CONFIG, norm="layer", qkv_bias=True, out_bias=True, ffn_bias=True)
OF_EXPERTS = replace(CONFIG, experts=4, experts_per_token=2)


def test_experts_lie_over_tensor(mesh: Mesh) -> None:
    found = specs(shapes(LanguageModel(OF_EXPERTS, 40)), mesh)
    assert found["blocks/ffn/expert_gate"] == found["blocks/ffn/expert_up"] == P(None, "tensor", "fsdp", None)
    assert found["blocks/ffn/expert_down"] == P(None, "tensor", None, "fsdp")
    assert found["blocks/ffn/router"] == P(None, "fsdp", None)


def test_biases_lie_with_what_they_are_added_to(mesh: Mesh) -> None:
    found = specs(shapes(LanguageModel(BIASED, 40)), mesh)
    heads, inner = P(None, "tensor", None), P(None, "tensor")
    assert {found[f"blocks/attention/{role}_bias"] for role in ("query", "key", "value")} == {heads}
    assert {found[f"blocks/ffn/{role}_bias"] for role in ("gate", "up")} == {inner}
    whole = ("blocks/attention/out_bias", "blocks/ffn/down_bias", "blocks/ffn_norm/shift")
    assert {found[name] for name in whole} == {P(None, None)}


def test_every_rule_is_used() -> None:
    model = ScalarModel(BIASED, 40, AdapterConfig(rank=2))
    adapters = jax.eval_shape(model.init_adapter, jax.random.key(0))
    trees = shapes(model), shapes(LanguageModel(BIASED, 40)), shapes(LanguageModel(OF_EXPERTS, 40)), adapters
    places = jax.tree_util.tree_leaves_with_path(trees)
    names = [jax.tree_util.keystr(path, simple=True, separator="/") for path, _ in places]
    assert [pattern for pattern, _ in RULES if not any(re.search(pattern, name) for name in names)] == []


def test_a_parameter_without_a_rule_is_named(mesh: Mesh) -> None:
    params = {"blocks": {"gate": {"mystery": jax.ShapeDtypeStruct((3, 5), jnp.float32)}}}
    message = "no sharding rule covers parameter 'blocks/gate/mystery' of shape (3, 5); add one to parallel/sharding.py"
    with pytest.raises(UserError, match=re.escape(message)):
        param_sharding(params, mesh)


def test_the_first_rule_that_matches_wins(mesh: Mesh) -> None:
    params = {"embedding": jax.ShapeDtypeStruct((8, 8), jnp.float32)}
    rules = ((r"embed", P("fsdp")), (r"embedding$", P("tensor")))
    assert param_sharding(params, mesh, rules)["embedding"].spec == P("fsdp", None)


def test_an_axis_that_the_mesh_does_not_divide_is_replicated(mesh: Mesh) -> None:
    """Vocabulary 41 over tensor=2 and width 18 over fsdp=4 stay whole; what divides is still split."""
    odd = TransformerConfig(width=18, layers=2, query_heads=4, kv_heads=1, head_size=6, ffn=24)
    found = specs(shapes(LanguageModel(odd, 41)), mesh)
    assert found["embedding"] == P(None, None)
    assert found["blocks/attention/query"] == P(None, None, "tensor", None)
    assert found["blocks/attention/key"] == P(None, None, None, None)
    assert found["blocks/ffn/down"] == P(None, "tensor", None)


def test_parameters_really_are_split(mesh: Mesh) -> None:
    params = jax.tree.map(lambda s: np.zeros(s.shape, s.dtype), shapes(LanguageModel(CONFIG, 40)))
    placed = jax.device_put(params, param_sharding(params, mesh))
    pieces = {
        "embedding": (20, 4),
        "unembedding": (4, 20),
        "blocks/attention/query": (2, 4, 2, 6),
        "blocks/attention/key": (2, 4, 1, 6),
        "blocks/attention/out": (2, 2, 6, 4),
        "blocks/ffn/up": (2, 4, 12),
        "blocks/ffn/down": (2, 12, 4),
        "final_norm/scale": (16,),
    }
    for path, leaf in jax.tree_util.tree_leaves_with_path(placed):
        name = jax.tree_util.keystr(path, simple=True, separator="/")
        assert len(leaf.addressable_shards) == 8
        if name in pieces:
            assert {shard.data.shape for shard in leaf.addressable_shards} == {pieces[name]}, name


def test_batches_are_split_over_data_and_fsdp(mesh: Mesh) -> None:
    rows = {"tokens": np.arange(24).reshape(8, 3), "end": np.arange(8)}
    placed = put(rows, batch_sharding(mesh))
    assert {shard.data.shape for shard in placed["tokens"].addressable_shards} == {(2, 3)}
    assert {shard.data.shape for shard in placed["end"].addressable_shards} == {(2,)}
    np.testing.assert_array_equal(placed["tokens"], rows["tokens"])
    whole = put(rows, replicated(mesh))
    assert whole["tokens"].sharding.is_fully_replicated
    np.testing.assert_array_equal(whole["end"], rows["end"])


def test_named_rows_become_a_batch_on_the_mesh(mesh: Mesh) -> None:
    batch = put_rows(mesh, Responses, {"tokens_BT": np.arange(24).reshape(8, 3), "mask_BT": np.ones((8, 3), bool)})
    assert isinstance(batch, Responses)
    assert {shard.data.shape for shard in batch.tokens_BT.addressable_shards} == {(2, 3)}
    assert batch.mask_BT.sharding == batch.tokens_BT.sharding == batch_sharding(mesh)
    with pytest.raises(TypeError, match="missing 1 required positional argument: 'mask_BT'"):
        put_rows(mesh, Responses, {"tokens_BT": np.zeros((8, 3), int)})


def test_parameters_are_drawn_in_the_shards_that_were_foretold(mesh: Mesh) -> None:
    """Without a gather on one device; the shapes are known before anything is computed."""

    def make(key: jax.Array) -> dict[str, Any]:
        drawn = jax.random.normal(key, (40, 16), jnp.float32)
        return {"embedding": drawn, "final_norm": {"scale": jnp.ones(16)}}

    abstract, params = abstract_params(make, mesh), init_sharded(make, jax.random.key(3), mesh)
    assert structure(abstract) == structure(params)
    for shape, leaf in zip(jax.tree.leaves(abstract), jax.tree.leaves(params), strict=True):
        assert (shape.shape, shape.dtype, shape.sharding) == (leaf.shape, leaf.dtype, leaf.sharding)
    assert {shard.data.shape for shard in params["embedding"].addressable_shards} == {(20, 4)}
    np.testing.assert_array_equal(params["embedding"], jax.random.normal(jax.random.key(3), (40, 16), jnp.float32))


def test_leaves_are_named_by_their_paths_in_the_order_of_the_tree() -> None:
    tree = {"b": {"y": 1, "x": 2}, "a": [3, 4]}
    named = named_leaves(tree)
    assert named == {"a/0": 3, "a/1": 4, "b/x": 2, "b/y": 1} and list(named.values()) == jax.tree.leaves(tree)


def test_activations_keep_to_the_batch_axes_under_a_mesh_only(mesh: Mesh) -> None:
    hidden_BLD = jnp.arange(48.0).reshape(8, 3, 2)
    assert constrain_batch(hidden_BLD) is hidden_BLD
    with jax.set_mesh(mesh):
        placed = jax.jit(constrain_batch)(hidden_BLD)
    assert {shard.data.shape for shard in placed.addressable_shards} == {(2, 3, 2)}
    np.testing.assert_array_equal(placed, hidden_BLD)


def test_adapters_are_split_as_the_matrices_they_update(mesh: Mesh) -> None:
    model = LanguageModel(CONFIG, 40, AdapterConfig(rank=2))
    found = specs(jax.eval_shape(model.init_adapter, jax.random.key(0)), mesh)
    assert found["blocks/adapter/query_a"] == P(None, "fsdp", None)
    assert found["blocks/adapter/query_b"] == P(None, None, "tensor")
    assert len(found) == 14


def test_decoding_splits_no_matrix_along_what_a_token_brings(mesh: Mesh) -> None:
    """Outputs, or the inputs that the matrix before gave, over both axes; 4 of them that do not divide H = 6 stay."""
    places = jax.tree_util.tree_leaves_with_path(param_sharding(shapes(LanguageModel(CONFIG, 40)), mesh, DECODE_RULES))
    both = ("tensor", "fsdp")
    assert {jax.tree_util.keystr(path, simple=True, separator="/"): place.spec for path, place in places} == {
        "embedding": P(both, None),
        "unembedding": P(None, both),
        "blocks/attention/query": P(None, None, "tensor", None),
        "blocks/attention/key": P(None, None, "tensor", None),
        "blocks/attention/value": P(None, None, "tensor", None),
        "blocks/attention/out": P(None, "tensor", None, None),
        "blocks/ffn/gate": P(None, None, both),
        "blocks/ffn/up": P(None, None, both),
        "blocks/ffn/down": P(None, both, None),
        "blocks/attention_norm/scale": P(None, None),
        "blocks/ffn_norm/scale": P(None, None),
        "final_norm/scale": P(None),
    }


def test_every_rule_of_decoding_is_used() -> None:
    names = [name for config in (BIASED, OF_EXPERTS) for name in named_leaves(shapes(LanguageModel(config, 40)))]
    assert [pattern for pattern, _ in DECODE_RULES if not any(re.search(pattern, name) for name in names)] == []


def test_an_activation_is_placed_as_far_as_it_divides(mesh: Mesh) -> None:
    """10 columns over tensor = 2 and not over 8; on another mesh of the same devices inside `within`."""
    x_BF = jnp.arange(80.0).reshape(8, 10)
    assert constrain(x_BF, P("fsdp")) is x_BF
    with jax.set_mesh(mesh):
        placed = jax.jit(lambda x: constrain(x, P("fsdp", ("tensor", "data", "fsdp"))))(x_BF)
        other = make_mesh(MeshConfig(data=4, tensor=2))
        moved = jax.jit(within(other, lambda x: constrain(x + 1.0, P("data"))))(put(x_BF, batch_sharding(mesh)))
    assert {shard.data.shape for shard in placed.addressable_shards} == {(2, 5)}
    assert {shard.data.shape for shard in moved.addressable_shards} == {(2, 10)}
    np.testing.assert_array_equal(moved, x_BF + 1.0)
