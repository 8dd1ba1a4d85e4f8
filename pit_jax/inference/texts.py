"""The models over lists of texts: prompts in, answers and scores out, in batches of one shape on the mesh."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property, partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh

from pit_jax.batch import Answer, Completions, PromptBatch, Responses
from pit_jax.data.stream import sequential
from pit_jax.data.text.templates import Template
from pit_jax.inference.engine import Engine, improver_prompt
from pit_jax.inference.prompts import prompt_arrays, response_arrays
from pit_jax.inference.sampling import Sampling
from pit_jax.model.networks import Params, ScalarModel
from pit_jax.model.scoring import behind, response_logprobs, response_scores
from pit_jax.parallel.hosts import whole
from pit_jax.parallel.sharding import batch_sharding, put, put_rows, row_shards


@dataclass(frozen=True)
class Chunk:
    """Prompts that are answered together; the last one is repeated to fill the batch, and `real` rows count."""

    index: int
    first: int  # number of its first prompt
    real: int
    rows: PromptBatch  # on the mesh


@dataclass(frozen=True)
class Chunks(Sequence[Chunk]):
    """Prompts in chunks of one shape; a chunk is put on the mesh when it is asked for."""

    arrays: dict[str, np.ndarray]
    size: int
    mesh: Mesh

    def __len__(self) -> int:
        return -(-len(self.arrays["prompt_BP"]) // self.size)

    def __getitem__(self, index: Any) -> Any:
        count, first = len(self.arrays["prompt_BP"]), index * self.size
        if not 0 <= index < len(self):
            raise IndexError(index)
        rows = np.minimum(np.arange(first, first + self.size), count - 1)
        columns = {name: column[rows] for name, column in self.arrays.items()}
        return Chunk(index, first, min(self.size, count - first), put_rows(self.mesh, PromptBatch, columns))


@dataclass(frozen=True)
class TextEngine:
    """Engine and scalar model behind texts. Holds no parameters: each call says whose."""

    engine: Engine
    scalar: ScalarModel
    template: Template
    mesh: Mesh
    prompt_length: int
    """Most tokens of a prompt x, without the frame around a message."""
    batch_size: int
    """Rows that are read together, and decoded side by side where the engine's spec says so too."""
    queue: int = 1
    """Batches of prompts in a chunk: those that wait take the place of rows that have ended."""

    @property
    def chunk_size(self) -> int:
        """Prompts of a chunk."""
        return self.batch_size * self.queue

    def chunks(self, prompts: Sequence[str], *, longest: int = 0, least: int = 0) -> "Chunks":
        """The prompts in chunks, all in slots of one size. UserError as `prompt_arrays`.

        `longest` (default: what the models were trained on) and `least` are tokens of a policy prompt.
        """
        longest = longest or self.prompt_length + self.template.frame_length
        arrays = prompt_arrays(self.template, prompts, longest=longest, least=least)
        return Chunks(arrays, self.chunk_size, self.mesh)

    def answer(
        self,
        params: Params,
        chunk: Chunk,
        key: jax.Array,
        sampling: Sampling,
        *,
        wanted: Sequence[bool] = (),
        samples: int = 1,
    ) -> list[Answer]:
        """y ~ M(x) for the real rows of a chunk, `samples` of each side by side; those that are not `wanted` (default:
        all are) draw nothing. What is drawn depends on the key and on the number of the prompt, not on its chunk.
        """
        rows, first = self._live(chunk, wanted), chunk.first * samples
        drawn = self.engine.answer(params, rows, key, sampling, first=first, samples=samples)
        return self.read(drawn, chunk.real * samples)

    def rewrite(
        self,
        params: Params,
        chunk: Chunk,
        references: Sequence[Sequence[int]],
        key: jax.Array,
        sampling: Sampling,
        *,
        wanted: Sequence[bool] = (),
    ) -> list[Answer]:
        """y ~ M(x, y_ref), y_ref as tokens, EOS included or not; otherwise as `answer`."""
        asked = wanted or [True] * chunk.real
        responses = self._responses([ids if live else () for ids, live in zip(references, asked, strict=True)])
        rows = self._live(chunk, wanted)
        return self.read(self.engine.rewrite(params, rows, responses, key, sampling, first=chunk.first), chunk.real)

    def read(self, drawn: Completions | Responses, real: int) -> list[Answer]:
        """The first `real` completions, or references, as answers on the host; what holds an EOS has ended."""
        tokens_BT, mask_BT = whole((drawn.tokens_BT, drawn.mask_BT))
        eos_id = self.engine.spec.eos_id
        rows = [tuple(tokens[mask].tolist()) for tokens, mask in zip(tokens_BT[:real], mask_BT[:real], strict=True)]
        return [Answer(self.template.text(ids), ids, eos_id in ids) for ids in rows]

    def gaps(
        self,
        params: Params,
        prompts: Sequence[str],
        candidates: Sequence[Answer],
        references: Sequence[Answer],
    ) -> np.ndarray:
        """gap_N [N] float32 of each candidate over its reference by the gap model, not centred.

        A slot holds the longer answer of a pair: a pair asked in both orders meets one program, and two equal answers
        get one number, to the last bit. Long pairs are scored apart, in wider slots and smaller batches.
        """
        return self.scored(prompts, {"candidate": candidates, "reference": references}, partial(self._gap, params))

    def scores(self, params: Params, prompts: Sequence[str], answers: Sequence[Answer]) -> np.ndarray:
        """score_N [N] float32 of each answer by the pointwise reward model."""
        return self.scored(prompts, {"answers": answers}, partial(self._score, params))

    def logprobs(
        self,
        params: Params,
        prompts: Sequence[str],
        answers: Sequence[Answer],
        references: Sequence[Answer] = (),
        *,
        temperature: float,
    ) -> np.ndarray:
        """logprob_N [N] float32, nats: log M(y | x) of each drawn answer, or with references log M(y | x, y_ref).

        An EOS counts where the answer ended, and not where it filled its slot.
        """
        sides = {"answers": answers, **({"references": references} if references else {})}
        return self.scored(prompts, sides, partial(self._logprob, params, temperature=temperature))

    @cached_property
    def _logprob(self) -> Any:
        spec, model = self.engine.spec, self.engine.model

        def logprob(
            params: Params,
            rows: PromptBatch,
            answers: Responses,
            references: Responses | None = None,
            *,
            temperature: float,
        ) -> jax.Array:
            prompt = rows.prompt_BP, rows.prompt_mask_BP
            if references is not None:
                prompt = improver_prompt(rows, references, spec=spec)
            slot = answers.tokens_BT.shape[1]
            sequences = behind(*prompt, answers)
            logprobs_BT = response_logprobs(model, params, *sequences, slot=slot, temperature=temperature)
            # Behind a slot that is full stands an EOS that nobody drew, which a score would be read at.
            drawn_BT = answers.mask_BT & (jnp.arange(slot) < spec.response_slot)[None]
            return jnp.sum(jnp.where(drawn_BT, logprobs_BT, 0.0), axis=1)

        return jax.jit(logprob, static_argnames="temperature")

    @cached_property
    def _gap(self) -> Any:
        spec, scalar = self.engine.spec, self.scalar

        def gap(params: Params, rows: PromptBatch, candidate: Responses, reference: Responses) -> jax.Array:
            return response_scores(scalar, params, *improver_prompt(rows, reference, spec=spec), candidate)

        return jax.jit(gap)

    @cached_property
    def _score(self) -> Any:
        scalar = self.scalar

        def score(params: Params, rows: PromptBatch, answers: Responses) -> jax.Array:
            return response_scores(scalar, params, rows.prompt_BP, rows.prompt_mask_BP, answers)

        return jax.jit(score)

    def scored(self, prompts: Sequence[str], sides: dict[str, Sequence[Answer]], program: Any) -> np.ndarray:
        """program(rows, *sides) -> score_B, a jitted function, over all prompts, [N]; answers of like length together.

        Rows are a PromptBatch; a side, by its name, is Responses in a slot that holds the longest answer and its end.
        """
        spec = self.engine.spec
        lengths = ([len(self._with_end(answer)) for answer in answers] for answers in sides.values())
        longest_N = np.array([max(pair) for pair in zip(*lengths, strict=True)])
        doublings_N = np.ceil(np.log2(np.maximum(longest_N / spec.response_slot, 1.0))).astype(int)
        longest = self.prompt_length + self.template.frame_length
        arrays = prompt_arrays(self.template, prompts, longest=longest)
        scores_N = np.zeros(len(prompts), np.float32)
        for doublings in np.unique(doublings_N).tolist():
            picked = np.flatnonzero(doublings_N == doublings)
            columns = {name: column[picked] for name, column in arrays.items()}
            for side, answers in sides.items():
                rows = [self._with_end(answers[i]) for i in picked.tolist()]
                responses = response_arrays(rows, slot=spec.response_slot << doublings, pad_id=spec.pad_id)
                columns |= {f"{side}/{name}": column for name, column in responses.items()}
            scores_N[picked] = self._over(columns, list(sides), self._rows(doublings), program)
        return scores_N

    def _with_end(self, answer: Answer) -> tuple[int, ...]:
        """Tokens with the EOS at which a score is read, also of an answer that filled its slot without one."""
        return answer.ids if answer.ended else (*answer.ids, self.engine.spec.eos_id)

    def _over(self, columns: dict[str, np.ndarray], sides: list[str], size: int, program: Any) -> np.ndarray:
        """program(rows, *sides) of rows that share a slot, `size` of them at a time."""
        pieces = []
        for batch, real in sequential(columns, size):
            responses = [
                put_rows(self.mesh, Responses, {name: batch.pop(f"{side}/{name}") for name in ("tokens_BT", "mask_BT")})
                for side in sides
            ]
            pieces.append(whole(program(put_rows(self.mesh, PromptBatch, batch), *responses))[:real])
        return np.concatenate(pieces)

    def _rows(self, doublings: int) -> int:
        """Rows of a batch: half as many in slots twice as wide, and a share for every device."""
        shards = row_shards(self.mesh)
        return -(-(self.batch_size >> doublings) // shards) * shards or shards

    def _responses(self, rows: Sequence[Sequence[int]]) -> Responses:
        """References of a chunk in their slot; rows that fill the batch hold none."""
        spec, missing = self.engine.spec, self.chunk_size - len(rows)
        arrays = response_arrays([*rows, *[()] * missing], slot=spec.response_slot, pad_id=spec.pad_id)
        return put_rows(self.mesh, Responses, arrays)

    def _live(self, chunk: Chunk, wanted: Sequence[bool]) -> PromptBatch:
        """The rows of a chunk with an empty prompt where nothing is to be drawn, so that a decode ends sooner."""
        rows = chunk.rows
        live = [*(wanted or [True] * chunk.real), *[False] * (len(rows.prompt_BP) - chunk.real)]
        live_B1 = put(np.array(live)[:, None], batch_sharding(self.mesh))
        return replace(rows, prompt_mask_BP=rows.prompt_mask_BP & live_B1, prefix_mask_BP=rows.prefix_mask_BP & live_B1)


def written(template: Template, text: str) -> Answer:
    """A text that no model drew, tokenised, with the EOS that ends it."""
    return Answer(text, (*template.response(text), template.tokenizer.eos_id))
