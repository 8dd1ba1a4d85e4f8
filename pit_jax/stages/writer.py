"""A language model as a text function, for methods that only prompt (pit_jax/improvement/self_refine.py)."""

from collections.abc import Sequence
from typing import Any

import jax

from pit_jax.batch import PromptBatch
from pit_jax.generation.sampling import Sampling
from pit_jax.improvement.pit import Answers, answer
from pit_jax.stages.context import Context
from pit_jax.stages.systems import over_batches, quiet, slots_of, tokenise_prompts


class Writer:
    """Texts in, replies out, all calls in one compiled shape; call c draws from fold_in(key, c)."""

    def __init__(
        self,
        context: Context,
        params: Any,
        *,
        batch_size: int,
        sampling: Sampling,
        key: jax.Array,
        longest: int,
    ):
        """`longest`: most tokens of a prompt with its frame, which may be more than the model was trained on."""
        self._context, self._params, self._size, self._sampling = context, params, batch_size, sampling
        self._key, self._calls = key, 0
        template = context.data.template
        around = template.frame_length
        self._slot = longest + max(0, len(template.improver_prefix("")) - around)
        self._limit, self._longest = longest - around + 1, longest
        model, slots = context.language_model, slots_of(context)

        def reply(params: Any, rows: PromptBatch, key: jax.Array, sampling: Sampling) -> Answers:
            return jax.tree.map(lambda x: x[None], answer(model, params, rows, key, sampling, slots=slots))

        self._reply = jax.jit(reply)

    def __call__(self, texts: Sequence[str]) -> list[str]:
        """The model's reply to each text. ValueError for a text over `limit`."""
        key = jax.random.fold_in(self._key, self._calls)
        self._calls += 1
        arrays = tokenise_prompts(self._context, texts, least=self._slot, longest=self._longest)
        found = over_batches(
            self._context,
            arrays,
            self._size,
            lambda rows, key: self._reply(self._params, rows, key, self._sampling),
            key,
            quiet,
        )
        return self._context.texts(found.tokens_BT[0])

    @property
    def limit(self) -> int:
        """The largest `count` of a text that the model can be asked."""
        return self._limit

    def count(self, text: str) -> int:
        """Tokens that the model draws to write a text: its own and EOS."""
        return len(self._context.data.template.response(text)) + 1
