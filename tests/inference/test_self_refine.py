"""Self-Refine with a scripted model: who is asked what, who stops when, what is counted, and what does not fit."""

import ast
from collections.abc import Sequence
from fnmatch import fnmatch
from pathlib import Path
from string import Template

import pytest

from pit_jax.errors import UserError
from pit_jax.inference.self_refine import (
    PLACEHOLDERS,
    PROMPTS,
    Refined,
    Wording,
    load_wording,
    reflect,
    self_refine,
    total_score,
)

SHORT = Wording(
    feedback=Template("REVIEW $prompt / $answer"),
    refine=Template("REFINE $prompt : $history"),
    history=Template("[$round $answer | $feedback]"),
    one_line=Template("REFLECT $prompt / $answer"),
)
PLENTY = 10_000


class Script:
    """A model that reads its prompt: it counts up the answer it is shown, and is content with an answer at `content`.

    Answers are like a2: the prompt's letter and a number. Remembers every batch of prompts.
    """

    def __init__(self, content: dict[str, int]):
        self.content, self.batches = content, list[list[str]]()

    def __call__(self, texts: Sequence[str]) -> list[str]:
        self.batches.append(list(texts))
        return [self.reply(text) for text in texts]

    def reply(self, text: str) -> str:
        kind, letter = text.split()[:2]
        if kind == "REVIEW":
            good = int(text.split()[-1][1:]) >= self.content.get(letter, PLENTY)
            return f"Fluent: {3 if good else 1}/3. Total score: {30 if good else 12}/30"
        shown = text.split("[")[-1].split()[1] if kind == "REFINE" else text.split()[-1]
        return f"{letter}{int(shown[1:]) + 1}"


def words(text: str) -> int:
    return len(text.split())


def refine(script: Script, letters: str, *, limit: int = PLENTY, rounds: int = 4) -> list[Refined]:
    originals = [f"{letter}0" for letter in letters]
    return self_refine(list(letters), originals, script, words, limit=limit, wording=SHORT, rounds=rounds)


def test_prompts_stop_at_different_rounds_in_one_batch() -> None:
    """a is content at once, b after two rewrites, c never: 4 rounds. Only live prompts are asked."""
    script = Script({"a": 0, "b": 2})
    rows = refine(script, "abc")
    assert [row.answers for row in rows] == [["a0"], ["b0", "b1", "b2"], ["c0", "c1", "c2", "c3", "c4"]]
    assert [len(row.reviews) for row in rows] == [1, 3, 4]
    assert [row.stopped for row in rows] == ["score", "score", "rounds"]
    assert [len(batch) for batch in script.batches] == [3, 2, 2, 2, 2, 1, 1, 1]
    assert script.batches[0] == ["REVIEW a / a0", "REVIEW b / b0", "REVIEW c / c0"]


def test_the_history_is_kept() -> None:
    review = "Fluent: 1/3. Total score: 12/30"
    script = Script({})
    refine(script, "a", rounds=2)
    assert script.batches[3] == [f"REFINE a : [0 a0 | {review}]\n\n[1 a1 | {review}]"]


def test_tokens_are_those_written() -> None:
    """Answers are one word, reviews five: c writes y_0, four reviews and four rewrites; a writes y_0 and one review."""
    rows = refine(Script({"a": 0}), "ac")
    assert [row.tokens for row in rows] == [1 + 5, 1 + 4 * 5 + 4 * 1]


def test_rows_do_not_depend_on_their_neighbours() -> None:
    together = refine(Script({"a": 0, "b": 2}), "abc")
    alone = [refine(Script({"a": 0, "b": 2}), letter)[0] for letter in "abc"]
    assert together == alone and refine(Script({"a": 0, "b": 2}), "cab") == [alone[2], alone[0], alone[1]]


def test_history_is_dropped_oldest_first_and_counted() -> None:
    """A block is 1 + 1 + 1 + 5 = 8 words and the rest 3: 20 words hold two blocks. Rounds 3 and 4 leave out 1 and 2."""
    script = Script({})
    (row,) = refine(script, "a", limit=20)
    asked = [batch[0] for batch in script.batches if batch[0].startswith("REFINE")]
    shown = [[block.split()[0] for block in text.split("[")[1:]] for text in asked]
    assert shown == [["0"], ["0", "1"], ["1", "2"], ["2", "3"]]
    assert all(words(text) <= 20 for text in asked)
    assert row.dropped == 3 and row.answers[-1] == "a4" and row.stopped == "rounds"


@pytest.mark.parametrize(("limit", "reviews", "batches"), [(3, 0, 0), (10, 1, 1)])
def test_a_prompt_that_cannot_fit_keeps_its_answer(limit: int, reviews: int, batches: int) -> None:
    """A feedback prompt has 4 words, the bare refine prompt 11: at 10 there is a review that nothing is done with."""
    script = Script({})
    (row,) = refine(script, "a", limit=limit)
    assert row.answers == ["a0"] and row.stopped == "length" and row.dropped == 0
    assert len(row.reviews) == reviews and len(script.batches) == batches
    assert row.tokens == 1 + 5 * reviews


def test_a_long_neighbour_stops_alone() -> None:
    rows = self_refine(["a", "b"], ["a0", "many " * 20 + "b0"], Script({}), words, limit=11, wording=SHORT, rounds=1)
    assert [(row.stopped, row.answers[-1][-2:]) for row in rows] == [("rounds", "a1"), ("length", "b0")]


def test_the_one_line_form() -> None:
    script = Script({})
    rows = reflect(["a", "b"], ["a0", "b0"], script, words, limit=PLENTY, wording=SHORT, rounds=3)
    assert [row.answers for row in rows] == [["a0", "a1", "a2", "a3"], ["b0", "b1", "b2", "b3"]]
    assert script.batches[1] == ["REFLECT a / a1", "REFLECT b / b1"]
    assert [row.tokens for row in rows] == [4, 4] and not rows[0].reviews
    (row,) = reflect(["a"], ["a0"], script, words, limit=3, wording=SHORT, rounds=3)
    assert row.answers == ["a0"] and row.stopped == "length"


@pytest.mark.parametrize(
    ("review", "expected"),
    [
        ("Total score: 27/30", (27, 30)),
        ("fine.\ntotal Score:  3 / 3 points\nTotal score: 1/30", (3, 3)),
        ("Score: 27/30", None),
        ("Total score: high", None),
        ("", None),
    ],
)
def test_total_scores(review: str, expected: tuple[int, int] | None) -> None:
    assert total_score(review) == expected


@pytest.mark.parametrize(("review", "stopped"), [("Total score: 0/0", "rounds"), ("no score", "rounds")])
def test_only_full_points_stop(review: str, stopped: str) -> None:
    (row,) = self_refine(
        ["a"], ["a0"], lambda texts: [review] * len(texts), words, limit=PLENTY, wording=SHORT, rounds=2
    )
    assert row.stopped == stopped and len(row.answers) == 3


def test_a_model_that_loses_a_prompt_is_refused() -> None:
    with pytest.raises(UserError, match="asked for 2 replies and gave 1"):
        self_refine(["a", "b"], ["", ""], lambda texts: ["x"], words, limit=PLENTY, wording=SHORT)


def test_the_packaged_wording(repository: Path) -> None:
    """It loads, dollar signs of users stay, its example adds up, and setup.py packages every file."""
    wording = load_wording()
    text = wording.feedback.substitute(prompt="what is $5 in euro?", answer="$prompt")
    assert "what is $5 in euro?" in text and text.count("$prompt") == 1
    card = [line for line in text.splitlines() if "/3, " in line]
    assert len(card) == 10
    assert total_score(text) == (sum(int(line.split(": ")[1][0]) for line in card), 30)
    history = wording.history.substitute(round=0, answer="A", feedback="F")
    assert all(word in wording.refine.substitute(prompt="P", history=history) for word in ("P", "A", "F"))
    tree = ast.parse((repository / "setup.py").read_text())
    (package_data,) = (n.value for n in ast.walk(tree) if isinstance(n, ast.keyword) and n.arg == "package_data")
    patterns = ast.literal_eval(package_data)["pit_jax.inference"]
    files = [f"{PROMPTS.name}/{path.name}" for path in PROMPTS.iterdir()]
    assert len(files) == len(PLACEHOLDERS) and all(any(fnmatch(file, p) for p in patterns) for file in files)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (
            None,
            r"history\.txt: no such file; the wording needs feedback\.txt, refine\.txt, history\.txt, one_line\.txt",
        ),
        (
            "$answer $feedback",
            r"history\.txt: asked for the placeholders \$answer, \$feedback, \$round, found \$answer",
        ),
        ("$round $answer $feedback $prompt", r"found \$answer, \$feedback, \$prompt, \$round"),
        ("nothing", "found none"),
        ("$round $answer $feedback for $5", r"found a \$ that begins no placeholder; write \$\$"),
    ],
)
def test_wording_that_does_not_serve(tmp_path: Path, content: str | None, message: str) -> None:
    for path in PROMPTS.iterdir():
        (tmp_path / path.name).write_text(path.read_text())
    (tmp_path / "history.txt").unlink()
    if content is not None:
        (tmp_path / "history.txt").write_text(content)
    with pytest.raises(UserError, match=message):
        load_wording(tmp_path)
