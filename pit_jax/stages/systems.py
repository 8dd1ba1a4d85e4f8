"""The trained models as systems over text: prompts in, answers out, and the gap model as a judge."""

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, TypeVar

import jax
import jax.numpy as jnp
import numpy as np

from pit_jax.batch import PromptBatch
from pit_jax.data.chat import Refusal
from pit_jax.data.stream import sequential
from pit_jax.generation.sampling import Sampling
from pit_jax.improvement.best_of_n import Best, best_of_n
from pit_jax.improvement.pit import Answers, Slots, answer, improve, improver_prompt
from pit_jax.improvement.stopping import ScoredTrail, improve_scored
from pit_jax.model.networks import ScalarModel
from pit_jax.stages.context import Context
from pit_jax.stages.rm import sequence_scores

Found = TypeVar("Found")  # a pytree of arrays whose second axis is the prompts


def slots_of(context: Context) -> Slots:
    data = context.data
    return Slots(data.response_slot, data.tokenizer.eos_id, data.tokenizer.pad_id, tuple(data.template.improver_suffix))


def tokenise_prompts(
    context: Context, prompts: Sequence[str], *, least: int = 0, longest: int = 0
) -> dict[str, np.ndarray]:
    """Arrays of a PromptBatch (references left empty) for any prompts, in slots of at least `least` tokens.

    Raises ValueError for an empty prompt, one that the chat template cannot hold, and one over `longest` tokens
    (0 = data.prompt_length and the frame around a message; never cut).
    """
    template, policy, prefix = context.data.template, [], []
    limit = longest or context.config.data.prompt_length + template.frame_length
    for number, prompt in enumerate(prompts, 1):
        if not prompt.strip():
            raise ValueError(f"prompt {number} is empty; give every row a prompt")
        try:
            policy.append(template.policy_prompt(prompt))
            prefix.append(template.improver_prefix(prompt))
        except Refusal as refusal:
            raise ValueError(f"prompt {number}, {prompt[:80]!r}: {refusal}; change or remove it") from refusal
        ids = policy[-1]
        if len(ids) > limit:
            raise ValueError(
                f"prompt {number} has {len(ids)} tokens, the models were trained on at most {limit}; "
                "shorten it (a prompt is never cut)"
            )
    slot = -(-max(least, *(len(ids) for ids in policy + prefix)) // 4) * 4
    empty = np.zeros((len(prompts), 1), np.int32)
    arrays: dict[str, np.ndarray] = {}
    for name, rows in (("prompt", policy), ("prefix", prefix)):
        arrays[f"{name}_BP"] = left_padded(rows, slot, context.data.tokenizer.pad_id)
        arrays[f"{name}_mask_BP"] = left_padded([[1] * len(row) for row in rows], slot, 0).astype(bool)
    for name in ("chosen", "rejected"):
        arrays |= {f"{name}_BR": empty, f"{name}_mask_BR": empty.astype(bool)}
    return arrays


def left_padded(rows: Sequence[Sequence[int]], slot: int, pad: int) -> np.ndarray:
    """[rows, slot] int32."""
    return np.asarray([[pad] * (slot - len(row)) + list(row) for row in rows], np.int32)


def right_padded(rows: Sequence[Sequence[int]], slot: int, pad: int) -> np.ndarray:
    """[rows, slot] int32."""
    return np.asarray([list(row) + [pad] * (slot - len(row)) for row in rows], np.int32)


def over_batches(
    context: Context,
    arrays: dict[str, np.ndarray],
    size: int,
    program: Callable[[PromptBatch, jax.Array], Found],
    key: jax.Array,
    advance: Callable[[int], None],
) -> Found:
    """program(rows, fold_in(key, i)) of batch i of the prompts, on the host and joined along the second axis."""
    pieces = []
    for i, (batch, real) in enumerate(sequential(arrays, size)):
        piece = program(context.put_rows(PromptBatch, batch), jax.random.fold_in(key, i))
        pieces.append(jax.tree.map(lambda x, real=real: np.asarray(x)[:, :real], piece))
        advance(real)
    found: Found = jax.tree.map(lambda *xs: np.concatenate(xs, axis=1), *pieces)
    return found


class Systems:
    """Batched answering and improving; one compiled program each, whatever the temperature and the weights."""

    def __init__(self, context: Context, prompts: Sequence[str], *, batch_size: int, sampling: Sampling):
        self._context, self._size, self._sampling = context, batch_size, sampling
        self._arrays = tokenise_prompts(context, prompts)
        model, slots = context.language_model, slots_of(context)

        def run_answer(policy: Any, rows: PromptBatch, key: jax.Array, sampling: Sampling) -> Answers:
            return jax.tree.map(lambda x: x[None], answer(model, policy, rows, key, sampling, slots=slots))

        def run_improve(
            policy: Any, improver: Any, rows: PromptBatch, key: jax.Array, sampling: Sampling, *, rounds: int
        ) -> Answers:
            return improve(model, policy, improver, rows, key, sampling, rounds=rounds, slots=slots)

        gap = make_gap(context)

        def run_scored(
            policy: Any,
            improver: Any,
            scorer: Any,
            rows: PromptBatch,
            key: jax.Array,
            sampling: Sampling,
            threshold: jax.Array,
            *,
            rounds: int,
        ) -> ScoredTrail:
            own = partial(gap, scorer)
            return improve_scored(
                model, policy, improver, rows, key, sampling, own, threshold, rounds=rounds, slots=slots
            )

        score = make_score(context)

        def run_best(
            policy: Any, reward: Any, rows: PromptBatch, key: jax.Array, sampling: Sampling, *, n: int
        ) -> Best:
            found = best_of_n(model, policy, rows, key, sampling, partial(score, reward), n=n, slots=slots)
            return jax.tree.map(lambda x: x[None], found)

        self._answer, self._improve = jax.jit(run_answer), jax.jit(run_improve, static_argnames="rounds")
        self._scored = jax.jit(run_scored, static_argnames="rounds")
        self._best = jax.jit(run_best, static_argnames="n")

    def answers(self, policy: Any, temperature: float, key: jax.Array) -> Answers:
        """Answers of all prompts, on the host: [1, N, T]."""
        return self._over_batches(lambda rows, key, at: self._answer(policy, rows, key, at), temperature, key, quiet)

    def trail(
        self,
        policy: Any,
        improver: Any,
        temperature: float,
        key: jax.Array,
        advance: Callable[[int], None],
        *,
        rounds: int,
    ) -> Answers:
        """y_0 .. y_K of all prompts, on the host: [K + 1, N, T]; `advance` hears how many prompts are done."""
        return self._over_batches(
            lambda rows, key, at: self._improve(policy, improver, rows, key, at, rounds=rounds),
            temperature,
            key,
            advance,
        )

    def scored_trail(
        self,
        policy: Any,
        improver: Any,
        scorer: Any,
        temperature: float,
        key: jax.Array,
        advance: Callable[[int], None],
        *,
        rounds: int,
        threshold: float,
    ) -> ScoredTrail:
        """`trail` with the gap model's word on every round; a prompt stops where its gap is below `threshold`."""
        least = jnp.float32(threshold)
        return self._over_batches(
            lambda rows, key, at: self._scored(policy, improver, scorer, rows, key, at, least, rounds=rounds),
            temperature,
            key,
            advance,
        )

    def best(self, policy: Any, reward: Any, temperature: float, key: jax.Array, *, n: int) -> Best:
        """The best of n answers of every prompt, on the host: [1, N, ..]. n times the rows of a batch are decoded."""
        return self._over_batches(
            lambda rows, key, at: self._best(policy, reward, rows, key, at, n=n), temperature, key, quiet
        )

    def _over_batches(
        self, program: Callable[..., Found], temperature: float, key: jax.Array, advance: Callable[[int], None]
    ) -> Found:
        at = Sampling(jnp.float32(temperature), self._sampling.top_k, self._sampling.top_p)
        return over_batches(
            self._context, self._arrays, self._size, lambda rows, key: program(rows, key, at), key, advance
        )


def quiet(done: int) -> None:
    """Nobody watches."""


def answer_scores(
    model: ScalarModel, params: Any, prompt_BP: jax.Array, prompt_mask_BP: jax.Array, answers: Answers
) -> jax.Array:
    """score_B of answers behind their prompts, in place: no text is tokenised again."""
    tokens_BL = jnp.concatenate([prompt_BP, answers.tokens_BT], axis=1)
    segments_BL = jnp.concatenate([prompt_mask_BP, answers.mask_BT], axis=1).astype(jnp.int32)
    return sequence_scores(model, params, tokens_BL, segments_BL)


def make_gap(context: Context) -> Callable[[Any, PromptBatch, Answers, Answers], jax.Array]:
    """gap(params, rows, reference, candidate) -> gap_B of the candidate over the reference, scored in place."""
    model, slots = context.scalar_model, slots_of(context)

    def gap(params: Any, rows: PromptBatch, reference: Answers, candidate: Answers) -> jax.Array:
        prompt_BP, prompt_mask_BP = improver_prompt(rows, reference, slots=slots)
        return answer_scores(model, params, prompt_BP, prompt_mask_BP, candidate)

    return gap


def make_score(context: Context) -> Callable[[Any, PromptBatch, Answers], jax.Array]:
    """score(params, rows, answers) -> score_B of the pointwise reward model, in place."""
    model = context.scalar_model

    def score(params: Any, rows: PromptBatch, answers: Answers) -> jax.Array:
        return answer_scores(model, params, rows.prompt_BP, rows.prompt_mask_BP, answers)

    return score


class GapScorer:
    """The gap model over texts. Long pairs are scored apart, in wider slots and smaller batches than the others."""

    def __init__(self, context: Context, params: Any, *, batch_size: int):
        self._context, self._params, self._size = context, params, batch_size
        self._gap = jax.jit(make_gap(context))

    def __call__(self, prompts: Sequence[str], candidates: Sequence[str], references: Sequence[str]) -> np.ndarray:
        """gap_N of each candidate over its reference, not centred.

        A slot holds the longer text of a pair with an EOS: a pair asked in both orders meets one program, and two equal
        texts get one number, to the last bit.
        """
        data = self._context.data
        reference_ids = [data.template.response(text) for text in references]
        candidate_ids = [data.template.response(text) for text in candidates]
        longest_N = np.array([1 + max(map(len, pair)) for pair in zip(reference_ids, candidate_ids, strict=True)])
        doublings_N = np.ceil(np.log2(np.maximum(longest_N / data.response_slot, 1.0))).astype(int)
        arrays, gaps_N = tokenise_prompts(self._context, prompts), np.zeros(len(prompts), np.float32)
        for doublings in np.unique(doublings_N).tolist():
            picked = np.flatnonzero(doublings_N == doublings)
            slot, pad = data.response_slot << doublings, data.tokenizer.pad_id
            columns = {name: column[picked] for name, column in arrays.items()}
            for side, ids, end in (
                ("reference", reference_ids, []),
                ("candidate", candidate_ids, [data.tokenizer.eos_id]),
            ):
                rows = [[*ids[i], *end] for i in picked]
                columns[f"{side}_tokens_BT"] = right_padded(rows, slot, pad)
                columns[f"{side}_mask_BT"] = right_padded([[1] * len(row) for row in rows], slot, 0).astype(bool)
            gaps_N[picked] = self._scored(columns, self._rows(doublings))
        return gaps_N

    def _rows(self, doublings: int) -> int:
        """Rows of a batch: half as many in slots twice as wide, and a share for every device."""
        shards = self._context.mesh.shape["data"] * self._context.mesh.shape["fsdp"]
        return -(-(self._size >> doublings) // shards) * shards or shards

    def _scored(self, columns: dict[str, np.ndarray], size: int) -> np.ndarray:
        """Gaps of pairs that share a slot."""
        context, gaps = self._context, []
        for batch, real in sequential(columns, size):
            reference, candidate = (
                context.put_rows(Answers, {name: batch.pop(f"{side}_{name}") for name in ("tokens_BT", "mask_BT")})
                for side in ("reference", "candidate")
            )
            found = self._gap(self._params, context.put_rows(PromptBatch, batch), reference, candidate)
            gaps.append(np.asarray(found)[:real])
        return np.concatenate(gaps)
