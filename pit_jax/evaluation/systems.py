"""Systems that answer, as values, and what one of them answered to a list of prompts."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np

from pit_jax.batch import Answer
from pit_jax.evaluation.texts import copy_rate, edit_distances

Kind = Literal[
    "policy",
    "policy-sft",
    "pit",
    "sft-improver",
    "branch-improver",
    "branch-policy",
    "dpo",
    "dpo-seed",
    "spa",
    "best-of-n",
    "self-refine",
    "one-line",
    "chosen",
    "given",
    "control",
]
LABELS: dict[str, str] = {
    "policy": "policy",
    "policy-sft": "policy SFT",
    "pit": "PIT x{round}",
    "sft-improver": "SFT improver x{round}",
    "branch-improver": "{source} x{round}",
    "branch-policy": "{source}",
    "dpo": "DPO",
    "dpo-seed": "DPO on the seed",
    "spa": "SPA x{round}",
    "best-of-n": "best of {round}",
    "self-refine": "Self-Refine x{round}",
    "one-line": "one-line",
    "chosen": "chosen",
    "given": "given",
    "control": "{source}",
}


@dataclass(frozen=True, order=True)
class SystemId:
    """One system: what answers, after how many rounds (of best-of-n: n), and which branch or control it is."""

    kind: Kind
    round: int = 0
    source: str = ""

    def __str__(self) -> str:
        """For people: PIT x1."""
        return LABELS[self.kind].format(round=self.round, source=self.source)

    @property
    def stem(self) -> str:
        """In names of files: pit-x1."""
        parts = [self.kind, self.source, f"x{self.round}" if self.round else ""]
        return "-".join(part for part in parts if part)

    @property
    def trail(self) -> "SystemId":
        """The system whose file holds its answers: that of all rounds."""
        return SystemId(self.kind, 0, self.source)

    @property
    def improves(self) -> bool:
        """Whether it rewrites an answer that it is given."""
        return self.kind in ("pit", "sft-improver", "branch-improver")

    @property
    def prompted(self) -> bool:
        """Whether it is a policy that is prompted to improve, and so reads and writes more than one reply."""
        return self.kind in ("self-refine", "one-line")


POLICY, POLICY_SFT, CHOSEN, DPO = (SystemId(kind) for kind in ("policy", "policy-sft", "chosen", "dpo"))
DPO_SEED = SystemId("dpo-seed")
SFT_IMPROVER = SystemId("sft-improver", 1)


def pit(round: int) -> SystemId:
    return SystemId("pit", round)


def spa(iteration: int) -> SystemId:
    return SystemId("spa", iteration)


@dataclass(frozen=True)
class Output:
    """What one system answered to N prompts at one temperature."""

    answers: Sequence[Answer]
    keys: Sequence[str]  # names each answer by all that it was drawn from
    drawn_N: np.ndarray  # tokens drawn for it, those of drafts and reviews included
    replies: float = 1.0  # how many they make, on average over the prompts
    reference: "Output | None" = None  # the answers that these were made from

    @property
    def texts(self) -> list[str]:
        return [answer.text for answer in self.answers]

    @property
    def lengths_N(self) -> np.ndarray:
        """Tokens of each answer, EOS included."""
        return np.asarray([len(answer.ids) for answer in self.answers])

    @property
    def ended_N(self) -> np.ndarray:
        """Whether each ended by itself."""
        return np.asarray([answer.ended for answer in self.answers])


@dataclass(frozen=True)
class SystemRow:
    """Measures of one system's answers. Copies and edits are those of the answer that was improved."""

    system: SystemId
    name: str
    temperature: float
    length_mean: float
    tokens_mean: float
    eos_rate: float
    copy_rate: float | None
    edit_distance: float | None
    score_mean: float | None
    score_std: float | None


def describe(system: SystemId, temperature: float, output: Output, scores_N: np.ndarray | None) -> SystemRow:
    """One row of the systems table; `scores_N` are the true scores, where a truth is known."""
    before = output.reference
    return SystemRow(
        system=system,
        name=str(system),
        temperature=temperature,
        length_mean=float(output.lengths_N.mean()),
        tokens_mean=float(output.drawn_N.mean()),
        eos_rate=float(output.ended_N.mean()),
        copy_rate=None if before is None else copy_rate(output.texts, before.texts),
        edit_distance=None if before is None else float(edit_distances(output.texts, before.texts).mean()),
        score_mean=None if scores_N is None else float(scores_N.mean()),
        score_std=None if scores_N is None else float(scores_N.std()),
    )
