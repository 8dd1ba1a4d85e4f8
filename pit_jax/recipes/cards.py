"""README.md of an exported model: what it does, code that asks it as it was trained, what it was made from."""

import json
from collections.abc import Sequence

from pit_jax.data.text.templates import IMPROVE_WORDS, REFERENCE_WORDS, improver_messages
from pit_jax.data.text.tokenizers import ANSWER, IMPROVE, REFERENCE, Tokenizer
from pit_jax.evaluation.results import ComparisonRow, Results, read_results
from pit_jax.run.context import Context
from pit_jax.run.provenance import StageId

ROLES = {
    "policy": "answers a prompt",
    "improver": "rewrites an answer to a prompt into a better one",
    "reward": "scores an answer to a prompt",
    "gap": "scores by how much an answer is better than a reference answer to the same prompt, up to a constant",
}
SCORES = ("reward", "gap")
WITH_REFERENCE = ("improver", "gap")


def card(context: Context, name: str, *, stage: StageId, base: str, adapters: bool) -> str:
    """README.md of the model `name` of a stage, trained from `base`; `adapters` = in PEFT's format."""
    tokenizer = context.data.tokenizer
    lines = [
        f"# {name}",
        "",
        f"{ROLES[name].capitalize()}. Trained with pit_jax (PIT, arXiv 2310.00898) from {base}.",
        "",
        "```python",
        *code(tokenizer, name, adapters=adapters, most_tokens=context.config.data.response_length),
        "```",
        "",
        *_notes(tokenizer, name),
        "",
        "```text",
        _row(context, name),
        "```",
        "",
        "Made from (hashes of config, data and parents):",
        "",
        "```json",
        json.dumps(context.folder_of(stage).lineage(), indent=1, sort_keys=True),
        "```",
    ]
    results = read_results(context.folder_of(StageId("evaluate")).path / "results.json", Results)
    if results is not None:
        lines += ["", *_table(results.rows)]
    return "\n".join(lines) + "\n"


def code(tokenizer: Tokenizer, name: str, *, adapters: bool, most_tokens: int) -> list[str]:
    """Lines of Python, in transformers and torch alone, that ask the model in the folder where they run."""
    task = "SequenceClassification" if name in SCORES else "CausalLM"
    kind = f"{'AutoPeftModelFor' if adapters else 'AutoModelFor'}{task}"
    imports = [f"from {'peft' if adapters else 'transformers'} import {kind}", "from transformers import AutoTokenizer"]
    lines = [
        "import torch",
        *(imports if adapters else [f"{imports[0]}, AutoTokenizer"]),
        "",
        'folder, prompt = ".", "What is a kind way to say no?"',
        *(['reference = "No."'] if name in WITH_REFERENCE else []),
        f"tokenizer, model = AutoTokenizer.from_pretrained(folder), {kind}.from_pretrained(folder)",
        *_asking(tokenizer, name),
    ]
    if name not in SCORES:
        return [
            *lines,
            f"drawn = model.generate(input_ids=torch.tensor([ids]), max_new_tokens={most_tokens}, do_sample=False)",
            "print(tokenizer.decode(drawn[0, len(ids) :], skip_special_tokens=True))",
        ]
    end = tokenizer.backend.id_to_token(tokenizer.eos_id)
    answer, before = "answer", ""
    if tokenizer.texts is not tokenizer.backend:  # the template ends in a line break: no space comes behind it
        answer, before = '"\\n" + answer', '[len(tokenizer.encode("\\n", add_special_tokens=False)) :]'
    return [
        *lines,
        "",
        "def score(answer):",
        f"    row = ids + tokenizer.encode({answer}, add_special_tokens=False){before}",
        f"    row.append(tokenizer.convert_tokens_to_ids({end!r}))  # the score is read there",
        "    return model(input_ids=torch.tensor([row])).logits[0, 0].item()  # of one label",
        "",
        f'print(score("Thank you, but I can\'t."){" - score(reference)" if name == "gap" else ""})',
    ]


def _asking(tokenizer: Tokenizer, name: str) -> list[str]:
    """Lines that make `ids`, all that stands before the answer."""
    if tokenizer.chat is None:
        named = {"{prompt}": "prompt", "{reference}": "reference"}
        pieces = ", ".join(named.get(piece, repr(piece)) for piece in _pieces(tokenizer, name))
        return [
            f"pieces = [{pieces}]",
            "ids = [number for piece in pieces for number in tokenizer.encode(piece, add_special_tokens=False)]",
        ]
    words = f" + {REFERENCE_WORDS!r} + reference + {IMPROVE_WORDS!r}" if name in WITH_REFERENCE else ""
    return [
        f'messages = [{{"role": "user", "content": prompt{words}}}]',
        "ids = tokenizer.apply_chat_template(messages, add_generation_prompt=True, return_dict=False)",
    ]


def _pieces(tokenizer: Tokenizer, name: str) -> list[str]:
    """What stands before the answer where there is no chat template, each piece tokenised on its own."""
    bos = [] if tokenizer.bos_id is None else [tokenizer.backend.id_to_token(tokenizer.bos_id)]
    if name in WITH_REFERENCE:
        return [*bos, "{prompt}", REFERENCE, "{reference}", IMPROVE]
    return [*bos, "{prompt}", ANSWER]


def _notes(tokenizer: Tokenizer, name: str) -> list[str]:
    """What the code does not say."""
    end = tokenizer.backend.id_to_token(tokenizer.eos_id)
    notes = f"An answer ends with {end}, which counts as a token of it."
    if tokenizer.chat is not None:
        notes += " Earlier turns are earlier messages."
    if name in SCORES:
        notes += (
            f" Rows of a batch are padded with {tokenizer.backend.id_to_token(tokenizer.pad_id)}, under an attention "
            "mask. Scores of one prompt can be compared, those of two cannot"
        )
        notes += ": a copy of the reference earns 0." if name == "gap" else "."
    return [f"{notes} What the model sees before an answer:"]


def _row(context: Context, name: str) -> str:
    """Prompt and reference in the words around them."""
    tokenizer = context.data.tokenizer
    if tokenizer.chat is None:
        return "".join(_pieces(tokenizer, name))
    messages = [("user", "{prompt}")]
    ((_, content),) = improver_messages(messages, "{reference}") if name in WITH_REFERENCE else messages
    return str(tokenizer.backend.decode(context.data.template.policy_prompt(content), skip_special_tokens=False))


def _table(rows: Sequence[ComparisonRow]) -> list[str]:
    """The comparisons of --stage=evaluate in Markdown."""
    lines = [
        f"| {row.temperature:g} | {row.judge} | {row.systems} | {row.delta:+.1f} "
        f"| {row.low:+.1f} to {row.high:+.1f} | {row.n} |"
        for row in rows
    ]
    head = "| temperature | judge | systems | win - lose, points | 95% interval | n |"
    return [head, "| --- | --- | --- | --- | --- | --- |", *lines]
