"""A mask that came with a scan: read as safely as a scan, held against its grid, and used on it."""

from pathlib import Path

import numpy as np

from fomo_ssl.core.errors import Reason, RejectedScan
from fomo_ssl.imaging.intensity import LOW_QUANTILE
from fomo_ssl.imaging.nifti import MAX_CLAIMED, Volume, read
from fomo_ssl.imaging.orientation import axis_order, to_ras
from fomo_ssl.imaging.resample import resample_to

# In voxels: grids nearer than this have the same nearest neighbours.
_SAME_GRID = 0.5
_RESAMPLED = "on another grid, resampled"


def read_mask(path: str | Path, like: Volume, *, max_voxels: int = MAX_CLAIMED) -> tuple[np.ndarray, tuple[str, ...]]:
    """Where a mask holds, bool on the grid of `like` (x, y, z), and what had to be done for that.

    The same grid is taken as it is, in any order and direction of its axes; any other is resampled by nearest neighbour
    in scanner space, and voxels outside of it are outside the mask. Values are 0 and one other, or shares from 0 to 1,
    of which 0.5 and more is inside.

    Args:
        path: the mask, as for `imaging.nifti.read`.
        like: the scan.
        max_voxels: refuse larger masks before asking for memory.

    Raises:
        RejectedScan: BAD_MASK: no image, too large, no mask, nothing of it on the scan's grid, or the scan's shape with
            an affine that lies elsewhere, which one of the two headers must have wrong.
    """
    try:
        mask = read(path, max_voxels=max_voxels)
    except RejectedScan as error:
        raise RejectedScan(Reason.BAD_MASK, f"{error.reason.value}: {error.detail}", where=path) from error
    inside = Volume(_inside(mask.data, path), mask.affine)
    shape = like.data.shape
    turned, target = to_ras(inside), to_ras(Volume(np.broadcast_to(np.False_, shape), like.affine))
    if turned.data.shape == target.data.shape:
        distance = _distance(turned.affine, target)
        if distance > _SAME_GRID:
            what = f"has the scan's shape {shape}, but its affine puts it {distance:.1f} voxels off"
            raise RejectedScan(Reason.BAD_MASK, what, where=path)
        return _like_scan(turned.data, like.affine), ()
    moved = resample_to(inside.data.view(np.uint8), mask.affine, like.affine, shape, "nearest").view(bool)
    if inside.data.any() and not moved.any():
        raise RejectedScan(Reason.BAD_MASK, f"nothing of it lies in the scan {shape}", where=path)
    return moved, (_RESAMPLED,)


def strip(volume: Volume, brain: np.ndarray) -> Volume:
    """The volume with empty space outside a brain mask: the level of its darkest voxels, for most scans 0."""
    empty = np.float32(np.quantile(volume.data, LOW_QUANTILE))
    return Volume(np.where(brain, volume.data, empty), volume.affine, volume.notes)


def _inside(data: np.ndarray, path: str | Path) -> np.ndarray:
    low, high = float(data.min()), float(data.max())
    is_share = low >= 0 and high <= 1
    if not is_share and not np.isin(data, (0.0, high)).all():
        what = f"holds more than two values from {low:g} to {high:g}: an image, not a mask"
        raise RejectedScan(Reason.BAD_MASK, what, where=path)
    return np.ascontiguousarray(data >= 0.5 if is_share else data == high)


def _distance(affine: np.ndarray, target: Volume) -> float:
    """How far the corners of a grid lie from those of another of its shape, at most, in voxels along an axis."""
    last = np.array(target.data.shape) - 1
    corners = np.array([[*(last * pick), 1] for pick in np.ndindex(2, 2, 2)], float)
    there = corners @ (np.linalg.inv(target.affine) @ affine).T
    return float(np.abs(there - corners).max())


def _like_scan(ras: np.ndarray, affine: np.ndarray) -> np.ndarray:
    """The inverse of `to_ras`: an array in RAS+ as the axes of `affine` run."""
    order, flips = axis_order(affine)
    ras = np.flip(ras, tuple(axis for axis, flip in enumerate(flips) if flip))
    return np.ascontiguousarray(ras.transpose(np.argsort(order)))
