"""A tiny world for the tests of the stages: two networks, random triples as tokens, and a context around them.

Words are numbers: the text "7 8 9" is the tokens 7, 8, 9.
"""

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import AxisType, Mesh
from rich.console import Console

from pit_jax.batch import Experience, GapBatch, PromptBatch, RewardBatch, RolloutPrompts, SftBatch, Triple
from pit_jax.config import Config, TransformerConfig
from pit_jax.data.features import FEATURES, KINDS, Example, Layout, build, gap_pairs, pack_sft, row_lengths
from pit_jax.model.networks import LanguageModel, ScalarModel
from pit_jax.parallel.mesh import AXES
from pit_jax.stages import models
from pit_jax.stages.context import Context

PAD, EOS, SUFFIX = 0, 1, (4, 5)
NOUNS = {
    "sft-policy": SftBatch,
    "sft-improver": SftBatch,
    "reward": RewardBatch,
    "gap": GapBatch,
    "prompts": PromptBatch,
}


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

    def arrays(self, kind: str, examples: Sequence[Example]) -> dict[str, np.ndarray]:
        return build(kind, examples, self.layout(examples))

    def batch(self, kind: str, examples: Sequence[Example]) -> Any:
        """The batch dataclass of `kind`, in NumPy."""
        return NOUNS[kind](**self.arrays(kind, examples))

    def packed(self, kind: str, examples: Sequence[Example], length: int) -> SftBatch:
        """SFT rows of `length` tokens that hold several examples."""
        return SftBatch(**pack_sft(kind, examples, replace(self.layout(examples), row_lengths={kind: length})))

    def four_sequences(self, examples: Sequence[Example]) -> dict[str, np.ndarray]:
        return gap_pairs(examples, self.layout(examples))

    def rollout_prompts(self, rows: int, seed: int = 0) -> RolloutPrompts:
        """Left-padded prompts and unrelated references that end in EOS."""
        rng = np.random.default_rng(seed)
        lengths_B1 = rng.integers(1, self.prompt_slot + 1, (rows, 1))
        ends_B1 = rng.integers(0, self.slot, (rows, 1))
        reference_BT = np.where(np.arange(self.slot) == ends_B1, EOS, rng.integers(6, self.vocab, (rows, self.slot)))
        prompt_BP, plain_BP = rng.integers(6, self.vocab, (2, rows, self.prompt_slot)).astype(np.int32)
        return RolloutPrompts(
            prompt_BP=prompt_BP,
            prompt_mask_BP=np.arange(self.prompt_slot)[::-1] < lengths_B1,
            plain_BP=plain_BP,
            plain_mask_BP=np.arange(self.prompt_slot)[::-1] < lengths_B1[::-1],
            reference_BT=reference_BT.astype(np.int32),
            reference_mask_BT=np.arange(self.slot) <= ends_B1,
        )

    def experience(self, rows: int, seed: int = 0) -> Experience:
        """Responses that nobody sampled, with any numbers: for losses that must not care."""
        rng, prompts = np.random.default_rng(seed), self.rollout_prompts(rows, seed)
        mask_BT = prompts.reference_mask_BT
        numbers = rng.normal(size=(4, *mask_BT.shape)).astype(np.float32)
        return Experience(
            tokens_BL=np.concatenate([prompts.prompt_BP, prompts.reference_BT], axis=1),
            segments_BL=np.concatenate([prompts.prompt_mask_BP, mask_BT], axis=1).astype(np.int32),
            mask_BT=mask_BT,
            old_logprobs_BT=numbers[0] - 3,
            old_values_BT=numbers[1],
            advantages_BT=numbers[2],
            returns_BT=numbers[3],
            scores_B=numbers[0, :, 0],
        )


@pytest.fixture(scope="session")
def world() -> World:
    return World()


def mesh_of(data: int, fsdp: int, tensor: int) -> Mesh:
    devices = np.array(jax.devices()[: data * fsdp * tensor]).reshape(data, fsdp, tensor)
    return Mesh(devices, AXES, axis_types=(AxisType.Auto,) * 3)


@pytest.fixture(scope="session")
def make_mesh() -> Any:
    """make_mesh(data, fsdp, tensor) over the first devices: also meshes of one device."""
    return mesh_of


@dataclass(frozen=True)
class StandInData:
    """What the stages read of prepared data, from memory."""

    world: World
    folds: dict[str, list[Example]]
    fingerprint: str = "0123456789ab"

    @property
    def response_slot(self) -> int:
        return self.world.slot

    @property
    def report(self) -> dict[str, Any]:
        everything = [example for examples in self.folds.values() for example in examples]
        return {"layout": asdict(self.world.layout(everything))}

    @property
    def tokenizer(self) -> Any:
        return SimpleNamespace(eos_id=EOS, pad_id=PAD, vocab_size=self.world.vocab)

    @property
    def template(self) -> Any:
        def ids(text: str) -> list[int]:
            return [int(word) for word in text.split()]

        return SimpleNamespace(
            improver_suffix=list(SUFFIX),
            policy_prompt=ids,
            frame_length=0,
            improver_prefix=lambda text: [3, *ids(text)],
            response=ids,
            text=lambda row: " ".join(map(str, row[: row.index(EOS)] if EOS in row else row)),
        )

    def arrays(self, fold: str, kind: str) -> dict[str, np.ndarray]:
        return self.world.arrays(kind, self.folds[fold])

    def triples(self, fold: str) -> list[Triple]:
        texts = [[" ".join(map(str, ids)) for ids in (e.prompt, e.chosen, e.rejected)] for e in self.folds[fold]]
        return [Triple(*row) for row in texts]


@pytest.fixture
def context(world: World, tmp_path: Path) -> Any:
    """context(config, mesh): a Context over 24 random examples a fold, in a fresh workdir."""
    folds = {name: world.examples(24, seed) for seed, name in enumerate(("sft", "rm", "rl", "heldout"))}

    def make(config: Config, mesh: Mesh) -> Context:
        config = Config(**{**vars(config), "workdir": str(tmp_path), "transformer": world.config})
        return Context(config, mesh, StandInData(world, folds), Console(quiet=True))

    return make


def worth(prompt: str, answer: str) -> float:
    """A truth for random words: their number."""
    return float(len(answer.split()))


@pytest.fixture
def place(context: Any, make_mesh: Any, monkeypatch: pytest.MonkeyPatch, world: World) -> Callable[..., Context]:
    """place(config, truth=False) -> a context whose trained models are random ones; a truth is the number of words."""

    def restored(context: Context, stage: str, model: str, make: Callable[..., Any]) -> Any:
        return world.fill(make, len(stage + model))

    monkeypatch.setattr(models, "restored", restored)

    def make(config: Config | None = None, *, truth: bool = False) -> Context:
        monkeypatch.setattr(Context, "truth", property(lambda self: worth if truth else None))
        small = replace(Config(), rl=replace(Config().rl, batch_size=16, heldout_prompts=24))
        found: Context = context(config or small, make_mesh(1, 1, 1))
        found.folder("rm", "improver").path.mkdir(exist_ok=True)
        return found

    return make
