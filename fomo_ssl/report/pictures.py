"""Slices of a case as PNG with the outlines of truth and prediction."""

import base64
import io
from collections.abc import Sequence

import numpy as np

from fomo_ssl.core.types import Spacing

TRUTH, PREDICTION = (255, 176, 0), (0, 190, 255)
"""Outline colours (red, green, blue): amber and sky blue differ for every kind of colour vision."""

THICKNESS = 2
"""Of outlines in pixels; a line of one disappears when the page shows a picture smaller."""

_PLANES = ((2, "axial"), (1, "coronal"), (0, "sagittal"))


def case_picture(
    image: np.ndarray, truth: np.ndarray, prediction: np.ndarray, spacing: Spacing, *, height: int = 260
) -> str:
    """Four panels: the axial slice alone, then axial, coronal and sagittal with outlines.

    Each slice is the one with the most voxels in which truth and prediction are not both background; where there is
    none, the middle one. Left of the picture is the subject's left, front and top are up.

    Args:
        image: (x, y, z) in RAS+, any intensity.
        truth, prediction: integer masks on the same grid.
        spacing: mm, so that thick slices keep the head's proportions.
        height: of the panels in pixels.

    Returns:
        A `data:image/png` address.
    """
    union = (truth > 0) | (prediction > 0)
    low, high = np.percentile(image, [1.0, 99.5])
    grey = np.clip((image - low) / max(float(high - low), 1e-6), 0.0, 1.0)
    centre = [busiest_slice(union, axis) for axis in range(3)]
    panels = []
    for axis, _ in _PLANES:
        pick = [slice(None)] * 3
        pick[axis] = centre[axis]  # type: ignore[call-overload]
        edges = [spacing[i] for i in range(3) if i != axis]
        cuts = [np.asarray(array[tuple(pick)]) for array in (grey, truth, prediction)]
        plain, outlined = _panel(cuts[0], cuts[1], cuts[2], edges, height)
        panels += [plain, outlined] if axis == 2 else [outlined]
    gap = np.zeros((height, 4, 3), np.uint8)
    row = [piece for panel in panels for piece in (panel, gap)][:-1]
    return png_address(np.concatenate(row, axis=1))


def busiest_slice(mask: np.ndarray, axis: int) -> int:
    """Index along `axis` of the slice with most True voxels, the middle one of several; of an empty mask the middle."""
    counts = mask.sum(axis=tuple(i for i in range(3) if i != axis))
    best = np.flatnonzero(counts == counts.max())
    return int(best[len(best) // 2])


def outline(mask: np.ndarray) -> np.ndarray:
    """Pixels (2D) of a class other than background with another class at most `THICKNESS` pixels away."""
    padded = np.pad(mask, THICKNESS, constant_values=0)
    rows, columns = mask.shape
    edge: np.ndarray = np.zeros(mask.shape, bool)
    for step in range(2 * THICKNESS + 1):
        edge |= mask != padded[step : step + rows, THICKNESS : THICKNESS + columns]
        edge |= mask != padded[THICKNESS : THICKNESS + rows, step : step + columns]
    edge &= mask != 0
    return edge


def png_address(pixels: np.ndarray) -> str:
    """(rows, columns, 3) uint8 as a `data:image/png;base64` address."""
    from PIL import Image

    out = io.BytesIO()
    Image.fromarray(pixels).save(out, format="PNG", optimize=True)
    return "data:image/png;base64," + base64.b64encode(out.getvalue()).decode()


def _panel(
    grey: np.ndarray, truth: np.ndarray, prediction: np.ndarray, edges: Sequence[float], height: int
) -> tuple[np.ndarray, np.ndarray]:
    """A slice without and with outlines, (height, width, 3) uint8."""
    columns, rows = grey.shape
    width = max(1, round(height * (columns * edges[0]) / (rows * edges[1])))
    plain = np.repeat(np.rint(255 * _scaled(grey, width, height, smooth=True)).astype(np.uint8)[..., None], 3, axis=2)
    outlined = plain.copy()
    for mask, colour in ((truth, TRUTH), (prediction, PREDICTION)):
        edge = outline(_scaled(mask, width, height, smooth=False))
        if colour is PREDICTION:
            # Dashed over the truth: where the two agree both colours show.
            i, j = np.indices(edge.shape)
            edge &= (i + j) % 14 < 7
        outlined[edge] = colour
    return plain, outlined


def _scaled(slice_: np.ndarray, width: int, height: int, *, smooth: bool) -> np.ndarray:
    """(columns, rows) of a slice as (height, width) of a picture, up = the end of the second axis."""
    from PIL import Image

    upright = np.ascontiguousarray(slice_.T[::-1]).astype(np.float32 if smooth else np.int32)
    how = Image.Resampling.BICUBIC if smooth else Image.Resampling.NEAREST
    scaled: np.ndarray = np.asarray(Image.fromarray(upright).resize((width, height), how))
    return scaled.clip(0.0, 1.0) if smooth else scaled
