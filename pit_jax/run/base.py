"""The checkpoint that a run starts from (--base): architecture, weights, tokenizer, and rows for new tokens."""

import json
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
from jax.sharding import Mesh

from pit_jax.config import Config
from pit_jax.data.text.tokenizers import UNREAD, WEIGHTS, ids_of_file, ids_of_folder, without_advice
from pit_jax.errors import UserError
from pit_jax.model.networks import LanguageModel, Params
from pit_jax.model.pretrained import weights
from pit_jax.model.pretrained.families import architecture, family_of
from pit_jax.model.pretrained.tensors import Entry
from pit_jax.parallel.sharding import param_sharding
from pit_jax.paths import is_remote, local, resolved, to_path

# Of these numbers a config makes a list of as many entries when it is read.
COUNTED, MOST = ("num_hidden_layers", "num_labels"), 10_000

# Knobs of the transformer that no checkpoint sets.
OURS = ("attention", "dtype", "params_dtype", "frozen_dtype", "unroll", "remat", "logits_bytes", "pooled_head")


def with_base(config: Config) -> Config:
    """`config` with the transformer and the tokenizer of its base, if it has one.

    Raises:
        UserError: no such folder, a config that is none, that the transformer cannot follow or that describes far more
            than the weights hold, a tokenizer from elsewhere or with more ids than the embedding has rows.
    """
    if not config.base:
        return config
    folder = to_path(config.base)
    if config.tokenizer.path and resolved(to_path(config.tokenizer.path)) != resolved(folder):
        raise UserError(
            f"--tokenizer.path={config.tokenizer.path} beside --base={folder}: the weights know their own tokenizer "
            "alone; leave --tokenizer.path out"
        )
    transformer = architecture(described(folder))
    if not is_remote(folder) and weights.is_in(folder):
        weights.check_sizes(folder, transformer)
    ids = ids_of_file(folder)
    if ids > transformer.vocab_rows:
        raise UserError(
            f"--base={folder}: the tokenizer has {ids} ids, the embedding {transformer.vocab_rows} rows; the two do "
            "not belong together"
        )
    kept = {name: getattr(config.transformer, name) for name in OURS}
    return replace(
        config, transformer=replace(transformer, **kept), tokenizer=replace(config.tokenizer, path=str(folder))
    )


def described(folder: Path) -> Mapping[str, Any]:
    """config.json of a checkpoint, with the defaults of its family filled in. UserError when it is none."""
    found = local(folder, but=WEIGHTS)
    if not (found / "config.json").is_file():
        raise UserError(
            f"--base={folder}: asked for the folder of a checkpoint, found no config.json in it; download one "
            "(config.json, *.safetensors, tokenizer.json, tokenizer_config.json) and name its folder"
        )
    with without_advice():
        from transformers import AutoConfig

    _check_counts(found / "config.json")
    try:
        read = AutoConfig.from_pretrained(str(found), local_files_only=True, trust_remote_code=False)
        fields: dict[str, Any] = read.to_dict()
    except Exception as error:  # transformers checks types with errors of its own
        found_instead = " ".join(str(error).split())  # on one line
        raise UserError(f"{folder / 'config.json'}: asked for the config of a model, found {found_instead}") from error
    return fields


def _check_counts(path: Path) -> None:
    """UserError for numbers that would fill the memory while the config is read."""
    try:
        fields = json.loads(path.read_text(encoding="utf-8"))
    except (ValueError, RecursionError) as error:
        raise UserError(f"{path}: asked for the config of a model, found {error}") from error
    outer: dict[str, Any] = fields if isinstance(fields, dict) else {}
    inner = outer.get("text_config")
    for part in (outer, inner if isinstance(inner, dict) else {}):
        for name in COUNTED:
            if isinstance(part.get(name), int) and part[name] > MOST:
                raise UserError(f"{path}: {name}={part[name]}, asked for {MOST} at most; no model has so many")


def base_entries(config: Config) -> list[Entry]:
    """The tensors of the base's family, as this run's transformer holds them."""
    return family_of(described(to_path(config.base))).entries(config.transformer)


def load_base(config: Config, mesh: Mesh, key: jax.Array, *, ids: int, rows: int) -> Params:
    """The language model of the base in its shards, with `rows` in its embedding.

    Of the run's tokenizer with `ids` ids, those that the base's own lacks have rows of their own.

    A new row is drawn from the normal distribution of the rows that were trained, component by component (Hewitt,
    2021, without the correlations): it is among them, and no two new tokens are alike.
    """
    folder = to_path(config.base)
    known = min(ids_of_folder(folder), config.transformer.vocab_rows)  # its configuration may name untrained tokens
    model = LanguageModel(config.transformer, config.transformer.vocab_rows)
    shapes = jax.eval_shape(model.init, jax.random.key(0))
    tied = "lm_head.weight" if config.transformer.tied else None
    found = local(folder, but=UNREAD)
    weights.check_sizes(found, config.transformer)
    params = weights.load(found, base_entries(config), shapes, mesh, tied=tied)

    def grow(tables: Params) -> Params:
        grown = {"embedding": with_new_rows(tables["embedding"], key, known, ids, rows)}
        if "unembedding" in tables:
            turned = with_new_rows(tables["unembedding"].T, jax.random.fold_in(key, 1), known, ids, rows)
            grown["unembedding"] = turned.T
        return grown

    tables = {name: params[name] for name in ("embedding", "unembedding") if name in params}
    sharding = param_sharding(jax.eval_shape(grow, tables), mesh)
    return {**params, **jax.jit(grow, out_shardings=sharding)(tables)}


def with_new_rows(table_VD: jax.Array, key: jax.Array, known: int, ids: int, rows: int) -> jax.Array:
    """[rows, D]: a table whose ids from `known` to `ids` are drawn like those before; the others stay."""
    trained_VD = table_VD[:known]
    noise = jax.random.normal(key, (ids - known, table_VD.shape[1]), table_VD.dtype)
    mean_1D, spread_1D = jnp.mean(trained_VD, axis=0, keepdims=True), jnp.std(trained_VD, axis=0, keepdims=True)
    longer_VD = jnp.pad(table_VD, ((0, rows - len(table_VD)), (0, 0)))
    return jax.lax.dynamic_update_slice_in_dim(longer_VD, mean_1D + spread_1D * noise, known, axis=0)
