"""training/step.py: accumulation, compilation, donation, and one device against eight."""

import dataclasses
from types import ModuleType
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from pit_jax.errors import UserError
from pit_jax.masked import Mean
from pit_jax.parallel.mesh import mesh_of
from pit_jax.parallel.sharding import named_leaves
from pit_jax.training.optimizer import make_optimizer
from pit_jax.training.state import TrainState, create_state, plan_state
from pit_jax.training.step import Metrics, Remembering, alone, compile_step, make_train_step, split, together


def fresh(toy: ModuleType, optimizer: Any) -> TrainState:
    return create_state(toy.toy_params(), optimizer, seed=0, extras={})


def assert_close(a: Any, b: Any, rtol: float) -> None:
    """Relative to the largest element of each leaf: sums in another order change the last digits of small ones."""
    for x, y in zip(jax.tree.leaves(a), jax.tree.leaves(b), strict=True):
        np.testing.assert_allclose(x, y, rtol=rtol, atol=rtol * max(float(jnp.max(jnp.abs(y))), 1e-3))


@pytest.mark.parametrize("accumulate", [2, 4, 16])
def test_accumulation_is_one_big_batch(toy: ModuleType, accumulate: int) -> None:
    """Rows of very different length, one micro-batch may even be empty: same gradient, update and metrics."""
    optimizer = optax.sgd(0.1)
    batch = jax.tree.map(jnp.asarray, toy.toy_batch(0))
    batch = dataclasses.replace(batch, mask_BT=batch.mask_BT.at[1::accumulate].set(False))
    big, metrics = jax.jit(make_train_step(toy.toy_loss, optimizer, accumulate=1))(fresh(toy, optimizer), batch)
    small, summed = jax.jit(make_train_step(toy.toy_loss, optimizer, accumulate=accumulate))(
        fresh(toy, optimizer), batch
    )
    assert_close(small.params, big.params, 1e-6)
    assert metrics.keys() == summed.keys() == {"loss", "right", "grad_norm"}
    for name in metrics:
        assert float(metrics[name].count) == float(summed[name].count)
        np.testing.assert_allclose(metrics[name].sum, summed[name].sum, rtol=1e-5)
    assert int(small.step) == 1


def test_unweighted_accumulation_would_be_noticed(toy: ModuleType) -> None:
    """The mean of the micro-batches' gradients is another gradient on this batch: the test above can fail."""
    batch = jax.tree.map(jnp.asarray, toy.toy_batch(0))
    gradient = jax.grad(lambda b: toy.toy_loss({**toy.toy_params(), "head": b}, batch, jax.random.key(0))[0])
    halves = split(batch, 2)
    means = []
    for i in range(2):
        half = jax.tree.map(lambda x, i=i: x[i], halves)
        means.append(
            jax.grad(lambda b, half=half: toy.toy_loss({**toy.toy_params(), "head": b}, half, jax.random.key(0))[0])(
                toy.toy_params()["head"]
            )
        )
    whole = gradient(toy.toy_params()["head"])["bias"]
    assert abs(float((means[0]["bias"] + means[1]["bias"]) / 2 - whole)) > 1e-3 * abs(float(whole))


def test_an_empty_batch_changes_nothing_but_the_step(toy: ModuleType) -> None:
    optimizer = optax.sgd(0.1)
    batch = jax.tree.map(jnp.asarray, toy.toy_batch(0))
    batch = dataclasses.replace(batch, mask_BT=jnp.zeros_like(batch.mask_BT))
    for accumulate in (1, 4):
        step = jax.jit(make_train_step(toy.toy_loss, optimizer, accumulate=accumulate))
        state, metrics = step(fresh(toy, optimizer), batch)
        assert float(metrics["loss"].count) == 0
        assert_close(state.params, toy.toy_params(), 0.0)


def test_the_gradient_norm_is_taken_before_clipping(toy: ModuleType) -> None:
    config = dataclasses.replace(toy.CONFIG, clip_norm=1e-6)
    optimizer = make_optimizer(config, 10)
    batch = jax.tree.map(jnp.asarray, toy.toy_batch(0))
    state = fresh(toy, optimizer)
    _, metrics = make_train_step(toy.toy_loss, optimizer, accumulate=1)(state, batch)
    grads = jax.grad(lambda p: toy.toy_loss(p, batch, state.key)[0])(state.params)
    want = np.sqrt(sum(float(jnp.sum(jnp.square(g))) for g in jax.tree.leaves(grads)))
    np.testing.assert_allclose(metrics["grad_norm"].value, want, rtol=1e-5)


def test_the_key_is_folded_with_the_step(toy: ModuleType) -> None:
    seen: list[jax.Array] = []

    def loss(params: Any, batch: Any, key: jax.Array) -> tuple[jax.Array, Metrics]:
        seen.append(key)
        return jnp.sum(params["w"]), {"loss": Mean(jnp.float32(0), jnp.float32(1))}

    optimizer = optax.sgd(0.1)
    state = create_state({"w": jnp.zeros(2)}, optimizer, seed=9, extras={})
    state = dataclasses.replace(state, step=jnp.int32(5))
    with jax.disable_jit():
        make_train_step(loss, optimizer, accumulate=1)(state, {})
    want = jax.random.fold_in(jax.random.key(9), 5)
    assert jnp.array_equal(jax.random.key_data(seen[0]), jax.random.key_data(want))


def test_rows_stay_on_their_devices_when_split() -> None:
    """Row i goes to part i mod 2, so a device's block of rows gives every part its share."""
    parts = split({"x": jnp.arange(8)}, 2)["x"]
    np.testing.assert_array_equal(parts, [[0, 2, 4, 6], [1, 3, 5, 7]])


def test_what_was_split_comes_together_in_its_order() -> None:
    batch = {"x": jnp.arange(24).reshape(12, 2), "y": jnp.arange(12.0)}
    for parts in (1, 3, 4):
        for name, x in together(split(batch, parts)).items():
            np.testing.assert_array_equal(x, batch[name])


def remembering(toy: ModuleType) -> Remembering:
    """The loss grows with how many rows were seen before its update; the last rows are remembered, with their place."""

    def loss(params: Any, batch: Any, key: jax.Array, extras: Any) -> tuple[jax.Array, Metrics, Any]:
        value, metrics = toy.toy_loss(params, batch, key)
        scale, seen = 1.0 + extras["seen"].astype(jnp.float32), extras["seen"]
        rows_B = jnp.sum(batch.targets_BT, axis=1)
        seen_B = jnp.broadcast_to(seen, rows_B.shape)
        mean = metrics["loss"]
        return (
            scale * value,
            metrics | {"loss": Mean(scale * mean.sum, mean.count)},
            {"sum_B": rows_B, "seen_B": seen_B},
        )

    def remember(extras: Any, rows: Any) -> Any:
        return {"seen": extras["seen"] + len(rows["sum_B"]), "rows": rows}

    none = {"sum_B": jnp.zeros(toy.BATCH), "seen_B": jnp.full(toy.BATCH, -1)}
    return Remembering(loss, remember, {"seen": jnp.zeros((), jnp.int32), "rows": none}, toy.toy_loss)


@pytest.mark.parametrize(("shape", "accumulate"), [((1, 1, 1), 2), ((1, 1, 1), 4), ((8, 1, 1), 2), ((2, 2, 2), 1)])
def test_a_loss_that_remembers_does_so_by_the_batch(
    toy: ModuleType, shape: tuple[int, int, int], accumulate: int
) -> None:
    """Every micro-batch sees what was before its update; the rows come back in the order of the batch, and the losses
    of one device and one piece come out."""
    loss, optimizer = remembering(toy), optax.sgd(0.1)
    runs = []
    for mesh, pieces in ((mesh_of(1, 1, 1), 1), (mesh_of(*shape), accumulate)):
        whole, spread = (
            jax.sharding.NamedSharding(mesh, jax.sharding.PartitionSpec(*s)) for s in ((), (("data", "fsdp"),))
        )
        params = jax.device_put(toy.toy_params(), toy.toy_sharding(mesh))
        plan = plan_state(params, optimizer, whole, seed=3, extras=loss.extras)
        step = compile_step(
            make_train_step(loss, optimizer, accumulate=pieces), state_sharding=plan.sharding, batch_sharding=spread
        )
        state, losses = plan.begin(params, loss.extras), []
        for index in range(2):
            state, metrics = step(state, toy.toy_batch(index))
            losses.append(metrics["loss"].value)
            rows = state.extras["rows"]
            np.testing.assert_allclose(rows["sum_B"], toy.toy_batch(index).targets_BT.sum(axis=1), rtol=1e-5)
            np.testing.assert_array_equal(rows["seen_B"], index * toy.BATCH)
            assert int(state.extras["seen"]) == (index + 1) * toy.BATCH
        runs.append((losses, jax.device_get(state.params)))
    np.testing.assert_allclose(runs[0][0], runs[1][0], rtol=1e-5)
    assert_close(runs[0][1], runs[1][1], 1e-4)


def test_a_loss_that_remembers_nothing_leaves_the_extras(toy: ModuleType) -> None:
    """They may change beside the step, as RL's coefficient does."""
    optimizer, batch = optax.sgd(0.1), jax.tree.map(jnp.asarray, toy.toy_batch(0))
    before = create_state(toy.toy_params(), optimizer, seed=0, extras={"kl_coef": jnp.float32(0.25)})
    after, _ = jax.jit(make_train_step(toy.toy_loss, optimizer, accumulate=2))(before, batch)
    assert after.extras == {"kl_coef": 0.25}


def test_rows_by_themselves_have_the_loss_that_is_said(toy: ModuleType) -> None:
    assert alone(remembering(toy)) is toy.toy_loss and alone(toy.noisy_loss) is toy.noisy_loss


def test_a_second_step_does_not_compile_again(toy: ModuleType, caplog: pytest.LogCaptureFixture) -> None:
    """Three steps with fresh batches: the loss is traced once and the program compiled once."""
    traces: list[int] = []

    def counted(params: Any, batch: Any, key: jax.Array) -> tuple[jax.Array, Metrics]:
        traces.append(1)
        return toy.toy_loss(params, batch, key)

    state, sharding, _ = toy.toy_start(mesh_of(2, 2, 2))
    step = compile_step(
        make_train_step(counted, make_optimizer(toy.CONFIG, 10), accumulate=1),
        state_sharding=sharding,
        batch_sharding=sharding.step,
    )
    compiled = []
    for index in range(3):
        caplog.clear()
        with jax.log_compiles():
            state, _ = step(state, toy.toy_batch(index))
        compiled.append([record.message[:40] for record in caplog.records if record.message.startswith("Compiling")])
    assert len(compiled[0]) >= 1 and compiled[1:] == [[], []]
    assert len(traces) == 1
    assert int(state.step) == 3


@pytest.mark.parametrize("accumulate", [1, 2])
def test_frozen_parameters_count_in_the_loss_and_stay(toy: ModuleType, accumulate: int) -> None:
    """The blocks frozen: the head takes the steps of plain gradient descent on itself alone."""
    params, mesh = toy.toy_params(), mesh_of(2, 2, 2)
    whole = jax.sharding.NamedSharding(mesh, jax.sharding.PartitionSpec())
    frozen = jax.device_put({"blocks": params["blocks"]}, {"blocks": toy.toy_sharding(mesh)["blocks"]})
    optimizer, places = optax.sgd(0.1), {"head": toy.toy_sharding(mesh)["head"]}
    head = jax.device_put({"head": params["head"]}, places)
    plan = plan_state(head, optimizer, whole, seed=3, extras={})
    state, sharding = plan.begin(head, {}), plan.sharding
    train_step = make_train_step(toy.toy_loss, optimizer, accumulate=accumulate)
    step = compile_step(train_step, state_sharding=sharding, batch_sharding=whole, frozen=frozen)
    expected = params
    for index in range(2):
        batch = toy.toy_batch(index)
        state, metrics = step(state, batch)
        (loss, _), grads = jax.value_and_grad(toy.toy_loss, has_aux=True)(expected, batch, jax.random.key(0))
        head = jax.tree.map(lambda x, g: x - 0.1 * g, expected["head"], grads["head"])
        np.testing.assert_allclose(metrics["loss"].value, loss, rtol=1e-5)
        expected = {"blocks": params["blocks"], "head": head}
    for x, y in zip(jax.tree.leaves(state.params["head"]), jax.tree.leaves(expected["head"]), strict=True):
        np.testing.assert_allclose(x, y, atol=1e-6)
    assert set(state.params) == {"head"} and not any(x.is_deleted() for x in jax.tree.leaves(frozen))


@pytest.mark.parametrize("accumulate", [1, 2])
def test_gradients_at_bfloat16_matrices_move_float32_ones(toy: ModuleType, accumulate: int) -> None:
    """A step is that of float32 from gradients at the rounded weights; what is kept is float32."""
    optimizer, batch = optax.sgd(0.1), jax.tree.map(jnp.asarray, toy.toy_batch(0))
    state, seen = fresh(toy, optimizer), dict[str, str]()

    def loss(params: Any, batch: Any, key: jax.Array) -> tuple[jax.Array, Metrics]:
        seen.update({name: str(x.dtype) for name, x in named_leaves(params).items()})
        return toy.toy_loss(jax.tree.map(lambda x: x.astype(jnp.float32), params), batch, key)

    step = make_train_step(loss, optimizer, accumulate=accumulate, params_dtype="bfloat16")
    found, _ = jax.jit(step)(state, batch)
    matrix = {"blocks/kernel": "bfloat16"}
    assert seen == {name: matrix.get(name, "float32") for name in named_leaves(state.params)}
    rounded = dict(state.params) | {"blocks": dict(state.params["blocks"])}
    kernel_UDD = rounded["blocks"]["kernel"]
    rounded["blocks"]["kernel"] = kernel_UDD.astype(jnp.bfloat16).astype(jnp.float32)
    grads = jax.grad(lambda params: toy.toy_loss(params, batch, state.key)[0])(rounded)
    assert {str(x.dtype) for x in jax.tree.leaves((found.params, found.opt_state))} <= {"float32", "int32"}
    expected = jax.tree.map(lambda p, g: p - 0.1 * g, state.params, grads)
    for name, x in named_leaves(found.params).items():
        scale = float(jnp.abs(named_leaves(grads)[name]).max())
        tolerance = 0.1 * scale * 2.0**-8 if name in matrix else 1e-6  # a gradient in bfloat16 has 8 bits
        np.testing.assert_allclose(x, named_leaves(expected)[name], rtol=0, atol=tolerance)


def test_an_array_of_two_frozen_models_is_one_argument(toy: ModuleType) -> None:
    mesh = mesh_of(1, 1, 1)
    whole = jax.sharding.NamedSharding(mesh, jax.sharding.PartitionSpec())
    shared, params = jax.device_put((jnp.arange(3.0), {"w": jnp.ones(2)}), whole)
    frozen = {"policy": {"w": shared}, "value": {"w": shared, "v": shared}}

    def loss(params: Any, batch: Any, key: jax.Array) -> tuple[jax.Array, Metrics]:
        total = jnp.sum(params["policy"]["w"]) + jnp.sum(params["value"]["v"]) + jnp.sum(jnp.square(params["w"]))
        return total, {"loss": Mean(total, jnp.float32(1))}

    optimizer = optax.sgd(0.1)
    plan = plan_state(params, optimizer, whole, seed=0, extras={})
    train_step = make_train_step(loss, optimizer, accumulate=1)
    step: Any = compile_step(train_step, state_sharding=plan.sharding, batch_sharding=whole, frozen=frozen)
    state, batch = plan.begin(params, {}), jnp.zeros(1)
    shapes = [v.aval.shape for v in step.trace(state, batch).jaxpr.jaxpr.invars]
    assert shapes.count((3,)) == 1
    _, metrics = step(state, batch)
    assert float(metrics["loss"].sum) == 3 + 3 + 2


def test_the_old_state_is_donated_and_placement_survives(toy: ModuleType) -> None:
    state, sharding, step = toy.toy_start(mesh_of(2, 2, 2))
    dtypes = [x.dtype for x in jax.tree.leaves(state)]
    new, metrics = step(state, toy.toy_batch(0))
    assert all(x.is_deleted() for x in jax.tree.leaves(state.params))
    assert [x.dtype for x in jax.tree.leaves(new)] == dtypes
    for x, place in zip(jax.tree.leaves(new), jax.tree.leaves(sharding), strict=True):
        assert x.sharding.is_equivalent_to(place, x.ndim)
    assert metrics["loss"].sum.sharding.is_fully_replicated


@pytest.mark.parametrize(("shape", "accumulate"), [((8, 1, 1), 2), ((2, 2, 2), 1), ((1, 4, 2), 2)])
def test_eight_devices_give_what_one_gives(toy: ModuleType, shape: tuple[int, int, int], accumulate: int) -> None:
    results = []
    for mesh in (mesh_of(1, 1, 1), mesh_of(*shape)):
        state, _, step = toy.toy_start(mesh, accumulate=accumulate)
        losses = []
        for index in range(3):
            state, metrics = step(state, toy.toy_batch(index))
            losses.append(metrics["loss"].value)
        results.append((losses, jax.device_get(state.params)))
    np.testing.assert_allclose(results[0][0], results[1][0], rtol=1e-5)
    assert_close(results[0][1], results[1][1], 1e-4)


@pytest.mark.parametrize("accumulate", [1, 2])
def test_the_step_lowers_for_tpu(toy: ModuleType, accumulate: int) -> None:
    state, _, step = toy.toy_start(mesh_of(2, 2, 2), accumulate=accumulate)
    lowered = step.trace(state, toy.toy_batch(0)).lower(lowering_platforms=("tpu",))
    assert "stablehlo" in lowered.as_text()


def test_a_batch_that_does_not_divide_is_refused(toy: ModuleType) -> None:
    optimizer = optax.sgd(0.1)
    step = make_train_step(toy.toy_loss, optimizer, accumulate=3)
    message = r"batch.inputs_BTD of shape \(16, 5, 8\) does not divide into accumulate=3 micro-batches"
    with pytest.raises(UserError, match=message):
        step(fresh(toy, optimizer), jax.tree.map(jnp.asarray, toy.toy_batch(0)))
    with pytest.raises(UserError, match="accumulate must be at least 1, found 0"):
        make_train_step(toy.toy_loss, optimizer, accumulate=0)


def test_a_loss_without_a_count_is_refused() -> None:
    optimizer = optax.sgd(0.1)
    step = make_train_step(lambda p, b, k: (jnp.sum(p["w"]), {}), optimizer, accumulate=1)
    with pytest.raises(UserError, match=r'must report metrics\["loss"\]'):
        step(create_state({"w": jnp.zeros(2)}, optimizer, seed=0, extras={}), {})
