"""Adapters as PEFT keeps them: two tensors for every matrix they update, and adapter_config.json."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from pit_jax.architecture import AdapterConfig
from pit_jax.model.adapters import ATTENTION, FFN
from pit_jax.model.pretrained.tensors import Entry
from pit_jax.parallel.hosts import whole

PATHS = {
    f"blocks/{sublayer}/{name}": name for sublayer, names in (("attention", ATTENTION), ("ffn", FFN)) for name in names
}
HEAD = "score"  # of a sequence classifier, which is saved whole


def updated_entries(entries: Sequence[Entry], adapters: Mapping[str, Any]) -> list[tuple[Entry, list[str]]]:
    """The tensors that adapters {"query_a": [U, in, rank], ..} update, each with the names of the matrices it holds."""
    named = [(entry, [PATHS.get(path, "") for path in entry.ours]) for entry in entries]
    return [(entry, names) for entry, names in named if any(f"{name}_a" in adapters for name in names)]


def peft_tensors(adapters: Mapping[str, Any], entries: Sequence[Entry]) -> Iterator[tuple[str, np.ndarray]]:
    """(name, array) of lora_A [rank, in] and lora_B [out, rank], layer by layer.

    A tensor that holds several matrices (query, key and value of GPT-NeoX) has as many times the rank: the A of all of
    them, and a B in which each has its own columns.
    """
    for entry, names in updated_entries(entries, adapters):
        module = "base_model.model." + entry.theirs.removesuffix(".weight")
        held = [name for name in names if f"{name}_a" in adapters]
        for layer in range(len(adapters[f"{held[0]}_a"])):
            pairs = {n: [whole(adapters[f"{n}_{part}"][layer]) for part in "ab"] for n in held}
            prefix = module.format(layer=layer)
            rows_RX = np.concatenate([pairs[name][0].T for name in held])
            yield f"{prefix}.lora_A.weight", np.ascontiguousarray(rows_RX)  # safetensors writes memory as it lies
            yield f"{prefix}.lora_B.weight", _columns(entry, names, {name: b_RY for name, (_, b_RY) in pairs.items()})


def _columns(entry: Entry, names: Sequence[str], updates: Mapping[str, np.ndarray]) -> np.ndarray:
    """lora_B [out, rank] of a tensor, from the B [rank, out] of the matrices it holds."""
    if not entry.rows:
        return np.ascontiguousarray(updates[names[0]].T)
    rank = len(next(iter(updates.values())))
    parts = entry.read(np.zeros((sum(entry.rows), rank * len(updates)), np.float32))
    first = 0
    for name, part_RX in zip(names, parts, strict=True):
        if name in updates:
            part_RX[first : first + rank] = updates[name].reshape(rank, *part_RX.shape[1:])
            first += rank
    return np.ascontiguousarray(entry.write(parts))


def peft_config(
    adapter: AdapterConfig, adapters: Mapping[str, Any], entries: Sequence[Entry], *, base: str, scalar: bool
) -> dict[str, Any]:
    """adapter_config.json of adapters over the checkpoint in folder `base`; `scalar` = of a sequence classifier."""
    modules, ranks = [], {}
    for entry, names in updated_entries(entries, adapters):
        module = entry.theirs.removesuffix(".weight").rpartition(".")[2]
        modules.append(module)
        if len(names) > 1:
            ranks[module] = sum(f"{name}_a" in adapters for name in names)
    return {
        "peft_type": "LORA",
        "task_type": "SEQ_CLS" if scalar else "CAUSAL_LM",
        "base_model_name_or_path": base,
        "r": adapter.rank,
        "lora_alpha": adapter.alpha,
        "rank_pattern": {module: times * adapter.rank for module, times in ranks.items()},
        "alpha_pattern": {module: times * adapter.alpha for module, times in ranks.items()},
        "target_modules": sorted(modules),
        "modules_to_save": [HEAD] if scalar else None,
        "lora_dropout": 0.0,
        "bias": "none",
        "fan_in_fan_out": False,
        "inference_mode": True,
    }
