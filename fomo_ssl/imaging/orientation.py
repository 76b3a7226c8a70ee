"""Which way array axes point, and the view of an array in RAS+."""

import numpy as np

from fomo_ssl.imaging.nifti import Volume


def axis_order(affine: np.ndarray) -> tuple[tuple[int, int, int], tuple[bool, bool, bool]]:
    """For each world axis x, y, z: the array axis nearest to it, and whether that axis runs the other way.

    Axes are matched largest direction cosine first, so an oblique scan still gets three different axes.
    """
    directions = affine[:3, :3] / np.linalg.norm(affine[:3, :3], axis=0)
    cosines = np.abs(directions)
    order, flips = [0, 0, 0], [False, False, False]
    for _ in range(3):
        world, axis = np.unravel_index(np.argmax(cosines), (3, 3))
        order[world], flips[world] = int(axis), bool(directions[world, axis] < 0)
        cosines[world, :] = cosines[:, axis] = -1.0
    return (order[0], order[1], order[2]), (flips[0], flips[1], flips[2])


def orientation(affine: np.ndarray) -> str:
    """Letters of the directions in which array axes run, such as "LPS"."""
    order, flips = axis_order(affine)
    letters = [""] * 3
    for world, axis in enumerate(order):
        letters[axis] = ("RAS", "LPI")[flips[world]][world]
    return "".join(letters)


def to_ras(volume: Volume) -> Volume:
    """The same volume with axes nearest to right, anterior, superior: a view, no voxel is copied or interpolated."""
    order, flips = axis_order(volume.affine)
    data = volume.data.transpose(*order, *range(3, volume.data.ndim))
    affine = volume.affine[:, [*order, 3]].copy()
    for axis, flip in enumerate(flips):
        if flip:
            data = np.flip(data, axis)
            affine[:3, 3] += affine[:3, axis] * (data.shape[axis] - 1)
            affine[:3, axis] *= -1
    return Volume(data, affine, volume.notes)
