"""Label masks on disk: integers on the grid of their image."""

from pathlib import Path

import numpy as np

from fomo_ssl.core.errors import TaskError
from fomo_ssl.imaging.nifti import Volume, read

# A mask may lie this far from its image, in voxels: tools round affines when they save them.
_TOLERANCE = 0.1


def read_mask(path: Path, image: Volume | None = None) -> np.ndarray:
    """Read a mask (x, y, z) as uint8, checked against the image it was drawn on.

    Raises:
        TaskError: values are no classes, the shape is not the image's, or the mask lies elsewhere in space.
    """
    mask = read(path)
    values = np.rint(mask.data)
    if np.abs(values - mask.data).max() > 1e-3 or values.min() < 0 or values.max() > 255:
        raise TaskError("the mask holds values that are no class indices", where=path, way_out="Use 0, 1, 2 …")
    if image is not None:
        _check_grid(mask, image, path)
    classes: np.ndarray = values.astype(np.uint8)
    return classes


def _check_grid(mask: Volume, image: Volume, path: Path) -> None:
    if mask.data.shape != image.data.shape:
        raise TaskError(
            f"the mask's shape {mask.data.shape} differs from its image's {image.data.shape}",
            where=path,
            way_out="The mask belongs on the grid of the first sequence",
        )
    corners = np.array(np.meshgrid(*[(0.0, n - 1.0) for n in mask.data.shape], [1.0])).reshape(4, -1)
    apart = np.linalg.norm(((mask.affine - image.affine) @ corners)[:3], axis=0).max()
    if apart > _TOLERANCE * min(image.spacing):
        raise TaskError(
            f"the mask lies up to {apart:.1f} mm from its image",
            where=path,
            way_out="Give mask and image the same affine",
        )
