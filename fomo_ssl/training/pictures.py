"""Volumes as pictures: their middle slices side by side, titled columns, one PNG."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from jaxtyping import Float


def save_picture(picture: Float[np.ndarray, "rows columns *rgb"], titles: Sequence[str], path: Path) -> None:
    """Write grey or RGB values of 0 to 1 as a PNG with evenly spaced titles above it."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    height, width = picture.shape[:2]
    figure = Figure(figsize=(9, 9 * height / width + 0.3), dpi=100)
    FigureCanvasAgg(figure)
    # One image in one pair of axes: a grid of axes takes matplotlib a second.
    ax = figure.add_axes((0.0, 0.0, 1.0, 1.0 - 0.3 / figure.get_figheight()))
    ax.imshow(picture, cmap="gray", vmin=0.0, vmax=1.0, aspect="auto")
    ax.set_axis_off()
    for column, name in enumerate(titles):
        ax.text((column + 0.5) / len(titles), 1.0, name, transform=ax.transAxes, ha="center", va="bottom", fontsize=9)
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path)


def grey_window(volume: np.ndarray) -> tuple[float, float]:
    """The range of values that is shown as black to white: all but the outermost 0.5 % on either side."""
    low, high = np.percentile(volume, [0.5, 99.5])
    return float(low), float(max(high, low + 1e-6))


def middle_slices(
    volume: Float[np.ndarray, "x y z *rgb"], low: float = 0.0, high: float = 1.0
) -> Float[np.ndarray, "rows columns *rgb"]:
    """The middle slices across x, y and z side by side, framed to one size, as 0 (`low`) to 1 (`high`).

    First axis of a slice to the right, second axis up.
    """
    side = max(volume.shape[:3])
    scaled = np.clip((volume - low) / (high - low), 0.0, 1.0)
    framed = []
    for axis in range(3):
        middle = np.take(scaled, scaled.shape[axis] // 2, axis=axis).swapaxes(0, 1)[::-1]
        frame = [(s // 2 + 1, s - s // 2 + 1) for s in (side - size for size in middle.shape[:2])]
        framed.append(np.pad(middle, frame + [(0, 0)] * (middle.ndim - 2), constant_values=1.0))
    return np.hstack(framed)
