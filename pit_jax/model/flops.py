"""What a pass through the transformer costs: tokens and floating-point operations, from shapes alone.

A multiplication and an addition are two operations. Per token, with the dimension key of pit_jax/batch.py:

    block(S)  = 2 (2 D N H + 2 D K H + 3 D F) + 4 N H S     query, out, key, value, feed-forward; scores and mixing
                                                             (2 D F where the feed-forward has no gate; of experts
                                                             those that a token takes, and their router, D E)
    trunk(S)  = U block(S)                                   over S slots, masked ones too: they are computed
    logits    = 2 D V                                        only at the slots that get logits
    head(S)   = 2 D, with a pooled head 4 D + 2 S            at every slot of a scalar model
    tree      = U block over each node's branch              where the nodes of a gap tree have slots
    training  = 3 forward                                    the backward pass takes each product's two gradients

Only matrix products count (norms, rotations, softmax and the optimizer are a few percent), recomputation under remat
does not, and padding does: this is what is computed, not what would be needed.
Training adapters is counted as training all weights is, which is up to half as much again as it computes.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from pit_jax.architecture import TransformerConfig
from pit_jax.batch import TreeSlots
from pit_jax.model.mixing import CHUNK


@dataclass(frozen=True)
class Work:
    """Tokens that pass through a network, each pass counted, and the operations of those passes."""

    tokens: float = 0.0
    flops: float = 0.0

    def __add__(self, other: "Work") -> "Work":
        return Work(self.tokens + other.tokens, self.flops + other.flops)

    def __rmul__(self, times: float) -> "Work":
        return Work(times * self.tokens, times * self.flops)

    def trained(self) -> "Work":
        """The same passes forward and backward."""
        return Work(self.tokens, 3.0 * self.flops)


@dataclass(frozen=True)
class Passes:
    """The work of one row through the decoder, as a language model or under a scalar head.

    By hand, D = 4, U = 2, N = 2, K = 1, H = 2, F = 6, V = 10: block(S) = 2 (2 * 16 + 2 * 8 + 3 * 24) + 16 S
    = 240 + 16 S, trunk(5) = 2 * 320 = 640, logits = 80, head = 8. `read(5, logits=3)` is 5 * 640 + 3 * 80 = 3,440,
    `score(5)` is 5 * (640 + 8) = 3,240, and `draw(3, 2, 1)` is (3 + 1) * 640 + (1 + 1) * 80 = 2,720.
    """

    shape: TransformerConfig
    vocab_size: int

    def trunk(self, slots: int) -> float:
        """Operations of one token in all layers, attending over `slots`."""
        shape = self.shape
        inner = shape.query_heads * shape.head_size
        keys = shape.kv_heads * shape.head_size
        gated = shape.activation != "gelu"
        fed = (2 + gated) * shape.width * shape.ffn
        if shape.experts:
            fed = shape.experts_per_token * fed + shape.width * shape.experts
        matrices = 2 * shape.width * (inner + keys) + fed
        return float(shape.layers * (2 * matrices + 4 * inner * slots))

    def logits(self) -> float:
        """Operations of one slot's logits."""
        return 2.0 * self.shape.width * self.vocab_size

    def read(self, length: int, *, logits: int) -> Work:
        """A row of `length` through the language model, with logits at `logits` of its slots."""
        return Work(length, length * self.trunk(length) + logits * self.logits())

    def score(self, length: int) -> Work:
        """A row of `length` through a reward, gap or value model."""
        width = self.shape.width
        head = 4 * width + 2 * length if self.shape.pooled_head else 2 * width
        return Work(length, length * (self.trunk(length) + head))

    def tree(self, most: TreeSlots, length: int) -> Work:
        """A row of a gap tree through the gap model: of `length`, or with slots for its nodes where that costs less."""
        slots = slots_that_pay(self.shape, most, length)
        return self.score(length) if slots is None else self.by_slots(slots)

    def by_slots(self, slots: TreeSlots) -> Work:
        """A row of a gap tree whose nodes have slots."""
        trunk, reference, candidate = slots
        behind, length = trunk + reference, trunk + 2 * reference + 4 * candidate
        scores = trunk**2 + 2 * reference * behind + 4 * candidate * (behind + candidate)
        unmixed = length * self.trunk(0) + self.score(length).flops - length * self.trunk(length)
        return Work(length, unmixed + scores * (self.trunk(1) - self.trunk(0)))

    def draw(self, prompt: int, slot: int, tokens: float) -> Work:
        """Prefill a prompt slot, which attends to itself, then decode `tokens` over a cache with room for `slot` more.

        Logits are made at the end of the prompt and after every token, the last one too.
        """
        passes = prompt * self.trunk(prompt) + tokens * self.trunk(prompt + slot)
        return Work(prompt + tokens, passes + (1 + tokens) * self.logits())


def slots_that_pay(config: TransformerConfig, most: TreeSlots, length: int) -> TreeSlots | None:
    """Slots for the nodes of rows of `length`, where that costs less and none is too long to be mixed at once.

    most: the most tokens of the nodes of any row; one of `length` holds every answer three times.
    """
    slots = TreeSlots(min(most.trunk, length), min(most.reference, length), min(most.candidate, length // 2))
    passes = Passes(config, vocab_size=0)
    pay = max(slots) <= CHUNK and passes.by_slots(slots).flops < passes.score(length).flops
    return slots if pay and config.attention not in ("dense", "chunks") else None


@dataclass(frozen=True)
class Draws:
    """Replies that one final answer takes, on average over the prompts: how many of them, their tokens in all, and the
    slots of the prompt they are drawn from."""

    replies: float
    tokens: float
    prompt: int


def answer_cost(passes: Passes, draws: Sequence[Draws], *, slot: int, scored: Work | None = None) -> Work:
    """Operations of one answer and the tokens drawn for it, in replies that fill `slot` at most; `scored` on top.

    An answer alone: no slot is counted in which a finished row waits for others of its batch. Of "PIT x2" with answers
    of 24 tokens, draws = [Draws(1, 24, P), Draws(2, 48, P + T + suffix)]; of "best of 2" Draws(2, 48, P), and scored =
    2 * passes.score(P + T).
    """
    total = scored or Work()
    for each in draws:
        total += each.replies * passes.draw(each.prompt, slot, each.tokens / each.replies)
    return Work(sum(each.tokens for each in draws), total.flops)
