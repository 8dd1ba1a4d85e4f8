"""Figures as inline SVG text. Lines and letters take the colour of the page, so they read on light and on dark."""

import io
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

INK = "#010203"  # stands for the text colour of the page
COLORS = ("#3b82f6", "#f59e0b", "#10b981", "#ef4444", "#8b5cf6", "#64748b")
STYLE = {
    "svg.fonttype": "none",
    "svg.hashsalt": "pit_jax",
    "text.parse_math": False,
    "font.family": "sans-serif",
    "font.size": 9.5,
    "axes.titlesize": 10.5,
    "axes.titleweight": "bold",
    "axes.titlelocation": "left",
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "grid.alpha": 0.15,
    "grid.color": INK,
    "legend.frameon": False,
    "legend.fontsize": 8.5,
    **dict.fromkeys(("text.color", "axes.labelcolor", "axes.edgecolor", "xtick.color", "ytick.color"), INK),
}


@dataclass(frozen=True)
class Line:
    """One metric over steps; `faint` draws the raw values thin under their running mean, `dots` marks every value,
    `band` (its lower and its upper edge) is shaded."""

    label: str
    steps: Sequence[int]
    values: Sequence[float]
    color: str
    faint: bool = False
    dots: bool = False
    band: tuple[Sequence[float], Sequence[float]] | None = None


@dataclass(frozen=True)
class Panel:
    """One pair of axes."""

    title: str
    lines: Sequence[Line]


@dataclass(frozen=True)
class Series:
    """Values at places on the x axis, each with the ends of its interval."""

    label: str
    places: Sequence[float]
    values: Sequence[float]
    lows: Sequence[float]
    highs: Sequence[float]
    color: str


@dataclass(frozen=True)
class Repeated:
    """One row of dots: the values of a number that was measured again and again, their mean and its interval."""

    label: str
    values: Sequence[float]
    mean: float
    low: float
    high: float
    color: str


@dataclass(frozen=True)
class Mark:
    """A dashed vertical line through every panel, named in the first."""

    step: float
    label: str


def curves(panels: Sequence[Panel], *, xlabel: str, marks: Sequence[Mark] = ()) -> str:
    """Panels above each other over one shared x axis, as SVG text."""
    with matplotlib.rc_context(STYLE):
        figure = Figure(figsize=(7.2, 0.5 + 1.85 * len(panels)), layout="constrained")
        rows = figure.subplots(len(panels), 1, sharex=True, squeeze=False)
        for axes, panel in zip(rows[:, 0], panels, strict=True):
            _draw(axes, panel)
            for mark in marks:
                axes.axvline(mark.step, color=INK, linestyle=(0, (4, 3)), linewidth=0.9, alpha=0.55)
        for position, mark in enumerate(marks):
            _name(rows[0, 0], mark, lines_down=position)
        rows[-1, 0].xaxis.set_major_locator(MaxNLocator(integer=True, steps=[1, 2, 5, 10]))
        rows[-1, 0].set_xlabel(xlabel)
        return _svg(figure)


def _name(axes: Axes, mark: Mark, *, lines_down: int) -> None:
    """Write a mark's label beside its line, towards the middle of the panel, each mark on a line of its own."""
    left, right = axes.get_xlim()
    after = mark.step <= (left + right) / 2
    offset = (4 if after else -4, -1 - 12 * lines_down)
    transform, side = axes.get_xaxis_transform(), "left" if after else "right"
    axes.annotate(
        mark.label, (mark.step, 1.0), xycoords=transform, xytext=offset, textcoords="offset points", ha=side, va="top"
    )


def _draw(axes: Axes, panel: Panel) -> None:
    for line in panel.lines:
        if line.band is not None:
            axes.fill_between(line.steps, *line.band, color=line.color, alpha=0.2, linewidth=0)
        marker = "o" if line.dots or len(line.steps) == 1 else ""
        if line.faint and len(line.steps) > 20:
            axes.plot(line.steps, line.values, color=line.color, linewidth=0.6, alpha=0.3)
            axes.plot(line.steps, _running_mean(line.values), color=line.color, linewidth=1.6, label=line.label)
        else:
            axes.plot(
                line.steps,
                line.values,
                color=line.color,
                linewidth=1.6,
                label=line.label,
                marker=marker,
                markersize=3.5,
            )
    axes.set_title(panel.title)
    if len(panel.lines) > 1:
        axes.legend(loc="center left", bbox_to_anchor=(1.0, 0.5))
    axes.margins(x=0.01)


def _running_mean(values: Sequence[float]) -> np.ndarray:
    """Mean over a centred window of a twentieth of the curve, shorter at its ends."""
    half = max(1, len(values) // 40)
    return np.array([np.mean(values[max(0, i - half) : i + half + 1]) for i in range(len(values))])


def error_bars(panels: Mapping[str, Sequence[Series]], *, xlabel: str, ylabel: str) -> str:
    """Panels by title, above each other, of values with their intervals and a line at 0, as SVG text.

    The series of a panel are moved apart by a little, so that no bar hides another.
    """
    with matplotlib.rc_context(STYLE):
        figure = Figure(figsize=(7.2, 0.5 + 2.4 * len(panels)), layout="constrained")
        rows = figure.subplots(len(panels), 1, sharex=True, squeeze=False)
        places = [position for series in panels.values() for bars in series for position in bars.places]
        apart = 0.012 * (max(places) - min(places) or 1.0)
        for axes, (title, series) in zip(rows[:, 0], panels.items(), strict=True):
            axes.axhline(0.0, color=INK, linewidth=0.9, alpha=0.55)
            for number, bars in enumerate(series):
                values = np.asarray(bars.values)
                ends = [np.maximum(values - bars.lows, 0.0), np.maximum(bars.highs - values, 0.0)]
                positions = np.asarray(bars.places) + apart * (number - (len(series) - 1) / 2)
                axes.errorbar(
                    positions,
                    values,
                    yerr=ends,
                    label=bars.label,
                    color=bars.color,
                    marker="o",
                    markersize=3.5,
                    capsize=2.5,
                )
            axes.set_title(title)
            axes.set_ylabel(ylabel)
            axes.legend(loc="center left", bbox_to_anchor=(1.0, 0.5))
        rows[-1, 0].set_xlabel(xlabel)
        return _svg(figure)


def distributions(groups: Mapping[str, Sequence[float]], *, xlabel: str) -> str:
    """Overlaid histograms on shared bins, means dashed, as SVG text. Values that are not finite are left out."""
    finite = {name: np.asarray(values, np.float64) for name, values in groups.items()}
    finite = {name: values[np.isfinite(values)] for name, values in finite.items()}
    finite = {name: values for name, values in finite.items() if values.size}
    with matplotlib.rc_context(STYLE):
        figure = Figure(figsize=(7.2, 3.0), layout="constrained")
        axes = figure.subplots()
        pooled = np.concatenate(list(finite.values())) if finite else np.zeros(1)
        low, high = np.percentile(pooled, [0.2, 99.8])
        bins = (np.linspace(low, high, 60) if high > low else np.linspace(low - 0.5, low + 0.5, 11)).tolist()
        for color, (name, values) in zip(COLORS, finite.items(), strict=False):
            mean = float(values.mean())
            shares = np.full(values.size, 100.0 / values.size)
            axes.hist(values, bins=bins, weights=shares, color=color, alpha=0.28, histtype="stepfilled")
            axes.hist(values, bins=bins, weights=shares, color=color, linewidth=1.3, histtype="step")
            axes.axvline(mean, color=color, linestyle="--", linewidth=1.3, label=f"{name}, mean {mean:+.2f}")
        axes.set_xlabel(xlabel)
        axes.set_ylabel("% of pairs")
        if finite:
            axes.legend(loc="upper center", bbox_to_anchor=(0.5, 1.2), ncols=2)
        return _svg(figure)


def repeats(rows: Sequence[Repeated], *, xlabel: str) -> str:
    """A row of dots each, from the top, with a mark at the mean and a line along its interval, as SVG text."""
    with matplotlib.rc_context(STYLE):
        figure = Figure(figsize=(7.2, 0.7 + 0.27 * len(rows)), layout="constrained")
        axes = figure.subplots()
        axes.axvline(0, color=INK, linewidth=0.9, alpha=0.55)
        for index, row in enumerate(rows):
            axes.plot([row.low, row.high], [index, index], color=row.color, linewidth=1.6)
            axes.plot([row.mean], [index], "|", color=row.color, markersize=11, markeredgewidth=2.2)
            axes.plot(row.values, [index] * len(row.values), "o", color=INK, markersize=3.4, alpha=0.55)
        axes.set_yticks(range(len(rows)), [row.label for row in rows], parse_math=False)
        axes.set_ylim(len(rows) - 0.4, -0.6)
        axes.set_xlabel(xlabel)
        return _svg(figure)


def _svg(figure: Figure) -> str:
    """The <svg> element alone: no prolog, no metadata, no ids that would repeat on the page, the ink of the page."""
    buffer = io.StringIO()
    figure.savefig(
        buffer, format="svg", transparent=True, metadata=dict.fromkeys(("Creator", "Date", "Format", "Type"))
    )
    text = buffer.getvalue()
    text = re.sub(r' id="[A-Za-z0-9.]+_\d+"', "", text[text.index("<svg") :])
    text = re.sub(
        r'(<svg[^>]*?) width="[^"]*"', r"\1", re.sub(r'(<svg[^>]*?) height="[^"]*"', r"\1", text, count=1), count=1
    )
    return text.replace(INK, "currentColor").strip()
