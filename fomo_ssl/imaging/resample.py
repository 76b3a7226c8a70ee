"""Separable resampling: one small banded matrix per axis, so that a scan costs three matrix products.

Cubic is Keys' kernel with a = -1/2 (Keys 1981, doi 10.1109/TASSP.1981.1163711), linear the triangle. Where an axis
shrinks, the kernel is widened by the same factor, which removes what the new grid cannot show. On a 1 mm head this is
ten times faster than `scipy.ndimage.zoom` of order 3.
"""

from typing import Literal

import numpy as np
from scipy import ndimage

from fomo_ssl.core.vocabulary import Spacing, Triple

Order = Literal["cubic", "linear", "nearest"]

_SPLINE_ORDER: dict[Order, Literal[0, 1, 3]] = {"cubic": 3, "linear": 1, "nearest": 0}
# Relative size of an entry of the voxel-to-voxel matrix below which two grids count as parallel.
_PARALLEL = 1e-4
# Voxels beyond the outermost voxel's edge that still count as inside: float noise of the affines.
_EDGE = 0.5 + 1e-3


def output_shape(shape: Triple, spacing: Spacing, new_spacing: Spacing) -> Triple:
    """Voxels along each axis that cover the same field of view at another spacing, to the nearest voxel, at least 1."""
    x, y, z = (max(1, round(n * s / t)) for n, s, t in zip(shape, spacing, new_spacing, strict=True))
    return (x, y, z)


def sample_positions(n_in: int, n_out: int, step: float) -> np.ndarray:
    """Input coordinates of output voxels that lie `step` input voxels apart, both grids centred on each other."""
    return (np.arange(n_out) - (n_out - 1) / 2) * step + (n_in - 1) / 2


def resample(data: np.ndarray, spacing: Spacing, new_spacing: Spacing, order: Order = "cubic") -> np.ndarray:
    """Resample (x, y, z) to another spacing in mm on a grid with the same centre.

    Returns float32 of shape `output_shape`; with "nearest" the input's dtype. Values beyond the edge repeat the edge.
    """
    shape: Triple = data.shape
    sizes = output_shape(shape, spacing, new_spacing)
    steps = [t / s for s, t in zip(spacing, new_spacing, strict=True)]
    positions = [sample_positions(n, m, step) for n, m, step in zip(shape, sizes, steps, strict=True)]
    return _along_axes(data, positions, steps, order)


def resampled_affine(affine: np.ndarray, shape: Triple, spacing: Spacing, new_spacing: Spacing) -> np.ndarray:
    """The affine of `resample`'s result."""
    sizes = output_shape(shape, spacing, new_spacing)
    steps = [t / s for s, t in zip(spacing, new_spacing, strict=True)]
    starts = [sample_positions(n, m, step)[0] for n, m, step in zip(shape, sizes, steps, strict=True)]
    to_input = np.diag([*steps, 1.0])
    to_input[:3, 3] = starts
    return affine @ to_input


def resample_to(
    data: np.ndarray,
    affine: np.ndarray,
    target_affine: np.ndarray,
    target_shape: Triple,
    order: Order = "cubic",
    fill: float = 0.0,
) -> np.ndarray:
    """Resample (x, y, z) onto another grid; voxels outside the input get `fill`.

    Grids with parallel axes (in any order and direction) take the separable path; others scipy's spline interpolation,
    which does not widen its kernel where the new grid is coarser. Returns float32, with "nearest" the input's dtype.
    """
    to_input = np.linalg.inv(affine) @ target_affine
    axes = _parallel_axes(to_input[:3, :3])
    if axes is None:
        return _resample_oblique(data, to_input, target_shape, order, fill)
    positions, steps = [np.empty(0)] * 3, [1.0] * 3
    for target_axis, axis in enumerate(axes):
        step = to_input[axis, target_axis]
        positions[axis] = np.arange(target_shape[target_axis]) * step + to_input[axis, 3]
        steps[axis] = abs(step)
    result = _along_axes(data, positions, steps, order)
    for axis, (place, size) in enumerate(zip(positions, data.shape, strict=True)):
        outside = (place < -_EDGE) | (place > size - 1 + _EDGE)
        if outside.any():
            result[(slice(None),) * axis + (outside,)] = fill
    return np.ascontiguousarray(result.transpose(axes))


def _parallel_axes(matrix: np.ndarray) -> list[int] | None:
    """For each output axis the one input axis it runs along, or None where the grids are oblique to each other."""
    matrix = np.abs(matrix)
    large = matrix > _PARALLEL * matrix.max(axis=0)
    if not (large.sum(axis=0) == 1).all() or not (large.sum(axis=1) == 1).all():
        return None
    return [int(axis) for axis in np.argmax(large, axis=0)]


def _resample_oblique(data: np.ndarray, to_input: np.ndarray, shape: Triple, order: Order, fill: float) -> np.ndarray:
    source = data if order == "nearest" else data.astype(np.float32, copy=False)
    result: np.ndarray = np.empty(shape, source.dtype)
    matrix, shift, spline = to_input[:3, :3], to_input[:3, 3], _SPLINE_ORDER[order]
    ndimage.affine_transform(source, matrix, shift, output=result, order=spline, mode="grid-constant", cval=fill)
    return result


def _along_axes(data: np.ndarray, positions: list[np.ndarray], steps: list[float], order: Order) -> np.ndarray:
    if order == "nearest":
        nearest = [_nearest(place, size) for place, size in zip(positions, data.shape, strict=True)]
        return np.asarray(data[np.ix_(*nearest)])
    result: np.ndarray = np.ascontiguousarray(data, np.float32)
    # Axes that shrink most go first: the later products then have fewer voxels.
    for axis in sorted(range(3), key=lambda a: len(positions[a]) / data.shape[a]):
        size = data.shape[axis]
        if len(positions[axis]) == size and np.allclose(positions[axis], np.arange(size), atol=1e-6):
            continue
        result = _apply(axis_weights(positions[axis], size, steps[axis], order), result, axis)
    # An identity must not hand out the caller's own array.
    return result.copy() if result is data else result


def _nearest(positions: np.ndarray, size: int) -> np.ndarray:
    # Ties go up, not to the even voxel: an exact halving must not take voxels in an uneven pattern.
    return np.clip(np.floor(positions + 0.5 + 1e-6).astype(np.intp), 0, size - 1)


def axis_weights(positions: np.ndarray, size: int, step: float, order: Order) -> np.ndarray:
    """Interpolation along one axis as a (len(positions), size) float32 matrix whose rows sum to 1.

    Args:
        positions: input coordinates of the output voxels.
        size: input voxels; coordinates beyond them repeat the edge.
        step: input voxels per output voxel; the kernel is widened where it exceeds 1.
    """
    width = max(step, 1.0)
    radius = (2.0 if order == "cubic" else 1.0) * width
    offsets = np.arange(np.floor(-radius), np.ceil(radius) + 1)
    taps = np.floor(positions)[:, None] + offsets
    distance = np.abs(taps - positions[:, None]) / width
    values: np.ndarray = _keys(distance) if order == "cubic" else np.maximum(0.0, 1.0 - distance)
    weights: np.ndarray = np.zeros((len(positions), size))
    columns = np.clip(taps, 0, size - 1).astype(np.intp)
    np.add.at(weights, (np.arange(len(positions))[:, None], columns), values)
    weights /= weights.sum(axis=1, keepdims=True)
    return weights.astype(np.float32)


def _keys(distance: np.ndarray) -> np.ndarray:
    near = (1.5 * distance - 2.5) * distance**2 + 1.0
    far: np.ndarray = ((-0.5 * distance + 2.5) * distance - 4.0) * distance + 2.0
    values: np.ndarray = np.where(distance <= 1, near, np.where(distance < 2, far, 0.0))
    return values


def _apply(weights: np.ndarray, data: np.ndarray, axis: int) -> np.ndarray:
    """Multiply along one axis of a C-contiguous array without moving its axes."""
    x, y, z = data.shape
    if axis == 0:
        product = weights @ data.reshape(x, y * z)
    elif axis == 1:
        product = np.matmul(weights, data)
    else:
        product = data.reshape(x * y, z) @ weights.T
    shape = list(data.shape)
    shape[axis] = len(weights)
    return np.asarray(product).reshape(shape)
