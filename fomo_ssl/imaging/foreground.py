"""Where the head is: a robust mask, and the box around it."""

import numpy as np
from scipy import ndimage

from fomo_ssl.core.types import Triple

Box = tuple[slice, slice, slice]

# The mask is found on block means of about this many voxels an axis: fast, and averaging quiets the air.
_COARSE = 64
# BET's rule for the edge of a head (Smith 2002, doi 10.1002/hbm.10062): 10 % of the way from the 2nd percentile to
# the 98th.
_BET_FRACTION = 0.1
# Standard deviations of the air's own noise that a head must exceed.
_NOISE_SIGMAS = 4.0
# Specks of noise are smaller than this fraction of the largest part; vessels of an MRA are not.
_SMALL_PART = 0.02


def foreground_mask(data: np.ndarray) -> np.ndarray:
    """A filled mask of the head (or of the brain in a stripped scan), bool, same shape as `data`.

    All voxels are foreground where nothing stands out. A constant volume has no foreground.
    """
    factors = [max(1, size // _COARSE) for size in data.shape]
    coarse = _block_means(data, factors)
    low, high = float(coarse.min()), float(coarse.max())
    if not high > low:
        return np.zeros(data.shape, bool)
    mask = _filled(coarse > _threshold(coarse))
    for axis, factor in enumerate(factors):
        mask = mask.repeat(factor, axis=axis)
    pads = [(0, size - have) for size, have in zip(data.shape, mask.shape, strict=True)]
    return np.pad(mask, pads, mode="edge")


def foreground_box(mask: np.ndarray, margin: int | Triple = 0) -> Box:
    """The smallest box around a mask, grown by `margin` voxels within the array; everything where the mask is empty."""
    margins = (margin,) * 3 if isinstance(margin, int) else margin
    slices = []
    for axis in range(3):
        hits = np.flatnonzero(mask.any(axis=tuple(a for a in range(3) if a != axis)))
        first, last = (hits[0], hits[-1]) if len(hits) else (0, mask.shape[axis] - 1)
        slices.append(slice(max(0, int(first) - margins[axis]), min(mask.shape[axis], int(last) + 1 + margins[axis])))
    return (slices[0], slices[1], slices[2])


def _block_means(data: np.ndarray, factors: list[int]) -> np.ndarray:
    """Means over blocks; voxels beyond the last whole block are left out."""
    whole = data[tuple(slice(0, size // factor * factor) for size, factor in zip(data.shape, factors, strict=True))]
    for axis, factor in enumerate(factors):
        if factor > 1:
            shape = (*whole.shape[:axis], whole.shape[axis] // factor, factor, *whole.shape[axis + 1 :])
            whole = whole.reshape(shape).mean(axis=axis + 1, dtype=np.float32)
    return whole.astype(np.float32, copy=False)


def _threshold(coarse: np.ndarray) -> float:
    """What separates head from air: BET's rule, raised where the air is noisier than that."""
    low = float(coarse.min())
    values = coarse[coarse > low]
    bottom, top = (float(v) for v in np.quantile(values, (0.02, 0.98)))
    # A stripped scan has exact empty space: everything else is brain, however dark.
    if values.size < 0.95 * coarse.size and bottom - low > 0.02 * (top - low):
        return low
    return max(low + _BET_FRACTION * (top - low), _noise_ceiling(coarse, low))


def _noise_ceiling(coarse: np.ndarray, low: float) -> float:
    """Mean plus four deviations of the air, read off the corners that hold air in a head scan, if they agree."""
    size = [max(1, n // 10) for n in coarse.shape]
    ends = [(slice(0, s), slice(n - s, n)) for s, n in zip(size, coarse.shape, strict=True)]
    corners = [coarse[x, y, z] for x in ends[0] for y in ends[1] for z in ends[2]]
    quiet = sorted(corners, key=lambda corner: float(corner.mean()))[:2]
    level = max(float(corner.mean() + _NOISE_SIGMAS * corner.std()) for corner in quiet)
    # Corners inside the head (a tight crop) would hide it: air is dark beside what the volume shows.
    return level if level < float(np.median(coarse[coarse >= np.median(coarse)])) else low


def _filled(mask: np.ndarray) -> np.ndarray:
    """The large connected parts, closed and filled, so that dark tissue inside the head belongs to them."""
    labels, count = ndimage.label(mask)
    if count == 0:
        return np.ones(mask.shape, bool)
    sizes = np.bincount(labels.ravel())
    sizes[0] = 0
    large = sizes >= max(1.0, _SMALL_PART * float(sizes.max()))
    closed = ndimage.binary_closing(np.pad(large[labels], 2), iterations=2)
    return np.asarray(ndimage.binary_fill_holes(closed)[2:-2, 2:-2, 2:-2], bool)
