"""The trained models as Hugging Face folders, which transformers and vLLM load: workdir/export/<name>/.

policy and improver are causal language models, reward and gap sequence classifiers with one label, whose logit is the
score of a row [prompt | answer EOS]. Only a run with a base has a Hugging Face architecture to be written in. Adapters
are merged, or written for PEFT beside the weights that they update (base/, or the stage that trained these in full).
"""

import json
import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import jax.numpy as jnp
from safetensors.numpy import save_file

from pit_jax.config import Config
from pit_jax.data.text.tokenizers import WEIGHTS
from pit_jax.errors import UserError
from pit_jax.files import read_json, whole_folder, write_json, write_text
from pit_jax.model.adapters import has_adapters, merge
from pit_jax.model.networks import Params
from pit_jax.model.pretrained import weights
from pit_jax.model.pretrained.families import family_of, text_part
from pit_jax.model.pretrained.peft import HEAD, peft_config, peft_tensors
from pit_jax.model.pretrained.tensors import Entry, row
from pit_jax.parallel.hosts import whole
from pit_jax.paths import local, resolved, to_path
from pit_jax.recipes.cards import card
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


def published(base: str) -> tuple[str, str] | None:
    """(name on the hub, revision) of a base that the hub's client holds: models--ORG--NAME/snapshots/REVISION."""
    found = re.search(r"(?:^|/)models--([^/]+)/snapshots/([^/]+)/*$", base)
    return None if found is None else (found[1].replace("--", "/"), found[2])


def write(context: Context, target: Path, name: str, params: Params) -> None:
    """One model: weights, config.json, generation_config.json, the tokenizer and a card."""
    with whole_folder(target) as partial:
        write_weights(context, partial, params, scalar=EXPORTS[name].name == "rm")
        write_card(context, partial, name, adapters=False)


def write_card(context: Context, folder: Path, name: str, *, adapters: bool) -> None:
    """README.md of one model, which names its base as the hub does, or by its folder."""
    base, _ = published(context.config.base) or (context.config.base, "")
    write_text(folder / "README.md", card(context, name, stage=EXPORTS[name], base=base, adapters=adapters))


def write_weights(context: Context, folder: Path, params: Params, *, scalar: bool) -> None:
    """All but the card."""
    config, entries = context.config, base_entries(context.config)
    context.data.tokenizer.save(folder)
    dtype = jnp.dtype(config.export.dtype)
    weights.save(folder, params, scalar_entries(entries) if scalar else entries, dtype=dtype)
    write_json(folder / "config.json", hf_config(context, scalar=scalar))
    if not scalar:
        write_json(folder / "generation_config.json", special_ids(context))


def write_adapters(context: Context, target: Path, name: str, params: Params, below: Path) -> None:
    """One model's adapters (and its head) in PEFT's format, the tokenizer and a card.

    They name the folder `below` as their base, or what the hub calls the base of the run, if it serves as well: a
    language model that reads no token which the base lacks. A classifier does not: there PEFT makes two labels, and
    reads the score before an EOS that is PAD too.
    """
    config, scalar = context.config, "trunk" in params
    hub = published(config.base) if below.name == "base" and not scalar and context.data.tokenizer.chat else None
    base, revision = hub or (str(resolved(below)), None)
    entries = base_entries(config)
    adapters = params.get("trunk", params)["blocks"]["adapter"]
    tensors = dict(peft_tensors(adapters, entries))
    if scalar:
        tensors[f"base_model.model.{HEAD}.weight"] = whole(params["head"]["kernel"])[None]
    dtype = jnp.dtype(config.export.dtype)
    with whole_folder(target) as partial:
        context.data.tokenizer.save(partial)
        save_file({key: x.astype(dtype) for key, x in tensors.items()}, partial / "adapter_model.safetensors")
        described_by = peft_config(config.adapter, adapters, entries, base=base, scalar=scalar)
        write_json(partial / "adapter_config.json", {**described_by, "revision": revision})
        write_card(context, partial, name, adapters=True)


def scalar_entries(entries: list[Entry]) -> list[Entry]:
    """The tensors of a sequence classifier: those of the trunk without an output matrix, and the head."""
    trunk = [replace(entry, ours=tuple(f"trunk/{path}" for path in entry.ours)) for entry in entries]
    return [*(entry for entry in trunk if entry.ours != ("trunk/unembedding",)), row(f"{HEAD}.weight", "head/kernel")]


def hf_config(context: Context, *, scalar: bool) -> dict[str, Any]:
    """config.json: that of the base or of its text part, with the class, vocabulary, dtype and special tokens of what
    is written."""
    fields = described(to_path(context.config.base))
    family, raw = family_of(fields), text_part(fields)
    if raw is fields:
        raw = json.loads((to_path(context.config.base) / "config.json").read_text(encoding="utf-8"))
    return {
        **{name: value for name, value in raw.items() if name not in ("torch_dtype", "dtype")},
        "architectures": [family.classifier if scalar else family.causal],
        "dtype": context.config.export.dtype,
        "vocab_size": context.vocab_size,
        **special_ids(context),
        "id2label": {"0": "score"},  # of a language model too: adapters of a classifier are loaded over it
        "label2id": {"score": 0},
    }


def special_ids(context: Context) -> dict[str, Any]:
    """The ids of PAD, BOS and EOS: what ends an answer, and of a base that names several ends the others behind it."""
    tokenizer, folder = context.data.tokenizer, local(to_path(context.config.base), but=WEIGHTS)
    found = (read_json(folder / name) or {} for name in ("generation_config.json", "config.json"))
    several = (ids for settings in found if isinstance(ids := settings.get("eos_token_id"), list))
    ends = list(dict.fromkeys([tokenizer.eos_id, *next(several, [])]))
    return {
        "eos_token_id": ends if len(ends) > 1 else tokenizer.eos_id,
        "pad_token_id": tokenizer.pad_id,
        "bos_token_id": tokenizer.bos_id,
    }


RECIPE = Recipe(run=run, check=check)
