"""A scan as a few hundred numbers: the low frequencies of a coarse grid around the head.

The grid has a fixed size in mm and lies around the centre of the foreground mask, so neither the scan's own grid nor
the air around the head matters. A cosine transform turns mirroring and swapping of axes into signs and swaps of
coefficients: all 48 orientations of a scan are read off one descriptor.
"""

import itertools
from functools import cache

import numpy as np
from jaxtyping import Float32, Int64
from scipy.fft import dctn

from fomo_ssl.core.vocabulary import Spacing
from fomo_ssl.imaging.foreground import foreground_mask
from fomo_ssl.imaging.resample import resample_to

EDGE_MM, GRID = 208.0, 32
"""A cube that holds every head, in voxels of 6.5 mm."""

KEPT = 10
"""Frequencies kept along each axis; the finest is one period in 46 mm."""


def describe(
    values: np.ndarray, mask: np.ndarray, spacing: Spacing, background: float
) -> Float32[np.ndarray, "10 10 10"]:
    """Low-frequency cosine coefficients, of length 1 as a vector; the constant one is set to 0.

    Args:
        values: (x, y, z) in RAS+.
        mask: where the head is, bool of the same shape; what lies outside counts as `background`.
        spacing: mm.
        background: value of empty space.
    """
    grid = head_grid(values, mask, spacing, background, GRID, EDGE_MM / GRID)
    kept: np.ndarray = dctn(grid, norm="ortho")[:KEPT, :KEPT, :KEPT].astype(np.float32)
    kept[0, 0, 0] = 0.0
    length = float(np.linalg.norm(kept))
    return kept / np.float32(length) if length > 0 else kept


def head_grid(
    values: np.ndarray, mask: np.ndarray, spacing: Spacing, background: float, size: int, step: float
) -> Float32[np.ndarray, "n n n"]:
    """The head on `size`^3 voxels of `step` mm, the centre of its mask in the middle."""
    affine = np.eye(4)
    for axis in range(3):
        profile = mask.sum(axis=tuple(a for a in range(3) if a != axis))
        # An empty mask (a volume of one value) has no centre: take the volume's.
        total = float(profile.sum())
        middle = float(profile @ np.arange(len(profile))) / total if total else (len(profile) - 1) / 2
        affine[axis, axis] = step / spacing[axis]
        affine[axis, 3] = middle - affine[axis, axis] * (size - 1) / 2
    head = np.where(mask, values, values.dtype.type(background)).astype(np.float32)
    return resample_to(head, np.eye(4), affine, (size, size, size), "linear", background)


def mask_of(values: np.ndarray) -> np.ndarray:
    """Where the head is; everything where nothing stands out."""
    mask = foreground_mask(values)
    return mask if mask.any() else np.ones(values.shape, bool)


@cache
def orientations() -> tuple[tuple[tuple[int, int, int], tuple[bool, bool, bool]], ...]:
    """The 48 ways to lay out a volume as (order, flips): mirror the axes in `flips`, then transpose by `order`."""
    orders = [(a, b, c) for a, b, c in itertools.permutations(range(3))]
    flips = [(a, b, c) for a, b, c in itertools.product((False, True), repeat=3)]
    return tuple(itertools.product(orders, flips))


@cache
def reorientation(
    order: tuple[int, int, int], flips: tuple[bool, bool, bool], kept: int = KEPT
) -> tuple[Int64[np.ndarray, "k"], Float32[np.ndarray, "k"]]:
    """(positions, signs): flat coefficients `c` of a volume become `c[positions] * signs` when it is laid out anew.

    A cosine of frequency k is even about the middle for even k and odd for odd k, hence the signs.
    """
    frequency = np.indices((kept, kept, kept))
    signs = np.ones((kept, kept, kept), np.float32)
    for axis in range(3):
        if flips[axis]:
            signs *= np.where(frequency[axis] % 2, np.float32(-1), np.float32(1))
    positions = np.arange(kept**3, dtype=np.int64).reshape(kept, kept, kept).transpose(order)
    return positions.ravel(), signs.transpose(order).ravel()
