"""The curves of the report, one section per part of the recipe: a title, what to look for, a figure, a small table."""

import re
from collections.abc import Sequence
from dataclasses import dataclass, field

from pit_jax.files import Row
from pit_jax.report import figures, records
from pit_jax.report.figures import COLORS, Line, Mark, Panel
from pit_jax.run.provenance import StageId

GAP_ACCURACIES = {
    "gap/acc_wl_ww": "wl > ww",
    "gap/acc_wl_ll": "wl > ll",
    "gap/acc_wl_lw": "wl > lw",
    "gap/acc_ww_lw": "ww > lw",
    "gap/acc_ll_lw": "ll > lw",
}
COMBINATIONS = {
    "wl": "wl: chosen over rejected",
    "ww": "ww: chosen over itself",
    "ll": "ll: rejected over itself",
    "lw": "lw: rejected over chosen",
}


@dataclass(frozen=True)
class Section:
    """Without a figure, `stage` are the flags of the run that writes `files`, which the section would show.

    `gates` are rows of gap_quality.Gate; `splits` are groups of rows with a label, pairs, accuracy and expected.
    """

    title: str
    note: str
    stage: str
    files: str
    svg: str = ""
    table: list[tuple[str, float | None]] = field(default_factory=list)
    gates: list[Row] = field(default_factory=list)
    splits: list[tuple[str, list[Row]]] = field(default_factory=list)


def _line(label: str, rows: Sequence[Row], name: str, color: str, *, phase: str = "eval") -> Line | None:
    steps, values = records.curve(list(rows), phase, name)
    return Line(label, steps, values, color, faint=phase == "train", dots=phase == "eval") if steps else None


def _panel(title: str, *lines: Line | None) -> Panel | None:
    kept = [line for line in lines if line is not None]
    return Panel(title, kept) if kept else None


def _figure(panels: Sequence[Panel | None], *, xlabel: str, marks: Sequence[Mark] = ()) -> str:
    """The panels that have a line, drawn; empty when none has."""
    kept = [panel for panel in panels if panel is not None]
    return figures.curves(kept, xlabel=xlabel, marks=marks) if kept else ""


def reinforcement(model: str, rows: list[Row], done: Row | None) -> Section:
    """Proxy, truth, KL and what the monitors watch over the rounds of RL, on held-out prompts.

    Dashed: a new phase of the curriculum, a monitor over its limit, the selected checkpoint. `done` is the marker of a
    finished stage; its `round` is that of the selected checkpoint, its `monitors` are those of rl/monitors.py.
    """
    proxy = "gap" if model == "improver" else "reward"
    trained = [row for row in rows if row["phase"] == "train"]
    marks = [
        Mark(row["step"], f"references: {'+'.join(_names(_providers([row])))}")
        for before, row in zip(trained, trained[1:], strict=False)
        if row["curriculum/phase"] != before["curriculum/phase"]
    ]
    over = (done or {}).get("monitors", [])
    marks += [Mark(monitor["round"], f"monitor: {monitor['name']}") for monitor in over]
    if done is not None:
        marks.append(Mark(done["round"], "selected"))
    panels = [
        _panel(
            f"proxy: the {proxy} that RL maximises",
            _line("proxy", rows, "objective/scores", COLORS[0]),
            _line("second gap model", rows, "second-gap/scores", COLORS[3]),
        ),
        _panel("truth: the hidden score of the answers", _line("truth", rows, "truth/score", COLORS[2])),
        _panel("KL to the SFT model, nats a response", _line("KL", rows, "objective/kl", COLORS[1])),
        _panel("entropy, nats a token", _line("entropy", rows, "objective/entropy", COLORS[4])),
        _panel("share of n-grams that a response repeats", _line("repetition", rows, "val/repetition", COLORS[3])),
        _panel(
            "share that ends, and that copies its reference" if model == "improver" else "share that ends",
            _line("end", rows, "val/eos_rate", COLORS[5]),
            _line("copy", rows, "val/copy_rate", COLORS[4]) if model == "improver" else None,
        ),
        _panel(
            "share of rollouts that beat their reference, by where it came from",
            *(
                _line(label, rows, name, color, phase="train")
                for label, name, color in zip(_names(_providers(rows)), _providers(rows), COLORS, strict=False)
            ),
        ),
    ]
    truth = (
        ""
        if records.curve(rows, "eval", "truth/score")[0]
        else " This data has no known truth, so there is no such curve."
    )
    note = f"Proxy and truth must rise together. A proxy that rises while the truth falls is over-optimisation.{truth}"
    note += "".join(f" {_told(monitor)}" for monitor in over)
    note += f" Ended early: {ended}." if (ended := (done or {}).get("ended")) else ""
    svg = _figure(panels, xlabel="round", marks=marks)
    where = f"--stage=rl --model={model}", f"rl-{model}/metrics.jsonl"
    return Section(f"RL of the {model}", note if svg else "", *where, svg=svg)


def _told(monitor: Row) -> str:
    numbers = f"{monitor['figure']:.3g}, limit {monitor['limit']:.3g}"
    return f"Monitor {monitor['name']} at round {monitor['round']}: {numbers} ({monitor['meaning']})."


def _providers(rows: Sequence[Row]) -> list[str]:
    """Metrics with the success share of each of the curriculum's references, in the order in which they were met."""
    return list(dict.fromkeys(name for row in rows for name in row if re.fullmatch(r"curriculum/.+/success", name)))


def _names(metrics: Sequence[str]) -> list[str]:
    """curriculum/policy-rl/success -> policy-rl."""
    return [metric.split("/")[1] for metric in metrics]


def gaps(values: dict[str, list[float]] | None, rows: list[Row], quality: Row | None, outputs: Row | None) -> Section:
    """Distributions of the four (candidate, reference) combinations, the five accuracies and the gates.

    `quality` is rm-improver/quality.json; `outputs` are the sets of evaluate/gap_outputs.json, the same on what the
    models write.
    """
    title = "The gap model on held-out pairs"
    where = "--stage=rm --model=improver", "rm-improver/gaps.json"
    if values is None:
        return Section(title, "", *where)
    table = [(label, records.latest(rows, name)) for name, label in GAP_ACCURACIES.items()]
    groups = {label: values[name] for name, label in COMBINATIONS.items() if name in values}
    note = "Two letters name a combination: candidate, then reference. Expected order: wl, then ww and ll, then lw."
    svg = figures.distributions(groups, xlabel="gap of the candidate over the reference, not centred")
    gates = quality["gates"] if quality else []
    splits = _splits(quality["quality"]) if quality else []
    if outputs:
        splits.append(("on outputs", [_output(*named) for named in outputs.items()]))
    return Section(title, note, *where, svg=svg, table=table if rows else [], gates=gates, splits=splits)


def _splits(quality: Row) -> list[tuple[str, list[Row]]]:
    """Where the preference is right: rows of label, pairs, accuracy and the accuracy that the model expects."""
    named = {"by how sure it is": "by_confidence", "by length": "by_length", "by the true difference": "by_truth"}
    return [(f"held-out pairs {name}", quality[key]) for name, key in named.items() if quality[key]]


def _output(name: str, figures: Row) -> Row:
    """A row for one set of outputs: over the pairs that differ in truth, or over all without one."""
    known = figures["quality"]
    sure = [b["pairs"] * b["expected"] for b in known["by_confidence"]] if known else []
    return {
        "label": f"{name} (antisymmetry {figures['agreement']['antisymmetry']:.2f})",
        "pairs": known["pairs"] if known else figures["pairs"],
        "accuracy": known["accuracies"]["wl_lw"] if known else None,
        "expected": sum(sure) / known["pairs"] if known else None,
    }


def reward_models(policy: list[Row], improver: list[Row], words: Row | None = None) -> Section:
    """Losses and accuracies of the reward model and the gap model; `words` is the done marker of a word model."""
    accuracies = [
        _line(label, improver, name, color)
        for color, (name, label) in zip(COLORS, GAP_ACCURACIES.items(), strict=False)
    ]
    panels = [
        _panel(
            "reward model: Bradley-Terry loss",
            _line("training", policy, "loss", COLORS[0], phase="train"),
            _line("held-out", policy, "loss", COLORS[1]),
        ),
        _panel("reward model: held-out accuracy", _line("accuracy", policy, "accuracy", COLORS[0])),
        _panel(
            "gap model: five-term loss",
            _line("training", improver, "loss", COLORS[0], phase="train"),
            _line("held-out", improver, "loss", COLORS[1]),
        ),
        _panel("gap model: held-out accuracies", *accuracies),
    ]
    where = "--stage=rm", "rm-policy/metrics.jsonl and rm-improver/metrics.jsonl"
    note = words and (
        f"Beside both counts a word model, fitted to {words['read']:,} pairs: right on {words['right']:.1%} of "
        f"{words['heldout']:,} held-out ones, where {words['share']:.2f} of its log-odds hold: so much of it counts."
    )
    return Section("Reward models", note or "", *where, svg=_figure(panels, xlabel="update"))


def fine_tuning(policy: list[Row], improver: list[Row]) -> Section:
    """Losses of the two supervised stages."""
    panels = [
        _panel(
            f"{name}: loss a token",
            _line("training", rows, "loss", COLORS[0], phase="train"),
            _line("held-out", rows, "loss", COLORS[1]),
        )
        for name, rows in (("policy", policy), ("improver", improver))
    ]
    where = "--stage=sft", "sft-policy/metrics.jsonl and sft-improver/metrics.jsonl"
    return Section("Supervised fine-tuning", "", *where, svg=_figure(panels, xlabel="update"))


def training(id: StageId, metrics: Sequence[str], rows: list[Row]) -> Section:
    """Loss and the named held-out metrics of a stage that has no section of its own."""
    panels = [
        _panel(
            "loss",
            _line("training", rows, "loss", COLORS[0], phase="train"),
            _line("held-out", rows, "loss", COLORS[1]),
        ),
        *(_panel(f"held-out {metric}", _line(metric, rows, metric, COLORS[2])) for metric in metrics),
    ]
    return Section(str(id), "", id.flags, f"{id}/metrics.jsonl", svg=_figure(panels, xlabel="update"))
