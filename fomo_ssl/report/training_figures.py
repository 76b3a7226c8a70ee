"""The curves of a pretraining run over the samples seen, each as the text of an SVG element."""

from collections.abc import Sequence
from dataclasses import dataclass

from fomo_ssl.report.canvas import INK, Canvas

_MOST_POINTS = 1000


@dataclass(frozen=True)
class Line:
    """One metric: values over samples seen; `dashed` for what others are compared with."""

    label: str
    colour: str
    samples: Sequence[float]
    values: Sequence[float]
    dashed: bool = False


def curves(title: str, ylabel: str, lines: Sequence[Line], limit: float | None, name: str) -> str:
    """Lines on common axes.

    Args:
        title, ylabel: of the axes.
        lines: at least one; long ones are drawn as means of equal runs of points.
        limit: a threshold, drawn as a thin line where the lines come near it.
        name: of the figure, unique on its page.
    """
    from matplotlib.ticker import MaxNLocator

    with Canvas(name, 3.9, 2.4) as draw:
        ax = draw.figure.subplots()
        for line in lines:
            samples, values = thinned(line.samples), thinned(line.values)
            marker = "o" if len(samples) < 30 else None
            style = "--" if line.dashed else "-"
            colour = INK if line.dashed else line.colour
            ax.plot(samples, values, style, color=colour, marker=marker, markersize=2.5, label=line.label or None)
        if limit is not None:
            ax.axhline(limit, color=INK, linewidth=0.6, linestyle=":", label="alarm")
            ax.set_ylim(bottom=0.0)
        ax.set(title=title, ylabel=ylabel, xlabel="samples")
        ax.xaxis.set_major_locator(MaxNLocator(nbins=5))
        ax.ticklabel_format(axis="y", useOffset=False)  # of memory, which hardly moves, the total is what counts
        if len(lines) > 1 or limit is not None:
            ax.legend()
    return draw.svg


def thinned(values: Sequence[float]) -> list[float]:
    """At most 1,000 means of equal runs of values; a shorter last run is left as it is."""
    size = -(-len(values) // _MOST_POINTS)
    runs = [values[start : start + size] for start in range(0, len(values), max(size, 1))]
    return [sum(run) / len(run) for run in runs]
