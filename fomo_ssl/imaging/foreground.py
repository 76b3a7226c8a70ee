"""Where the head is: a robust mask, and the box around it."""

import numpy as np
from scipy import ndimage

from fomo_ssl.core.vocabulary import Triple

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
    low = float(coarse.min())
    if not float(coarse.max()) > low:
        return np.zeros(data.shape, bool)
    mask = _filled(_above_air(coarse, low))
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


def _above_air(coarse: np.ndarray, low: float) -> np.ndarray:
    """What stands out from the air: BET's rule, with the threshold raised where the air is noisier than that."""
    values = coarse[coarse > low]
    bottom, top = (float(v) for v in np.quantile(values, (0.02, 0.98)))
    # A stripped scan has exact empty space, and everything else is brain, however dark.
    if values.size < 0.95 * coarse.size and bottom - low > 0.02 * (top - low):
        return coarse > low
    smooth = ndimage.uniform_filter(coarse, 3, mode="nearest")
    return smooth > max(low + _BET_FRACTION * (top - low), _noise_ceiling(smooth, low))


def _noise_ceiling(smooth: np.ndarray, low: float) -> float:
    """Mean plus four deviations of the air, read off the two darkest corners; `low` where they hold no air."""
    size = [max(1, n // 10) for n in smooth.shape]
    ends = [(slice(0, s), slice(n - s, n)) for s, n in zip(size, smooth.shape, strict=True)]
    corners = [smooth[x, y, z] for x in ends[0] for y in ends[1] for z in ends[2]]
    darkest = sorted(corners, key=lambda corner: float(corner.mean()))[:2]
    level = max(float(corner.mean() + _NOISE_SIGMAS * corner.std()) for corner in darkest)
    # In a tight crop the corners are tissue: then they are not darker than the dark class of the whole volume.
    return level if level < _otsu(smooth) else low


def _otsu(values: np.ndarray) -> float:
    """The threshold that splits a histogram into two classes of least variance (Otsu 1979); the value of equal ones."""
    # float64: float32 cannot tell 128 bins apart between values that differ in their last bits only.
    values = values.astype(np.float64)
    if values.min() == values.max():
        return float(values.flat[0])
    counts, edges = np.histogram(values, bins=128)
    centres = (edges[:-1] + edges[1:]) / 2
    below = np.cumsum(counts)[:-1]
    sums = np.cumsum(counts * centres)
    above = values.size - below
    with np.errstate(divide="ignore", invalid="ignore"):
        between = below * above * (sums[:-1] / below - (sums[-1] - sums[:-1]) / above) ** 2
    return float(edges[1:-1][np.nanargmax(between)])


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
