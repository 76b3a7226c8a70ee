"""The figures of the report, each from plain arrays to the text of an SVG element."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from fomo_ssl.downstream.statistics import Interval
from fomo_ssl.report.canvas import INK, Canvas

COLOURS = (
    *("#2f7ed8", "#e07b39", "#3a9d5d", "#b0568f", "#8a8f3c", "#7d6bc4"),
    *("#c44e52", "#4c9f9f", "#6b7f5c", "#a8703a", "#777777", "#d08fb0"),
)
"""Of methods and datasets, in order; told apart by colour-blind readers (first four) and on black or white."""
_NAMED, _LONGEST = 4, 24
"""Lines that a legend inside a figure names, and letters of the longest name."""


@dataclass(frozen=True)
class Curve:
    """One line of a learning-curve panel: mean over seeds, and the least and the greatest as a band."""

    label: str
    colour: str
    steps: np.ndarray
    values: np.ndarray
    low: np.ndarray
    high: np.ndarray


@dataclass(frozen=True)
class Panel:
    """A set of curves on common axes; `may_be_logarithmic` of what falls by factors, as a loss does."""

    title: str
    ylabel: str
    curves: Sequence[Curve]
    may_be_logarithmic: bool = False


@dataclass(frozen=True)
class Points:
    """Predictions of one method for a scatter plot; `datasets` colours them."""

    title: str
    target: np.ndarray
    prediction: np.ndarray
    datasets: Sequence[str] = field(default_factory=tuple)


def learning_curve(panel: Panel, name: str) -> str:
    """The curves of one panel, with their bands."""
    with Canvas(name, 2.55, 2.1) as draw:
        ax = draw.figure.subplots()
        for curve in panel.curves:
            ax.fill_between(curve.steps, curve.low, curve.high, color=curve.colour, alpha=0.18, linewidth=0)
            ax.plot(curve.steps, curve.values, color=curve.colour, linewidth=1.3, label=curve.label)
        ax.set_title(panel.title)
        ax.set_xlabel("step")
        ax.set_ylabel(panel.ylabel)
        if panel.may_be_logarithmic and _spans_factors(panel.curves):
            # On a linear axis the first steps press what tells the methods apart into one line.
            ax.set_yscale("log", subs=[])
            low, high = ax.get_ylim()
            ticks = [m * 10.0**e for e in range(int(np.log10(low)) - 1, int(np.log10(high)) + 1) for m in (1, 2, 5)]
            ax.set_yticks([tick for tick in ticks if low <= tick <= high])
            ax.yaxis.set_major_formatter("{x:g}")
        _legend(ax)
    return draw.svg


def _spans_factors(curves: Sequence[Curve]) -> bool:
    """Whether all values are positive and the greatest is at least four times the least."""
    low, high = min(float(c.low.min()) for c in curves), max(float(c.high.max()) for c in curves)
    return bool(0 < 4 * low <= high < np.inf)


def score_by_shots(
    series: Mapping[str, Sequence[tuple[int, Interval]]], colours: Mapping[str, str], label: str, name: str
) -> str:
    """Score against number of training subjects, one line a method, with 95 % intervals.

    Args:
        series: (shots, interval) by method.
        colours: by method.
        label: of the score's axis.
        name: of the figure, unique on the page.
    """
    shots = sorted({k for points in series.values() for k, _ in points})
    with Canvas(name, 1.2 + 0.9 * max(len(shots), 2), 2.6) as draw:
        ax = draw.figure.subplots()
        _intervals(ax, series, shots, colours)
        ax.set_xlabel("training subjects")
        ax.set_ylabel(label)
        _legend(ax)
    return draw.svg


def score_by_band(
    series: Mapping[str, Sequence[tuple[str, Interval]]], colours: Mapping[str, str], label: str, name: str
) -> str:
    """A score in bands of the target, one line a method, with 95 % intervals and the number of subjects of each band.

    Args:
        series: (band, interval) by method.
        colours: by method.
        label: of the score's axis.
        name: of the figure, unique on the page.
    """
    count = {band: interval.n for points in series.values() for band, interval in points}
    with Canvas(name, 0.9 + 0.55 * max(len(count), 4), 2.6) as draw:
        ax = draw.figure.subplots()
        ax.axhline(0.0, color=INK, linewidth=0.7, linestyle=(0, (4, 3)))
        _intervals(ax, series, list(count), colours)
        ax.set_xticklabels([f"{band}\n{n}" for band, n in count.items()])
        ax.set_xlabel("true value, number of subjects")
        ax.set_ylabel(label)
        _legend(ax)
    return draw.svg


def _intervals(
    ax: Any, series: Mapping[str, Sequence[tuple[Any, Interval]]], groups: Sequence[Any], colours: Mapping[str, str]
) -> None:
    """One line a method over equally spaced groups, with intervals."""
    place = {group: i for i, group in enumerate(groups)}
    for i, (method, points) in enumerate(series.items()):
        # Side by side, or intervals of methods hide one another.
        x = [place[group] + 0.08 * (i - (len(series) - 1) / 2) for group, _ in points]
        values = np.array([interval.value for _, interval in points])
        bars = np.abs(np.array([[p.low, p.high] for _, p in points]).T - values)
        ax.errorbar(x, values, bars, label=method, color=colours[method], marker="o", markersize=4, capsize=2)
    ax.set_xticks(range(len(groups)), [str(group) for group in groups])
    ax.set_xlim(-0.4, len(groups) - 0.6)


def _legend(ax: Any, **options: Any) -> None:
    """Names of the lines, where they leave room to see them; the page has a key of all methods."""
    names = ax.get_legend_handles_labels()[1]
    if 0 < len(names) <= _NAMED and max(map(len, names)) <= _LONGEST:
        ax.legend(**options)


def rank_shares(shares: Mapping[str, Sequence[float]], colours: Mapping[str, str], name: str) -> str:
    """How often each method takes each place: a row a method, a cell a place, darker and with its percentage."""
    count = len(shares)
    longest = max(map(len, shares))
    with Canvas(name, 0.8 + 0.065 * longest + 0.5 * count, 0.55 + 0.3 * count) as draw:
        ax = draw.figure.subplots()
        for row, (method, of_places) in enumerate(shares.items()):
            for place, share in enumerate(of_places):
                ax.barh(row, 0.92, 0.86, place + 0.54, color=colours[method], alpha=0.05 + 0.6 * share, linewidth=0)
                if share >= 0.005:
                    ax.text(place + 1, row, f"{100 * share:.0f} %", ha="center", va="center", fontsize=8)
        ax.set(xlim=(0.5, count + 0.5), ylim=(count - 0.5, -0.5), xlabel="rank")
        ax.set_xticks(range(1, count + 1))
        ax.set_yticks(range(count), list(shares))
        ax.tick_params(length=0)
        for side in ("left", "bottom"):
            ax.spines[side].set_visible(False)
    return draw.svg


def dataset_colours(datasets: Iterable[str]) -> dict[str, str]:
    """The colour of each dataset in `scatter`, for the page's key."""
    return {dataset: COLOURS[i % len(COLOURS)] for i, dataset in enumerate(sorted(set(datasets)))}


def scatter(panels: Sequence[Points], unit: str, name: str) -> list[str]:
    """Predicted against true value with perfect agreement: a figure a method on the same axes, coloured by dataset."""
    everything = np.concatenate([np.concatenate([p.target, p.prediction]) for p in panels])
    everything = everything[np.isfinite(everything)]
    pad = 0.05 * float(np.ptp(everything)) or 1.0
    low, high = float(everything.min()) - pad, float(everything.max()) + pad
    colours = dataset_colours(dataset for p in panels for dataset in p.datasets) or {"": COLOURS[0]}
    drawn = []
    for number, points in enumerate(panels):
        with Canvas(f"{name} {number}", 2.9, 2.9) as draw:
            ax = draw.figure.subplots()
            ax.plot([low, high], [low, high], color=INK, linewidth=0.7, linestyle=(0, (4, 3)))
            for dataset, colour in colours.items():
                rows = np.array([d == dataset for d in points.datasets or [""] * len(points.target)])
                ax.plot(
                    *(points.target[rows], points.prediction[rows], "o"),
                    color=colour,
                    alpha=0.75,
                    markersize=4,
                    markeredgewidth=0,
                )
            ax.set(title=points.title, xlim=(low, high), ylim=(low, high), xlabel=f"true {unit}", aspect="equal")
            ax.set_ylabel(f"predicted {unit}")
        drawn.append(draw.svg)
    return drawn


def roc(curves: Mapping[str, Sequence[tuple[np.ndarray, np.ndarray]]], colours: Mapping[str, str], name: str) -> str:
    """ROC curves, one line a method and seed: (scores, labels 0 or 1) of each seed by method; nan is left out."""
    with Canvas(name, 3.1, 3.0) as draw:
        ax = draw.figure.subplots()
        ax.plot([0, 1], [0, 1], color=INK, linewidth=0.7, linestyle=(0, (4, 3)))
        for method, seeds in curves.items():
            label: str | None = method
            for scores, labels in seeds:
                known = np.isfinite(scores)
                if known.any():
                    false, true = roc_points(scores[known], labels[known])
                    ax.plot(false, true, color=colours[method], linewidth=1.2, alpha=0.8, label=label)
                    label = None
        ax.set(xlim=(-0.02, 1.02), ylim=(-0.02, 1.02), xlabel="false positive rate", ylabel="true positive rate")
        ax.set_aspect("equal")
        _legend(ax, loc="lower right")
    return draw.svg


def roc_points(scores: np.ndarray, labels: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """False and true positive rate at every threshold, from (0, 0) to (1, 1); equal scores make one slanted piece."""
    order = np.argsort(-scores, kind="stable")
    positive = np.asarray(labels)[order].astype(bool)
    last_of_tie = np.append(np.diff(scores[order]) != 0, True)
    true = np.cumsum(positive)[last_of_tie] / max(positive.sum(), 1)
    false = np.cumsum(~positive)[last_of_tie] / max((~positive).sum(), 1)
    return np.concatenate([[0.0], false]), np.concatenate([[0.0], true])


def interval_bar(interval: Interval, limit: float, colour: str) -> str:
    """A difference as a bar beside its number in a table, drawn on -limit … limit with zero marked."""
    width, middle = 90.0, 45.0

    def place(value: float) -> float:
        return middle + (middle - 4.0) * max(-1.0, min(1.0, value / limit))

    if not np.isfinite([interval.value, interval.low, interval.high]).all() or limit <= 0:
        return ""
    low, value, high = (round(place(v), 1) for v in (interval.low, interval.value, interval.high))
    return (
        f'<svg class="bar" width="{width:g}" height="12" viewBox="0 0 {width:g} 12" aria-hidden="true">'
        f'<line x1="{middle}" x2="{middle}" y1="0" y2="12" stroke="currentColor" stroke-opacity="0.4"/>'
        f'<line x1="{low}" x2="{high}" y1="6" y2="6" stroke="{colour}" stroke-width="2"/>'
        f'<circle cx="{value}" cy="6" r="3" fill="{colour}"/></svg>'
    )
