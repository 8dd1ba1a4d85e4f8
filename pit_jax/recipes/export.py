"""The trained models as Hugging Face folders, which transformers and vLLM load: workdir/export/<name>/.

policy and improver are causal language models, reward and gap sequence classifiers with one label, whose logit is the
score of a row [prompt | answer EOS]. Only a run with a base has a Hugging Face architecture to be written in. Adapters
are merged, or written for PEFT beside the weights that they update (base/, or the stage that trained these in full).
"""

import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import jax.numpy as jnp
from safetensors.numpy import save_file

from pit_jax.config import Config
from pit_jax.errors import UserError
from pit_jax.evaluation.results import ComparisonRow, Results, read_results
from pit_jax.files import whole_folder, write_json, write_text
from pit_jax.model.adapters import has_adapters, merge
from pit_jax.model.networks import Params
from pit_jax.model.pretrained import weights
from pit_jax.model.pretrained.families import family_of, text_part
from pit_jax.model.pretrained.peft import HEAD, peft_config, peft_tensors
from pit_jax.model.pretrained.tensors import Entry, row
from pit_jax.parallel.hosts import whole
from pit_jax.paths import resolved, to_path
from pit_jax.run.base import base_entries, described
from pit_jax.run.code import package_code
from pit_jax.run.context import Context
from pit_jax.run.params import Models, ground
from pit_jax.run.provenance import StageId
from pit_jax.run.stage import Recipe

EXPORTS = {
    "policy": StageId("rl", "policy"),
    "improver": StageId("rl", "improver"),
    "reward": StageId("rm", "policy"),
    "gap": StageId("rm", "improver"),
}
ROLES = {
    "policy": "answers a prompt",
    "improver": "rewrites an answer to a prompt into a better one",
    "reward": "scores an answer to a prompt",
    "gap": "scores by how much an answer is better than a reference answer to the same prompt, up to a constant",
}


def check(config: Config, role: str) -> None:
    """UserError for a run whose models no Hugging Face architecture describes."""
    if not config.base:
        raise UserError(
            "--stage=export writes models in the architecture of their base, found no --base: the transformer of such "
            "a run is in no Hugging Face family"
        )
    if config.export.adapters == "peft" and not config.adapter.rank:
        raise UserError("--export.adapters=peft: this run has no adapters (--adapter.rank=0); leave it out")
    if config.transformer.pooled_head:
        raise UserError(
            "--stage=export: reward and gap models with --transformer.pooled-head have a head that no Hugging Face "
            "class has; train them with --transformer.no-pooled-head"
        )


def run(context: Context) -> None:
    """Write every model; a folder appears when it is whole."""
    folder, models = context.folder, Models(context)
    lineage = folder.begin(context.config, data_fingerprint=context.data.fingerprint, package=package_code())
    exports = exported(context.config)
    bar = context.screen.bar(folder.name, len(exports))
    written = set()
    for name, id in exports.items():
        params = models.load(id)
        if context.config.export.adapters == "peft" and has_adapters(params):
            below = backbone_name(context, id)
            if below not in written:
                with whole_folder(folder.path / below) as partial:
                    write_weights(context, partial, models.backbone(id), scalar=False)
                written.add(below)
            write_adapters(context, folder.path / name, name, params, folder.path / below)
        else:
            write(context, folder.path / name, name, merge(params, context.config.adapter))
        bar.advance(1)
    folder.finish(round=0, digest=lineage["config"])
    context.screen.say(f"export: {folder.path} ({', '.join([*exports, *sorted(written)])})")
    if len(exports) < len(EXPORTS):
        context.screen.say("export: transformers has no sequence classifier of this family, so no reward and no gap")


def exported(config: Config) -> dict[str, StageId]:
    """The models of EXPORTS for which transformers has a class in the family of the base."""
    classifier = family_of(described(to_path(config.base))).classifier
    return {name: id for name, id in EXPORTS.items() if classifier is not None or id.name != "rm"}


def backbone_name(context: Context, id: StageId) -> str:
    """The folder of the weights that a stage's adapters update."""
    below = ground(context.run, context.run.stage(id))
    return "base" if below is None else str(below.id)


def write(context: Context, target: Path, name: str, params: Params) -> None:
    """One model: weights, config.json, generation_config.json, the tokenizer and a card."""
    with whole_folder(target) as partial:
        write_weights(context, partial, params, scalar=EXPORTS[name].name == "rm")
        write_text(partial / "README.md", card(context, name))


def write_weights(context: Context, folder: Path, params: Params, *, scalar: bool) -> None:
    """All but the card."""
    config, entries = context.config, base_entries(context.config)
    context.data.tokenizer.save(folder)
    dtype = jnp.dtype(config.export.dtype)
    weights.save(folder, params, scalar_entries(entries) if scalar else entries, dtype=dtype)
    write_json(folder / "config.json", hf_config(context, scalar=scalar))
    if not scalar:
        write_json(folder / "generation_config.json", _ends(context))


def write_adapters(context: Context, target: Path, name: str, params: Params, base: Path) -> None:
    """One model's adapters (and its head) in PEFT's format, the tokenizer and a card."""
    config, scalar = context.config, "trunk" in params
    entries = base_entries(config)
    adapters = params.get("trunk", params)["blocks"]["adapter"]
    tensors = dict(peft_tensors(adapters, entries))
    if scalar:
        tensors[f"base_model.model.{HEAD}.weight"] = whole(params["head"]["kernel"])[None]
    dtype = jnp.dtype(config.export.dtype)
    with whole_folder(target) as partial:
        context.data.tokenizer.save(partial)
        save_file({key: x.astype(dtype) for key, x in tensors.items()}, partial / "adapter_model.safetensors")
        described_by = peft_config(config.adapter, adapters, entries, base=str(resolved(base)), scalar=scalar)
        write_json(partial / "adapter_config.json", described_by)
        write_text(partial / "README.md", card(context, name))


def scalar_entries(entries: list[Entry]) -> list[Entry]:
    """The tensors of a sequence classifier: those of the trunk without an output matrix, and the head."""
    trunk = [replace(entry, ours=tuple(f"trunk/{path}" for path in entry.ours)) for entry in entries]
    return [*(entry for entry in trunk if entry.ours != ("trunk/unembedding",)), row(f"{HEAD}.weight", "head/kernel")]


def hf_config(context: Context, *, scalar: bool) -> dict[str, Any]:
    """config.json: that of the base or of its text part, with the class, vocabulary, dtype and special tokens of what
    is written."""
    labels = {"id2label": {"0": "score"}, "label2id": {"score": 0}} if scalar else {}
    fields = described(to_path(context.config.base))
    family, raw = family_of(fields), text_part(fields)
    if raw is fields:
        raw = json.loads((to_path(context.config.base) / "config.json").read_text(encoding="utf-8"))
    return {
        **{name: value for name, value in raw.items() if name not in ("torch_dtype", "dtype")},
        "architectures": [family.classifier if scalar else family.causal],
        "dtype": context.config.export.dtype,
        "vocab_size": context.vocab_size,
        **_ends(context),
        **labels,
    }


def _ends(context: Context) -> dict[str, Any]:
    tokenizer = context.data.tokenizer
    return {"eos_token_id": tokenizer.eos_id, "pad_token_id": tokenizer.pad_id, "bos_token_id": tokenizer.bos_id}


def card(context: Context, name: str) -> str:
    """README.md: what the model does, how it is asked, what it was made from and how it compares."""
    tokenizer, frame = context.data.tokenizer, context.data.template.frame
    improving = name in ("improver", "gap")
    pieces = (
        [(frame.improver[0], "{prompt}"), (frame.improver[1], "{reference}"), (frame.suffix, "")]
        if improving
        else [(frame.policy[0], "{prompt}"), (frame.policy[1], "")]
    )
    asked = "".join(tokenizer.backend.decode(list(ids), skip_special_tokens=False) + slot for ids, slot in pieces)
    stage, end = context.folder_of(EXPORTS[name]), tokenizer.backend.id_to_token(tokenizer.eos_id)
    lines = [
        f"# {name}",
        "",
        f"{ROLES[name].capitalize()}. Trained with pit_jax (PIT, arXiv 2310.00898) from {context.config.base}.",
        "",
        f"A row is these pieces, each tokenised on its own, then the answer and {end}:",
        "",
        "```text",
        asked,
        "```",
        *([] if tokenizer.chat is None else ["", "Earlier turns stand before it, as the chat template writes them."]),
        "",
        "Made from (hashes of config, data and parents):",
        "",
        "```json",
        json.dumps(stage.lineage(), indent=1, sort_keys=True),
        "```",
    ]
    results = read_results(context.folder_of(StageId("evaluate")).path / "results.json", Results)
    if results is not None:
        lines += ["", *_table(results.rows)]
    return "\n".join(lines) + "\n"


def _table(rows: Sequence[ComparisonRow]) -> list[str]:
    """The comparisons of --stage=evaluate in Markdown."""
    lines = [
        f"| {row.temperature:g} | {row.judge} | {row.systems} | {row.delta:+.1f} "
        f"| {row.low:+.1f} to {row.high:+.1f} | {row.n} |"
        for row in rows
    ]
    head = "| temperature | judge | systems | win - lose, points | 95% interval | n |"
    return [head, "| --- | --- | --- | --- | --- | --- |", *lines]


RECIPE = Recipe(run=run, check=check)
