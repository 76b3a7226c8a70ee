"""The figures of the data report, narrow enough for a telephone, each from plain values to an SVG element."""

from collections.abc import Mapping, Sequence

import numpy as np

from fomo_ssl.corpus.outliers import LIMIT, Judged
from fomo_ssl.report.canvas import INK, Canvas
from fomo_ssl.report.figures import COLOURS

_WIDTH = 3.5
_MOST_BARS = 14


def bars(counts: Mapping[str, int], name: str) -> str:
    """Horizontal bars with their numbers, in the order given; beyond 14 the rest is one bar."""
    shown = list(counts.items())
    if len(shown) > _MOST_BARS:
        rest = shown[_MOST_BARS - 1 :]
        shown = [*shown[: _MOST_BARS - 1], (f"{len(rest)} others", sum(n for _, n in rest))]
    return grouped_bars({label: (n,) for label, n in shown}, ("",), name)


def grouped_bars(counts: Mapping[str, Sequence[int]], series: Sequence[str], name: str) -> str:
    """Horizontal bars, one a series beside one another for each label."""
    place = np.arange(len(counts))[::-1]
    thick = 0.8 / len(series)
    most = max((n for values in counts.values() for n in values), default=1)
    with Canvas(name, _WIDTH, 0.55 + 0.21 * len(counts) * (1 + 0.35 * (len(series) - 1))) as draw:
        ax = draw.figure.subplots()
        for i, label in enumerate(series):
            values = [each[i] for each in counts.values()]
            y = place - thick * (i - (len(series) - 1) / 2)
            ax.barh(y, values, thick * 0.92, color=COLOURS[i], label=label or None)
            for at, value in zip(y, values, strict=True):
                ax.text(value + 0.015 * most, at, f"{value:,}", va="center", fontsize=7.5)
        ax.set_yticks(place, [_short(label) for label in counts])
        ax.set_xlim(0, most * 1.18)
        ax.xaxis.set_visible(False)
        ax.spines["bottom"].set_visible(False)
        ax.tick_params(axis="y", length=0)
        if len(series) > 1:
            ax.legend(loc="lower right")
    return draw.svg


def age_histogram(ages: Mapping[str, Sequence[float]], name: str) -> str:
    """Ages in steps of 5 years, the sexes on top of one another."""
    from matplotlib.ticker import MaxNLocator

    with Canvas(name, _WIDTH, 2.1) as draw:
        ax = draw.figure.subplots()
        oldest = max((max(values) for values in ages.values() if values), default=100.0)
        edges = [5.0 * step for step in range(int(oldest // 5) + 2)]
        colours = [COLOURS[i % len(COLOURS)] for i in range(len(ages))]
        ax.hist([list(v) for v in ages.values()], edges, stacked=True, color=colours, label=list(ages), rwidth=0.92)
        ax.set(xlabel="age, years", ylabel="sessions")
        ax.yaxis.set_major_locator(MaxNLocator(nbins=5, integer=True))
        # Room for the legend above the bars.
        ax.margins(y=0.28)
        ax.legend(ncols=3)
    return draw.svg


def deviation_strips(judged: Sequence[Judged], name: str) -> str:
    """How far every scan lies from its group, one strip a measure; what is beyond the limit is coloured.

    Beyond 2.5 limits points are drawn at the edge. At most 2,000 ordinary scans of a strip are drawn.
    """
    rng = np.random.default_rng(0)
    far = LIMIT * 2.5
    with Canvas(name, _WIDTH + 1.2, 0.6 + 0.3 * len(judged)) as draw:
        ax = draw.figure.subplots()
        for edge in (-LIMIT, LIMIT):
            ax.axvline(edge, color=INK, linewidth=0.7, linestyle=(0, (4, 3)))
        for i, one in enumerate(judged):
            deviations = one.deviations[np.isfinite(one.deviations)]
            inside, outside = deviations[np.abs(deviations) <= LIMIT], deviations[np.abs(deviations) > LIMIT]
            inside = inside if len(inside) <= 2000 else rng.choice(inside, 2000, replace=False)
            for values, colour in ((inside, COLOURS[0]), (outside, COLOURS[1])):
                y = len(judged) - 1 - i + rng.uniform(-0.28, 0.28, len(values))
                ax.plot(np.clip(values, -far, far), y, "o", color=colour, markersize=2.8, alpha=0.7, markeredgewidth=0)
        ax.set_yticks(range(len(judged) - 1, -1, -1), [one.measure.name for one in judged])
        ax.set_xlim(-far * 1.05, far * 1.05)
        ax.set_xlabel("robust deviations from the group's median")
        ax.tick_params(axis="y", length=0)
    return draw.svg


def _short(label: str) -> str:
    return label if len(label) <= 22 else f"{label[:10]}…{label[-11:]}"
