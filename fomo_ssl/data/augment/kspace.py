"""Intensity transforms in the space where a scanner measures: lines of spatial frequency that are missing or displaced.

Frequencies are those of the cosine transform, the Fourier transform of the crop beside its mirror image: a crop does
not wrap around, so its opposite faces must not ring into each other. Both are real matrices along an axis, one for each
sample, which costs no wait for the device.
"""

import math
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float, Int64
from torch import Tensor
from torch.nn import functional as F

from fomo_ssl.core.device import few_numbers
from fomo_ssl.core.seeding import fold, uniform
from fomo_ssl.data.augment.params import Grid, Params, draw_applied, on_axes
from fomo_ssl.data.augment.separable import along
from fomo_ssl.data.augment.spatial import rotation, warp_grid

Volumes = Float[Tensor, "b c x y z"]

BANDS = 16
"""Equal bands of frequency along an axis; a movement decides for each whether it was measured before or after it."""


@dataclass(frozen=True)
class GibbsParams(Params):
    """`keep`: measured share of the frequencies along x, y, z; 1 leaves an axis alone."""

    keep: Float[Tensor, "b 3"]


@dataclass(frozen=True)
class Gibbs:
    """Truncated frequencies: ringing beside edges along one axis, or all three with probability `p_isotropic`."""

    p: float
    keep: tuple[float, float]
    p_isotropic: float

    def sample(self, keys: Int64[Tensor, "b"], grid: Grid) -> GibbsParams:
        draws = uniform(keys, 3)
        share = self.keep[0] + (self.keep[1] - self.keep[0]) * draws[:, 0]
        cut = _one_axis(draws[:, 1]) | (draws[:, 2] < self.p_isotropic)[:, None]
        keep = torch.where(cut, share[:, None], torch.ones(()))
        return GibbsParams(applied=draw_applied(keys, self.p), keep=keep)

    def apply(self, x: Volumes, params: GibbsParams) -> Volumes:
        def truncate(part: Tensor, p: GibbsParams, axis: int) -> Tensor:
            size = part.shape[2 + axis]
            frequency = torch.arange(size, device=part.device)
            return along(part, filter_matrix((frequency < p.keep[:, axis, None] * size).to(part.dtype)), axis)

        return on_axes(x, params, params.keep < 1, truncate)


@dataclass(frozen=True)
class MotionParams(Params):
    """`matrix` and `shift` (voxels) of the head that moved, measured in `bands` along `axis`."""

    matrix: Float[Tensor, "b 3 3"]
    shift: Float[Tensor, "b 3"]
    axis: Bool[Tensor, "b 3"]
    bands: Bool[Tensor, "b bands"]


@dataclass(frozen=True)
class Motion:
    """Ghosts of a head that moved while it was measured: some bands of frequency are those of the moved head.

    Rotation by up to `degrees` about each axis and a shift of up to `shift` mm along each. The lowest band is never
    displaced: the head stays where the target has it. Simplified: frequencies of either sign move together, and the
    signal stays real.
    """

    p: float
    degrees: float
    shift: float

    def sample(self, keys: Int64[Tensor, "b"], grid: Grid) -> MotionParams:
        draws = uniform(fold(keys, "movement"), 7)
        angles = (draws[:, :3] * 2 - 1) * math.radians(self.degrees)
        matrix = rotation(angles) * grid.spacing[:, None, :] / grid.spacing[:, :, None]
        shift = (draws[:, 3:6] * 2 - 1) * self.shift / grid.spacing
        bands = uniform(fold(keys, "bands"), BANDS) < 0.5
        bands[:, 0] = False
        # At least one, or a sample that drew the transform would be left as it is.
        bands[:, BANDS // 4] = True
        return MotionParams(draw_applied(keys, self.p), matrix, shift, _one_axis(draws[:, 6]), bands)

    def apply(self, x: Volumes, params: MotionParams) -> Volumes:
        def ghost(part: Tensor, p: MotionParams, axis: int) -> Tensor:
            size = part.shape[2 + axis]
            band = torch.arange(size, device=part.device) * BANDS // size
            change = displaced(part, p.matrix, p.shift).sub_(part)
            return along(change, filter_matrix(p.bands[:, band].to(part.dtype)), axis).add_(part)

        return on_axes(x, params, params.axis, ghost)


def displaced(x: Volumes, matrix: Float[Tensor, "b 3 3"], shift: Float[Tensor, "b 3"]) -> Volumes:
    """The crop rotated about its centre and shifted by voxels; its edge values are repeated."""
    size = few_numbers(x.shape[2:], x.device, x.dtype)
    grid = warp_grid(x.shape[2:], matrix, None) - (2.0 * shift / size).flip(1)[:, None, None, None]
    return F.grid_sample(x, grid, padding_mode="border", align_corners=False)


def filter_matrix(weight: Float[Tensor, "b n"]) -> Float[Tensor, "b n n"]:
    """Cosine transform along an axis, a weight for every frequency, and back; weights of 1 are the identity."""
    n = weight.shape[1]
    at = torch.arange(n, device=weight.device, dtype=weight.dtype)
    cosines = torch.cos(math.pi / n * at[:, None] * (at + 0.5)) * math.sqrt(2.0 / n)
    cosines[0] *= math.sqrt(0.5)
    return torch.einsum("ki,bk,kj->bij", cosines, weight, cosines)


def _one_axis(draw: Float[Tensor, "b"]) -> Bool[Tensor, "b 3"]:
    return torch.arange(3) == (draw * 3).long()[:, None]
