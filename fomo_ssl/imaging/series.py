"""Scans made of a file with several volumes: weighted sums of its volumes, in one pass over the file.

Diffusion series have hundreds of volumes of which few are wanted; only the sums and one volume are in memory.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from fomo_ssl.core.errors import RejectedScan
from fomo_ssl.imaging.nifti import MAX_CLAIMED, OpenImage, Volume, check_budget, check_room, finite_float32, open_image
from fomo_ssl.imaging.stream import fill, finish, skip


def read_sums(
    path: str | Path, weights: Sequence[Mapping[int, float]], *, max_voxels: int = MAX_CLAIMED
) -> list[Volume | RejectedScan]:
    """One volume for each mapping from position in the series to weight, or the reason why that one is refused.

    Args:
        path: a 4D file, as for `imaging.nifti.read`.
        weights: of the volumes that make up each scan; positions in range.
        max_voxels: refuse more voxels in all scans before asking for memory.

    Returns:
        Volumes of (x, y, z) float32; a `RejectedScan` with NON_FINITE where one of its volumes is no image.

    Raises:
        RejectedScan: the whole file is refused, with the reason and the path.
    """
    with open_image(path) as image:
        shape, count = image.header.shape[:3], image.header.shape[3]
        size = int(np.prod(shape, dtype=object))
        check_budget(image.header.shape, size * (len(weights) + 1), max_voxels)
        check_room(image)
        sums: list[Volume | RejectedScan | None] = [None] * len(weights)
        skip(image.voxels, image.header.offset - image.position)
        for position in range(count):
            wanted = [at for at, mapping in enumerate(weights) if position in mapping]
            if not wanted:
                skip(image.voxels, size * image.header.dtype.itemsize)
                continue
            volume = _next(image, shape, size)
            for at in wanted:
                sums[at] = _added(sums[at], volume, weights[at][position])
        finish(image.voxels)
        return [entry for entry in sums if entry is not None]


def _next(image: OpenImage, shape: tuple[int, ...], size: int) -> Volume | RejectedScan:
    stored = np.empty(size, image.header.dtype)
    fill(image.voxels, memoryview(stored.view(np.uint8).data))
    try:
        data, notes = finite_float32(stored, image.header)
    except RejectedScan as error:
        return error
    return Volume(data.reshape(shape, order="F"), image.header.affine, image.header.notes + notes)


def _added(total: Volume | RejectedScan | None, volume: Volume | RejectedScan, weight: float) -> Volume | RejectedScan:
    if isinstance(total, RejectedScan):
        return total
    if isinstance(volume, RejectedScan):
        return volume
    share = volume.data * np.float32(weight)
    if total is None:
        return Volume(share, volume.affine, volume.notes)
    np.add(total.data, share, out=total.data)
    notes = total.notes + tuple(note for note in volume.notes if note not in total.notes)
    return Volume(total.data, total.affine, notes)
