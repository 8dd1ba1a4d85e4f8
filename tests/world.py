"""A tiny world for the tests of run, rl and recipes: two networks, random triples as tokens, a context around them.

Words are numbers: the text "7 8 9" is the tokens 7, 8, 9. A folder's conftest.py names the fixtures that it uses.
"""

import zlib
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import Mesh
from rich.console import Console

from pit_jax.batch import DecodeSpec, Experience, RolloutPrompts, Triple
from pit_jax.config import Config, TransformerConfig
from pit_jax.data.features import FEATURES, KINDS, Example, Layout, build, row_lengths
from pit_jax.data.folds import PAIR_FOLDS
from pit_jax.data.ragged import Ragged
from pit_jax.data.rows import StoredRows
from pit_jax.data.worlds.builtin import WORLDS
from pit_jax.data.worlds.notes import NOTES
from pit_jax.files import write_json
from pit_jax.inference.engine import Engine
from pit_jax.model.networks import LanguageModel, ScalarModel
from pit_jax.parallel.mesh import mesh_of
from pit_jax.parallel.sharding import param_sharding
from pit_jax.recipes.catalogue import catalogue
from pit_jax.run import params
from pit_jax.run.context import Context
from pit_jax.run.folders import CONFIG, LINEAGE, Run, StageFolder
from pit_jax.run.programs import BATCHES
from pit_jax.run.provenance import StageId
from pit_jax.run.screen import Screen

PAD, EOS, SUFFIX = 0, 1, (4, 5)
RL_IMPROVER = StageId("rl", "improver")
DATA = "d"  # the fingerprint of data that nobody has prepared


@dataclass(frozen=True)
class World:
    """What a test needs of a run, at the smallest size."""

    config: TransformerConfig = TransformerConfig(width=16, layers=2, query_heads=4, kv_heads=2, head_size=4, ffn=24)
    vocab: int = 40
    slot: int = 8  # T
    prompt_slot: int = 8  # P
    pad_id: int = PAD
    eos_id: int = EOS
    suffix: tuple[int, ...] = SUFFIX

    @property
    def language(self) -> LanguageModel:
        return LanguageModel(self.config, self.vocab)

    @property
    def scalar(self) -> ScalarModel:
        return ScalarModel(self.config, self.vocab)

    @property
    def spec(self) -> DecodeSpec:
        return DecodeSpec(self.slot, self.eos_id, self.pad_id, self.suffix)

    @property
    def engine(self) -> Engine:
        return Engine(self.language, self.spec)

    def draw(self, network: LanguageModel | ScalarModel, seed: int) -> Any:
        return self.fill(network.init, seed)

    def fill(self, make: Callable[[jax.Array], Any], seed: int) -> Any:
        """Weights of the size of those of make(key), an `init`; NumPy, since that compiles for long."""
        rng = np.random.default_rng(seed)

        def normal(path: Any, leaf: Any) -> jax.Array:
            mean = 1.0 if "scale" in jax.tree_util.keystr(path) else 0.0
            return jnp.asarray(rng.normal(mean, 0.25, leaf.shape), jnp.float32)

        return jax.tree_util.tree_map_with_path(normal, jax.eval_shape(make, jax.random.key(0)))

    def examples(self, count: int, seed: int = 0) -> list[Example]:
        """Prompts of 1 to 7 tokens, answers of 0 to 7 (without their EOS); the second token of a prefix is its own."""
        rng = np.random.default_rng(seed)

        def words(shortest: int) -> list[int]:
            return rng.integers(6, self.vocab, rng.integers(shortest, 8)).tolist()

        return [Example(words(1), [3, 6 + i, *words(0)][:7], words(0), words(0)) for i in range(count)]

    def layout(self, examples: Sequence[Example]) -> Layout:
        lengths = np.array([[len(getattr(e, name)) for name in FEATURES] for e in examples])
        longest = {k: int(row_lengths(k, lengths, len(SUFFIX)).max()) + 2 for k in KINDS if k != "prompts"}
        return Layout(PAD, EOS, SUFFIX, longest, self.prompt_slot, self.slot)

    def arrays(self, kind: str, examples: Sequence[Example]) -> dict[str, Any]:
        return build(kind, examples, self.layout(examples))

    def batch(self, kind: str, examples: Sequence[Example]) -> Any:
        """The batch dataclass of `kind`, in NumPy."""
        return BATCHES[kind](**self.arrays(kind, examples))

    def rollout_prompts(self, rows: int, seed: int = 0) -> RolloutPrompts:
        """Left-padded prompts and unrelated references that end in EOS."""
        rng = np.random.default_rng(seed)
        lengths_B1 = rng.integers(1, self.prompt_slot + 1, (rows, 1))
        ends_B1 = rng.integers(0, self.slot, (rows, 1))
        reference_BT = np.where(np.arange(self.slot) == ends_B1, EOS, rng.integers(6, self.vocab, (rows, self.slot)))
        prompt_BP, plain_BP, prefix_BP = rng.integers(6, self.vocab, (3, rows, self.prompt_slot)).astype(np.int32)
        columns: dict[str, Any] = {
            "prompt_BP": prompt_BP,
            "prompt_mask_BP": np.arange(self.prompt_slot)[::-1] < lengths_B1,
            "plain_BP": plain_BP,
            "plain_mask_BP": np.arange(self.prompt_slot)[::-1] < lengths_B1[::-1],
            "prefix_BP": prefix_BP,
            "prefix_mask_BP": np.arange(self.prompt_slot)[::-1] < lengths_B1,
            "reference_BT": reference_BT.astype(np.int32),
            "reference_mask_BT": np.arange(self.slot) <= ends_B1,
        }
        return RolloutPrompts(**columns)

    def experience(self, rows: int, seed: int = 0) -> Experience:
        """Responses that nobody sampled, with any numbers: for losses that must not care."""
        rng, prompts = np.random.default_rng(seed), self.rollout_prompts(rows, seed)
        mask_BT = prompts.reference_mask_BT
        numbers = rng.normal(size=(4, *mask_BT.shape)).astype(np.float32)
        columns: dict[str, Any] = {
            "tokens_BL": np.concatenate([prompts.prompt_BP, prompts.reference_BT], axis=1),
            "segments_BL": np.concatenate([prompts.prompt_mask_BP, mask_BT], axis=1).astype(np.int32),
            "mask_BT": mask_BT,
            "old_logprobs_BT": numbers[0] - 3,
            "old_values_BT": numbers[1],
            "advantages_BT": numbers[2],
            "returns_BT": numbers[3],
            "scores_B": numbers[0, :, 0],
        }
        return Experience(**columns)


@pytest.fixture(scope="session")
def world() -> World:
    return World()


@pytest.fixture(scope="session")
def make_mesh() -> Any:
    """make_mesh(data, fsdp, tensor) over the first devices: also meshes of one device."""
    return mesh_of


@dataclass(frozen=True)
class StandInTemplate:
    """Words are their own tokens; an improver prefix begins with 3."""

    world: World

    @property
    def tokenizer(self) -> Any:
        return SimpleNamespace(eos_id=EOS, pad_id=PAD, bos_id=None, vocab_size=self.world.vocab)

    @property
    def improver_suffix(self) -> list[int]:
        return list(SUFFIX)

    @property
    def frame_length(self) -> int:
        return 0

    def check(self, *texts: str) -> None:
        """Numbers pass for nothing else."""

    def response(self, text: str) -> list[int]:
        return [int(word) for word in text.split()]

    def policy_prompt(self, text: str) -> list[int]:
        return self.response(text)

    def improver_prefix(self, text: str) -> list[int]:
        return [3, *self.response(text)]

    def example(self, triple: Triple) -> Example:
        chosen, rejected = self.response(triple.chosen), self.response(triple.rejected)
        return Example(self.policy_prompt(triple.prompt), self.improver_prefix(triple.prompt), chosen, rejected)

    def text(self, row: Sequence[int]) -> str:
        row = list(row)
        return " ".join(map(str, row[: row.index(EOS)] if EOS in row else row))


@dataclass(frozen=True)
class StandInData:
    """What the stages read of prepared data, from memory."""

    world: World
    folds: dict[str, list[Example]]
    folder: Path = Path("nowhere")
    fingerprint: str = DATA

    @property
    def response_slot(self) -> int:
        return self.world.slot

    @property
    def layout(self) -> Layout:
        return self.world.layout([example for examples in self.folds.values() for example in examples])

    @property
    def report(self) -> dict[str, Any]:
        folds = {fold: {"examples": len(examples)} for fold, examples in self.folds.items()}
        return {"layout": asdict(self.layout), "folds": folds}

    @property
    def tokenizer(self) -> Any:
        return self.template.tokenizer

    @property
    def template(self) -> Any:
        return StandInTemplate(self.world)

    def texts(self, tokens_NT: Any) -> list[str]:
        return [self.template.text(row) for row in np.asarray(tokens_NT).tolist()]

    def rows(self, fold: str, kind: str) -> StoredRows:
        examples = self.folds[fold]
        margins = np.array([example.margin for example in examples], np.float32)
        tokens = ragged([getattr(example, name) for example in examples for name in FEATURES])
        return StoredRows(kind, self.layout, tokens, margins, np.arange(len(examples)))

    def pairs(self, kind: str, which: str) -> StoredRows:
        own, *others = PAIR_FOLDS[which]
        rows = self.rows(own, kind)
        for fold in others:
            rows = rows.joined(self.rows(fold, kind))
        return rows

    def rows_of(self, kind: str, triples: Sequence[Triple]) -> StoredRows:
        examples = [self.template.example(triple) for triple in triples]
        return replace(StandInData(self.world, {"": examples}).rows("", kind), layout=self.layout)

    def triples(self, *folds: str) -> list[Triple]:
        examples = [e for fold in folds for e in self.folds[fold]]
        texts = [[" ".join(map(str, ids)) for ids in (e.prompt, e.chosen, e.rejected)] for e in examples]
        return [Triple(prompt, chosen, rejected) for prompt, chosen, rejected in texts]


def ragged(rows: Sequence[Sequence[int]]) -> Ragged:
    """Rows in memory."""
    values = np.array([token for row in rows for token in row], np.int32)
    return Ragged.of(values, np.array([len(row) for row in rows], np.int64))


def worth(prompt: str, answer: str) -> float:
    """A truth for random words: their number."""
    return float(len(answer.split()))


def repeated(prompt: str, answer: str) -> list[str]:
    """Flaws for random words: those that were said before."""
    words = answer.split()
    return [word for i, word in enumerate(words) if word in words[:i]]


def finish(folder: StageFolder, digest: str = "") -> None:
    """Mark a stage finished that nobody has run, from the data and the ancestors that are there."""
    config = folder.run.config
    write_json(folder.path / CONFIG, folder.stage.depends_on(config))
    write_json(folder.path / LINEAGE, {"data": DATA, "ancestors": folder.ancestors(config)})
    folder.finish(round=1, digest=digest or f"digest of {folder.name}")


def finish_parents(context: Context) -> Context:
    """The same context, once the parents of its stage are marked finished, and theirs."""

    def above(folder: StageFolder) -> None:
        for parent in folder.parents(context.config):
            above(parent)
            finish(parent)

    above(context.folder)
    return context


MakeContext = Callable[..., Context]


@pytest.fixture
def context(world: World, tmp_path: Path) -> MakeContext:
    """context(config, mesh, stage): of a stage (the improver's RL) over 24 random examples a fold, in a fresh workdir.

    Nobody knows a truth for these pairs.
    """
    folds = {name: world.examples(24, seed) for seed, name in enumerate(("sft", "rm", "rl", "heldout"))}

    def make(config: Config, mesh: Mesh | None, stage: StageId = RL_IMPROVER) -> Context:
        data = replace(config.data, sources=("pairs:words.jsonl",))
        config = replace(config, workdir=str(tmp_path), transformer=world.config, data=data)
        run, screen = Run(config, catalogue()), Screen(Console(quiet=True))
        stand_in: Any = StandInData(world, folds)
        return Context(config, run, run.stage(stage), stand_in, mesh, screen)

    return make


@pytest.fixture
def place(context: MakeContext, make_mesh: Any, monkeypatch: pytest.MonkeyPatch, world: World) -> MakeContext:
    """place(config, stage, truth=False, mesh=(1, 1, 1)) -> a context whose finished models are random ones.

    Each has weights of its own, by the name of its stage. A truth is the number of words.
    """

    def restored(context: Context, folder: StageFolder, init: Any, round: int | None = None) -> Any:
        drawn = world.fill(init, zlib.crc32(folder.name.encode()))
        return jax.device_put(drawn, param_sharding(drawn, context.mesh))

    monkeypatch.setattr(params, "restored", restored)
    monkeypatch.setitem(WORLDS._values, NOTES.name, replace(NOTES, score=worth, flaws=repeated))

    def make(
        config: Config | None = None,
        stage: StageId = RL_IMPROVER,
        *,
        truth: bool = False,
        mesh: tuple[int, int, int] = (1, 1, 1),
    ) -> Context:
        small = replace(Config(), rl=replace(Config().rl, batch_size=16, heldout_prompts=24))
        found = context(config or small, make_mesh(*mesh), stage)
        if not truth:
            return found
        config = replace(found.config, data=replace(found.config.data, sources=("notes",)))
        return replace(found, config=config, run=Run(config, found.run.catalogue))

    return make
