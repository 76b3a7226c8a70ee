"""Embeddings in the plane: principal components, and UMAP where installed, coloured by what is known of a scan."""

import importlib.util
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from jaxtyping import Float

from fomo_ssl.core.errors import ConfigError
from fomo_ssl.core.files import atomic_file
from fomo_ssl.downstream.embeddings import vectors
from fomo_ssl.report.figures import COLOURS

FORMATS = (".png", ".svg", ".pdf")

COLOUR_BY = ("sequence", "dataset", "age")
_OTHER = "#bbbbbb"
# Values with a colour of their own; what is left shares one.
_MOST = len(COLOURS)
_STYLE = {
    "text.parse_math": False,
    "font.size": 9,
    "axes.titlesize": 9,
    "axes.labelsize": 8,
    "legend.fontsize": 7,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.titlelocation": "left",
}


@dataclass(frozen=True)
class Plane:
    """Places of the scans on two axes, with the name of the method and of its axes."""

    method: str
    axes: tuple[str, str]
    points: Float[np.ndarray, "n 2"]


def principal_components(embeddings: Float[np.ndarray, "n e"]) -> Plane:
    """The first two principal components of standardised embeddings, with the share of variance of each.

    The sign is that of the largest weight, so that the same embeddings give the same picture.
    """
    spread = embeddings.std(axis=0, dtype=np.float64)
    centred = (embeddings - embeddings.mean(axis=0, dtype=np.float64)) / np.where(spread > 0, spread, 1.0)
    left, sizes, right = np.linalg.svd(centred, full_matrices=False)
    sizes = np.pad(sizes, (0, max(0, 2 - len(sizes))))
    shares = sizes**2 / max(float((sizes**2).sum()), 1e-30)
    points = np.zeros((len(embeddings), 2))
    for k in range(min(2, left.shape[1])):
        points[:, k] = left[:, k] * sizes[k] * np.sign(right[k, np.abs(right[k]).argmax()])
    return Plane("PCA", (f"PC 1 ({shares[0]:.0%})", f"PC 2 ({shares[1]:.0%})"), points)


def planes(embeddings: Float[np.ndarray, "n e"]) -> list[Plane]:
    """PCA, and UMAP where the package umap-learn is installed and there are scans enough for its neighbourhoods."""
    found = [principal_components(embeddings)]
    if importlib.util.find_spec("umap") is not None and len(embeddings) > 15:
        found.append(_umap(embeddings))
    return found


def write_figure(table: pa.Table, output: Path) -> str:
    """Draw a row of panels a method, a panel for each of sequence, dataset and age that differs between the scans.

    Returns:
        What was drawn, for people: methods and colours.

    Raises:
        ConfigError: fewer than 3 scans.
    """
    import matplotlib as mpl
    from matplotlib.figure import Figure

    if len(table) < 3:
        raise ConfigError(f"{len(table)} scans give no picture", way_out="embed at least 3")
    drawn = planes(vectors(table))
    colours = [name for name in COLOUR_BY if len({v for v in table.column(name).to_pylist() if v is not None}) > 1]
    shown = colours or ["sequence"]
    with mpl.rc_context(_STYLE):
        figure = Figure(figsize=(4.2 * len(shown), 3.4 * len(drawn)), layout="constrained")
        panels = figure.subplots(len(drawn), len(shown), squeeze=False)
        for plane, row in zip(drawn, panels, strict=True):
            for name, ax in zip(shown, row, strict=True):
                _panel(ax, plane, table.column(name).to_pylist(), name)
        with atomic_file(output) as file:
            figure.savefig(file, format=output.suffix[1:], dpi=130)
    methods = " and ".join(plane.method for plane in drawn)
    missing = "" if len(drawn) > 1 else " (UMAP needs the package umap-learn and over 15 scans)"
    return f"{methods}{missing}, coloured by {', '.join(shown)}"


def _panel(ax: Any, plane: Plane, values: list[Any], name: str) -> None:
    size = float(np.clip(4000 / len(values), 3, 28))
    style: dict[str, Any] = {"s": size, "linewidths": 0, "alpha": 0.85}
    ax.set(title=f"{plane.method}, by {name}", xlabel=plane.axes[0], ylabel=plane.axes[1], xticks=[], yticks=[])
    x, y = plane.points.T
    known = np.array([value is not None for value in values])
    if name == "age":
        if not known.all():
            ax.set_title(f"{plane.method}, by age (grey: not known)")
        ax.scatter(x[~known], y[~known], color=_OTHER, **style)
        years = [value for value in values if value is not None]
        ax.figure.colorbar(ax.scatter(x[known], y[known], c=years, cmap="viridis", **style), ax=ax, label="years")
        return
    # Matplotlib's legend leaves out names that begin with an underscore.
    words = (str(value) if value else "not known" for value in values)
    names = np.array([f" {word}" if word.startswith("_") else word for word in words])
    frequent = [value for value, _ in Counter(names.tolist()).most_common(_MOST)]
    rest = ~np.isin(names, frequent)
    if rest.any():
        ax.scatter(x[rest], y[rest], color=_OTHER, label=f"{len(set(names[rest]))} others", **style)
    for colour, value in zip(COLOURS, sorted(frequent), strict=False):
        ax.scatter(x[names == value], y[names == value], color=colour, label=value, **style)
    ax.legend(loc="center left", bbox_to_anchor=(1.0, 0.5), frameon=False, handletextpad=0.1)


def _umap(embeddings: Float[np.ndarray, "n e"]) -> Plane:
    import umap

    spread = embeddings.std(axis=0)
    standard = (embeddings - embeddings.mean(axis=0)) / np.where(spread > 0, spread, 1.0)
    # One job: with a seed UMAP runs on one core anyway, and says so in a warning.
    points = umap.UMAP(n_components=2, random_state=0, n_jobs=1).fit_transform(standard)
    return Plane("UMAP", ("UMAP 1", "UMAP 2"), np.asarray(points, np.float64))
