"""Smooth random fields and sampling on regular grids: the arithmetic under anatomy, lesions and scanner.

Everything here is element by element (no matrix products), so results do not depend on the number of threads.
"""

from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Float32, Float64
from scipy.ndimage import gaussian_filter

from fomo_ssl.core.types import Triple

_FINEST_MM = 4.0
"""Fields are drawn on a grid no finer than this and interpolated; nothing that they describe is smaller."""


@dataclass(frozen=True)
class Grid:
    """A regular RAS+ grid: voxels, edge in mm, and the world position of voxel (0, 0, 0)."""

    shape: Triple
    edge: float
    origin: tuple[float, float, float]

    @property
    def affine(self) -> Float64[np.ndarray, "4 4"]:
        affine = np.diag([self.edge, self.edge, self.edge, 1.0])
        affine[:3, 3] = self.origin
        return affine

    def resized(self, edge: float) -> "Grid":
        """About the same box with voxels of `edge` mm; the first voxel stays where it is."""
        x, y, z = (round((n - 1) * self.edge / edge) + 1 for n in self.shape)
        return Grid((x, y, z), edge, self.origin)

    def points(self) -> Float32[np.ndarray, "3 x y z"]:
        """World coordinates in mm of every voxel centre."""
        axes = [o + self.edge * np.arange(n) for o, n in zip(self.origin, self.shape, strict=True)]
        return np.stack(np.meshgrid(*axes, indexing="ij")).astype(np.float32)


def smooth_noise(
    rng: np.random.Generator, grid: Grid, width: float, channels: int = 1, shape: Triple | None = None
) -> Float32[np.ndarray, "c _ _ _"]:
    """Gaussian random fields of unit variance over the box of `grid`, smoothed by a kernel of sd `width` mm.

    `shape` is the number of voxels to give, by default the grid's.
    """
    coarse = grid.resized(max(_FINEST_MM, width / 2.5))
    white = rng.standard_normal((channels, *coarse.shape), dtype=np.float32)
    smooth = np.stack([gaussian_filter(c, width / coarse.edge, mode="nearest", truncate=3.0) for c in white])
    smooth -= smooth.mean(axis=(1, 2, 3), keepdims=True)
    smooth /= smooth.std(axis=(1, 2, 3), keepdims=True) + np.float32(1e-6)
    return upsample(smooth, shape or grid.shape)


def upsample(field: Float32[np.ndarray, "c _ _ _"], shape: Triple) -> Float32[np.ndarray, "c x y z"]:
    """Trilinear interpolation onto `shape`, corners on corners."""
    return F.interpolate(torch.from_numpy(field)[None], size=shape, mode="trilinear", align_corners=True)[0].numpy()


def sample(
    field: Float32[np.ndarray, "c _ _ _"], grid: Grid, points: Float32[np.ndarray, "3 x y z"]
) -> Float32[np.ndarray, "c x y z"]:
    """Trilinear values of `field`, which lies on `grid`, at world `points`; beyond the edge the edge value."""
    scaled = np.empty((*points.shape[1:], 3), np.float32)
    for axis in range(3):
        extent = (grid.shape[axis] - 1) * grid.edge / 2
        # grid_sample wants x last-dimension first and the range -1 to 1.
        scaled[..., 2 - axis] = (points[axis] - np.float32(grid.origin[axis] + extent)) * np.float32(1 / extent)
    values = F.grid_sample(
        torch.from_numpy(field)[None], torch.from_numpy(scaled)[None], padding_mode="border", align_corners=True
    )
    return values[0].numpy()


def ramp(x: Float32[np.ndarray, "..."], width: float) -> Float32[np.ndarray, "..."]:
    """A soft step: 0 below -width/2, 1 above width/2."""
    step: np.ndarray = np.clip(x * np.float32(1 / width) + np.float32(0.5), 0.0, 1.0)
    return step
