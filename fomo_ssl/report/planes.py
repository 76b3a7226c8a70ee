"""A stored scan as one small picture: axial, coronal and sagittal slice at one scale."""

import numpy as np

from fomo_ssl.core.types import Spacing, Triple
from fomo_ssl.report.pictures import png_address

_GAP = 3


def three_planes(values: np.ndarray, spacing: Spacing, centre: Triple, *, height: int = 150) -> str:
    """The slices through `centre`, side by side; left of the picture is the subject's left, front and top are up.

    Args:
        values: (x, y, z) in RAS+, any intensity.
        spacing: mm, so that thick slices keep the head's proportions.
        centre: voxel.
        height: of the picture in pixels; the larger of the extents along y and z fills it.

    Returns:
        A `data:image/png` address.
    """
    low, high = (float(v) for v in np.percentile(values[::3, ::3, ::3], [1.0, 99.7]))
    extent = [size * edge for size, edge in zip(values.shape, spacing, strict=True)]
    scale = height / max(extent[1], extent[2])
    panels = []
    for axis in (2, 1, 0):
        across, up = (a for a in range(3) if a != axis)
        width, rows = max(1, round(extent[across] * scale)), max(1, round(extent[up] * scale))
        grey = np.clip((values.take(centre[axis], axis).T[::-1] - low) / max(high - low, 1e-6), 0.0, 1.0)
        panels.append(_centred(_resized(grey, width, rows), height))
        panels.append(np.zeros((height, _GAP), np.uint8))
    return png_address(np.concatenate(panels[:-1], axis=1))


def _resized(grey: np.ndarray, width: int, height: int) -> np.ndarray:
    from PIL import Image

    picture = Image.fromarray(np.rint(grey * 255).astype(np.uint8))
    return np.asarray(picture.resize((width, height), Image.Resampling.BICUBIC))


def _centred(picture: np.ndarray, height: int) -> np.ndarray:
    before = (height - len(picture)) // 2
    return np.pad(picture, ((before, height - len(picture) - before), (0, 0)))
