"""Spatial transforms: flips, rotation with zoom, and elastic deformation, interpolated once.

Each transform draws parameters (`sample`) and applies them (`apply`). Positions are voxels from the crop's centre;
rotations are rigid in mm whatever the spacing. What lies outside the crop is its mirror image: no invented value.
"""

import math
from dataclasses import dataclass
from typing import Literal

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int64
from torch import Tensor

from fomo_ssl.core.device import few_numbers
from fomo_ssl.core.errors import ConfigError
from fomo_ssl.core.seeding import uniform
from fomo_ssl.data.augment.params import Grid, Params, draw_applied, on_applied, on_axes
from fomo_ssl.data.augment.separable import smooth_field, smooth_field_at

Mode = Literal["bilinear", "nearest"]

_LANDMARKS = 9  # along each axis; two a cell of the default elastic field
_INVERSIONS = 20  # steps of the fixed point; a field of the default amplitude needs about 10 for a hundredth of a voxel


@dataclass(frozen=True)
class FlipParams(Params):
    """`axes`: which axes are mirrored."""

    axes: Bool[Tensor, "b 3"]


@dataclass(frozen=True)
class Flip:
    """Mirror axes; `p` is the probability along x (left-right), y and z. Its own inverse."""

    p: tuple[float, float, float]

    def sample(self, keys: Int64[Tensor, "b"], grid: Grid) -> FlipParams:
        axes = uniform(keys, 3) < torch.tensor(self.p)
        return FlipParams(applied=axes.any(1), axes=axes)

    def apply(self, x: Float[Tensor, "b c x y z"], params: FlipParams) -> Float[Tensor, "b c x y z"]:
        return on_axes(x, params, params.axes, _mirror)


def _mirror(x: Tensor, params: FlipParams, axis: int) -> Tensor:
    return x.flip(2 + axis)


@dataclass(frozen=True)
class AffineParams(Params):
    """`matrix`: where each output voxel comes from, input = matrix @ output."""

    matrix: Float[Tensor, "b 3 3"]

    def inverse(self) -> "AffineParams":
        return AffineParams(applied=self.applied, matrix=torch.linalg.inv(self.matrix))


@dataclass(frozen=True)
class Affine:
    """Rotate about the crop's centre by up to `degrees` around each axis and zoom within `zoom` (above 1 = larger)."""

    p: float
    degrees: float
    zoom: tuple[float, float]

    def sample(self, keys: Int64[Tensor, "b"], grid: Grid) -> AffineParams:
        draws = uniform(keys, 4)
        angles = (draws[:, :3] * 2 - 1) * math.radians(self.degrees)
        low, high = math.log(self.zoom[0]), math.log(self.zoom[1])
        zoom = torch.exp(low + (high - low) * draws[:, 3])
        in_mm = rotation(angles) / zoom[:, None, None]
        matrix = in_mm * grid.spacing[:, None, :] / grid.spacing[:, :, None]
        return AffineParams(applied=draw_applied(keys, self.p), matrix=matrix)

    def apply(
        self, x: Float[Tensor, "b c x y z"], params: AffineParams, mode: Mode = "bilinear"
    ) -> Float[Tensor, "b c x y z"]:
        return warp(x, WarpParams(params.applied, params.matrix, torch.zeros(len(x), 3, 4, 4, 4)), mode)


@dataclass(frozen=True)
class ElasticParams(Params):
    """`control`: displacement at the control points of a cubic B-spline, in voxels along x, y, z."""

    control: Float[Tensor, "b 3 g g g"]


@dataclass(frozen=True)
class Elastic:
    """Displace by a cubic B-spline field (free-form deformation; Rueckert et al. 1999, doi 10.1109/42.796284).

    Control displacements are uniform up to `amplitude` times the control spacing, crop size / cells. At most 0.4, so
    that the field cannot fold (Choi and Lee 2000, doi 10.1006/gmod.2000.0516).
    """

    p: float
    cells: int
    amplitude: float

    def __post_init__(self) -> None:
        if not 0.0 <= self.amplitude <= 0.4:
            raise ConfigError(
                f"elastic amplitude {self.amplitude} can fold space", way_out="Take 0 to 0.4 of the control spacing"
            )

    def sample(self, keys: Int64[Tensor, "b"], grid: Grid) -> ElasticParams:
        count = self.cells + 3
        spacing = torch.tensor([size / self.cells for size in grid.shape])
        unit = uniform(keys, 3, count, count, count, low=-1.0, high=1.0)
        control = unit * (self.amplitude * spacing)[:, None, None, None]
        return ElasticParams(applied=draw_applied(keys, self.p), control=control)

    def apply(
        self, x: Float[Tensor, "b c x y z"], params: ElasticParams, mode: Mode = "bilinear"
    ) -> Float[Tensor, "b c x y z"]:
        return warp(x, WarpParams(params.applied, torch.eye(3).repeat(len(x), 1, 1), params.control), mode)


@dataclass(frozen=True)
class WarpParams(Params):
    """An affine map after an elastic field, for one interpolation; identity and zeros where one was not drawn."""

    matrix: Float[Tensor, "b 3 3"]
    control: Float[Tensor, "b 3 g g g"]


def combine(affine: AffineParams, elastic: ElasticParams) -> WarpParams:
    """Both transforms as one; a sample is warped if it drew either."""
    matrix = torch.where(affine.applied[:, None, None], affine.matrix, torch.eye(3))
    control = elastic.control * elastic.applied[:, None, None, None, None]
    return WarpParams(affine.applied | elastic.applied, matrix, control)


def warp(x: Float[Tensor, "b c x y z"], params: WarpParams, mode: Mode = "bilinear") -> Float[Tensor, "b c x y z"]:
    """Interpolate once, on the samples that drew a warp; beyond an edge the crop is mirrored."""
    on_cpu, deform = x.device.type == "cpu", bool(params.control.any())

    def look_up(part: Tensor, p: WarpParams) -> Tensor:
        if on_cpu and len(part) > 1:
            # One by one the positions of a crop stay in the cache, and only crops that drew a field pay for one.
            return torch.cat([look_up(part[i : i + 1], p.take(torch.tensor([i]))) for i in range(len(part))])
        bent = bool(p.control.any()) if on_cpu else deform
        grid = warp_grid(part.shape[2:], p.matrix, p.control if bent else None)
        # Mirroring by hand, exact up to one crop's width outside: grid_sample's own reflection doubles its cost.
        grid = grid.clamp(-1.0, 1.0).mul_(2.0).sub_(grid)
        return F.grid_sample(part, grid, mode=mode, padding_mode="border", align_corners=False)

    return on_applied(x, params, look_up)


def rotation(angles: Float[Tensor, "b 3"]) -> Float[Tensor, "b 3 3"]:
    """Rotation about x, then y, then z, by `angles` in radians."""
    cos, sin = angles.cos(), angles.sin()
    result = torch.eye(3, dtype=angles.dtype, device=angles.device).expand(len(angles), 3, 3)
    for axis, (i, j) in enumerate([(1, 2), (2, 0), (0, 1)]):
        turn = torch.eye(3, dtype=angles.dtype, device=angles.device).repeat(len(angles), 1, 1)
        turn[:, i, i] = turn[:, j, j] = cos[:, axis]
        turn[:, i, j], turn[:, j, i] = -sin[:, axis], sin[:, axis]
        result = turn @ result
    return result


def warp_grid(
    shape: torch.Size, matrix: Float[Tensor, "b 3 3"], control: Float[Tensor, "b 3 g g g"] | None
) -> Float[Tensor, "b x y z 3"]:
    """Where output voxels come from, matrix @ (output + field), as `grid_sample` wants it: z, y, x in -1 .. 1.

    Written as a sum over axes: a tenth of the cost of `affine_grid`, which multiplies a matrix at every voxel.
    """
    size = few_numbers(shape, matrix.device, matrix.dtype)
    to_unit = (matrix * (2.0 / size)[None, :, None]).flip(1)
    along = []
    for axis, count in enumerate(shape):
        at = torch.arange(count, device=matrix.device, dtype=matrix.dtype) - (count - 1) / 2
        along.append(at[None, :, None] * to_unit[:, None, :, axis])
    grid = along[0][:, :, None, None] + along[1][:, None, :, None] + along[2][:, None, None]
    if control is not None:
        displacement = torch.einsum("bij,bjxyz->bixyz", to_unit, control)
        grid += smooth_field(displacement, shape).permute(0, 2, 3, 4, 1)
    return grid


def landmarks(
    shape: torch.Size, flip: FlipParams | None, warp: WarpParams | None, b: int
) -> Float[Tensor, "b 3 n n n"]:
    """Where a lattice of points of the crop is found after flips and a warp: see `Placement`.

    The lattice goes from the first voxel's centre to the last's. Mirror images beyond an edge are not looked for.
    """
    half = (torch.tensor(shape) - 1) / 2
    along = [torch.linspace(-float(h), float(h), _LANDMARKS) for h in half]
    points = torch.cartesian_prod(*along).expand(b, -1, -1)
    if flip is not None:
        points = torch.where(flip.axes[:, None], -points, points)
    if warp is not None:
        points = unwarp(points, shape, warp)
    return (points + half).transpose(1, 2).reshape(b, 3, *(_LANDMARKS,) * 3)


def unwarp(points: Float[Tensor, "b n 3"], shape: torch.Size, params: WarpParams) -> Float[Tensor, "b n 3"]:
    """Where points of the crop lie after `warp`, in voxels from the centre.

    Solves points = matrix @ (y + field(y)) for y: the affine part at once, the field by fixed-point iteration, which
    converges because the field cannot fold.
    """
    straight = torch.linalg.solve(params.matrix, points.transpose(1, 2)).transpose(1, 2)
    found = straight
    for _ in range(_INVERSIONS if bool(params.control.any()) else 0):
        found = straight - smooth_field_at(params.control, shape, found)
    return torch.where(params.applied[:, None, None], found, points)
