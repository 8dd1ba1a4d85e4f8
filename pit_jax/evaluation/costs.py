"""What training a stage and giving one answer cost: tokens and floating-point operations, from shapes alone.

A multiplication and an addition are two operations. Per token, with the dimension key of pit_jax/batch.py:

    block(S)  = 2 (2 D N H + 2 D K H + 3 D F) + 4 N H S     query, out, key, value, feed-forward; scores and mixing
                                                             (2 D F where the feed-forward has no gate)
    trunk(S)  = U block(S)                                   over S slots, masked ones too: they are computed
    logits    = 2 D V                                        only at the slots that get logits
    head(S)   = 2 D, with a pooled head 4 D + 2 S            at every slot of a scalar model
    training  = 3 forward                                    the backward pass takes each product's two gradients

Only matrix products count (norms, rotations, softmax and the optimizer are a few percent), recomputation under remat
does not, and padding does: this is what a stage computes, not what it would need.
Training adapters is counted as training all weights is, which is up to half as much again as it computes.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol


class Shape(Protocol):
    """transformer.*; see pit_jax/config.py."""

    @property
    def width(self) -> int: ...
    @property
    def layers(self) -> int: ...
    @property
    def query_heads(self) -> int: ...
    @property
    def kv_heads(self) -> int: ...
    @property
    def head_size(self) -> int: ...
    @property
    def ffn(self) -> int: ...
    @property
    def activation(self) -> str: ...
    @property
    def pooled_head(self) -> bool: ...


class Steps(Protocol):
    """sft.*."""

    @property
    def policy_steps(self) -> int: ...
    @property
    def improver_steps(self) -> int: ...
    @property
    def batch_size(self) -> int: ...


class RewardSteps(Steps, Protocol):
    """rm.*."""

    @property
    def guard_steps(self) -> int: ...


class Curriculum(Protocol):
    """rl.curriculum.*."""

    @property
    def references(self) -> tuple[str, ...]: ...
    @property
    def rounds(self) -> tuple[int, ...]: ...


class Rl(Protocol):
    """rl.*."""

    @property
    def policy_rounds(self) -> int: ...
    @property
    def curriculum(self) -> Curriculum: ...
    @property
    def batch_size(self) -> int: ...
    @property
    def epochs(self) -> int: ...
    @property
    def reward(self) -> str: ...
    @property
    def center_gap(self) -> bool: ...


class Run(Protocol):
    """The knobs of a run that decide what its training computes."""

    @property
    def transformer(self) -> Shape: ...
    @property
    def sft(self) -> Steps: ...
    @property
    def rm(self) -> RewardSteps: ...
    @property
    def rl(self) -> Rl: ...


@dataclass(frozen=True)
class Work:
    """Tokens that pass through a network, each pass counted, and the operations of those passes."""

    tokens: float
    flops: float

    def __add__(self, other: "Work") -> "Work":
        return Work(self.tokens + other.tokens, self.flops + other.flops)

    def __rmul__(self, times: float) -> "Work":
        return Work(times * self.tokens, times * self.flops)

    def trained(self) -> "Work":
        """The same passes forward and backward."""
        return Work(self.tokens, 3.0 * self.flops)


NOTHING = Work(0.0, 0.0)


@dataclass(frozen=True)
class Network:
    """The work of one row through the decoder, as a language model or under a scalar head.

    By hand, D = 4, U = 2, N = 2, K = 1, H = 2, F = 6, V = 10: block(S) = 2 (2 * 16 + 2 * 8 + 3 * 24) + 16 S
    = 240 + 16 S, trunk(5) = 2 * 320 = 640, logits = 80, head = 8. `read(5, logits=3)` is 5 * 640 + 3 * 80 = 3,440,
    `score(5)` is 5 * (640 + 8) = 3,240, and `draw(3, 2, 1)` is (3 + 1) * 640 + (1 + 1) * 80 = 2,720.
    """

    shape: Shape
    vocab_size: int

    def trunk(self, slots: int) -> float:
        """Operations of one token in all layers, attending over `slots`."""
        shape = self.shape
        inner = shape.query_heads * shape.head_size
        keys = shape.kv_heads * shape.head_size
        gated = shape.activation != "gelu"
        matrices = 2 * shape.width * (inner + keys) + (2 + gated) * shape.width * shape.ffn
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

    def draw(self, prompt: int, slot: int, tokens: float) -> Work:
        """Prefill a prompt slot, then decode `tokens`, over a cache with room for `slot` of them.

        Logits are made at the end of the prompt and after every token, the last one too.
        """
        passed = prompt + tokens
        return Work(passed, passed * self.trunk(prompt + slot) + (1 + tokens) * self.logits())


def training_costs(config: Run, layout: Mapping[str, Any], vocab_size: int) -> dict[str, Work]:
    """The trainings of a run by the name of their folder; held-out evaluations are not counted.

        sft         steps * batch rows, trained, with logits at the answer's slots (T, a few more than the longest)
        rm-policy   steps * batch pairs of two rows, trained;   rm-improver, and a guard's rm-guard: one tree a pair
        rl          rounds * batch * [references + draw + anchor + value + scorer + epochs (policy + value, trained)]

    In RL all T slots are decoded: a batch goes on until its longest answer has ended. The scorer reads twice when the
    gap is centred, twice without the reference for a difference of scores, and a guard as often as it. References drawn
    by a policy are one answer a prompt, those by the improver an answer and its rewrite, and prompts are shared by the
    references of a stage. A round that stops on rl.stop_kl and a run that an alarm ends cost less than is counted here;
    a stage of the curriculum that is over early leaves its rounds to the last, whose references may cost more.

    Args:
        config: knobs of the run.
        layout: `layout` of the data folder's report.json.
        vocab_size: entries of the tokenizer.
    """
    network, lengths, slot = Network(config.transformer, vocab_size), layout["row_lengths"], layout["response_slot"]
    sft, rm, rl = config.sft, config.rm, config.rl
    plain, row = layout["prompt_slot"] + slot, improver_slot(layout) + slot
    scored = 2 * network.score(plain) if rl.reward == "difference" else (1 + rl.center_gap) * network.score(row)
    guard = {"rm-guard": rm.guard_steps * rm.batch_size * network.score(lengths["gap"]).trained()}
    policy_round = _round(network, rl, layout["prompt_slot"], slot, scored=network.score(plain))
    improver_round = _round(network, rl, improver_slot(layout), slot, scored=(1 + (rm.guard_steps > 0)) * scored)
    improver_rl = NOTHING
    for references, rounds in zip(rl.curriculum.references, rl.curriculum.rounds, strict=True):
        improver_rl += rounds * (_references(network, rl, layout, references.split("+")) + improver_round)
    return {
        "sft-policy": sft.policy_steps * sft.batch_size * network.read(lengths["sft-policy"], logits=slot).trained(),
        "rm-policy": rm.policy_steps * rm.batch_size * 2 * network.score(lengths["reward"]).trained(),
        "rl-policy": rl.policy_rounds * policy_round,
        "sft-improver": sft.improver_steps
        * sft.batch_size
        * network.read(lengths["sft-improver"], logits=slot).trained(),
        "rm-improver": rm.improver_steps * rm.batch_size * network.score(lengths["gap"]).trained(),
        **(guard if rm.guard_steps > 0 else {}),
        "rl-improver": improver_rl,
    }


def improver_slot(layout: Mapping[str, Any]) -> int:
    """Slots of prompt(x, y_ref): a prompt's, a response's and the template's suffix."""
    return int(layout["prompt_slot"] + layout["response_slot"] + len(layout["suffix"]))


def _round(network: Network, rl: Rl, prompt: int, slot: int, *, scored: Work) -> Work:
    """One round of PPO without its references; `scored` is what the reward of one row takes."""
    row = prompt + slot
    anchor, scalar = network.read(row, logits=slot), network.score(row)
    update = network.read(row, logits=slot).trained() + scalar.trained()
    return rl.batch_size * (network.draw(prompt, slot, slot) + anchor + scalar + scored + rl.epochs * update)


def _references(network: Network, rl: Rl, layout: Mapping[str, Any], providers: Sequence[str]) -> Work:
    """What the providers of a curriculum stage draw for one round."""
    slot = layout["response_slot"]
    answer = network.draw(layout["prompt_slot"], slot, slot)
    rewrite = network.draw(improver_slot(layout), slot, slot)
    drawn = {
        "rejected": NOTHING,
        "chosen": NOTHING,
        "policy-sft": answer,
        "policy-rl": answer,
        "improver": answer + rewrite,
    }
    total = NOTHING
    for name in providers:
        total += rl.batch_size // len(providers) * drawn[name]
    return total


@dataclass(frozen=True)
class Draws:
    """Replies that one final answer takes, on average over the prompts: how many of them, their tokens in all, and the
    slots of the prompt they are drawn from."""

    replies: float
    tokens: float
    prompt: int


def answer_cost(network: Network, draws: Sequence[Draws], *, slot: int, scored: Work = NOTHING) -> Work:
    """The tokens drawn for one answer, and the operations of prefills, decoding and `scored`.

    An answer alone: no slot is counted in which a finished row waits for others of its batch. Of "PIT x2" with answers
    of 24 tokens, draws = [Draws(1, 24, P), Draws(2, 48, improver_slot(layout))]; of "best of 2" Draws(2, 48, P), and
    scored = 2 * network.score(P + T).
    """
    total = scored
    for each in draws:
        total += each.replies * network.draw(each.prompt, slot, each.tokens / each.replies)
    return Work(sum(each.tokens for each in draws), total.flops)
