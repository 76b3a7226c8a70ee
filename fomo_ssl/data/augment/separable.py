"""Linear maps along the three axes as small matrices: smooth fields, blur and lost resolution are all of this kind.

A dense matrix along an axis of a crop (some hundred voxels) is faster than a convolution with few taps, on one CPU
core (blur of 96^3 in 20 ms) as on a GPU, and takes another kernel for every sample without a loop.
"""

import torch
from jaxtyping import Float
from torch import Tensor


def separable(
    x: Float[Tensor, "b c x y z"],
    along_x: Float[Tensor, "... x2 x"],
    along_y: Float[Tensor, "... y2 y"],
    along_z: Float[Tensor, "... z2 z"],
) -> Float[Tensor, "b c x2 y2 z2"]:
    """Multiply each axis by its matrix: one for all samples, or one each (b, out, in)."""
    for axis, matrix in enumerate((along_x, along_y, along_z)):
        x = along(x, matrix, axis)
    return x


def along(
    x: Float[Tensor, "b c x y z"], matrix: Float[Tensor, "... out size"], axis: int
) -> Float[Tensor, "b c x2 y2 z2"]:
    """Multiply one axis by a matrix: one for all samples, or one each (b, out, in)."""
    each = matrix.expand(len(x), *matrix.shape[-2:])
    return torch.einsum(("bcxyz,bkx->bckyz", "bcxyz,bky->bcxkz", "bcxyz,bkz->bcxyk")[axis], x, each)


def bspline_matrix(size: int, cells: int, like: Tensor) -> Float[Tensor, "size control"]:
    """Values of the cells + 3 uniform cubic B-splines at `size` voxel centres; each row sums to 1.

    A field made of them is twice differentiable and never exceeds the largest of its control values.
    """
    return bspline_rows((torch.arange(size, device=like.device, dtype=like.dtype) + 0.5) * (cells / size), cells)


def bspline_rows(position: Float[Tensor, "... n"], cells: int) -> Float[Tensor, "... n control"]:
    """Values of the cells + 3 uniform cubic B-splines at positions from 0 to `cells`."""
    cell = position.floor().clamp(min=0, max=cells - 1)
    u = (position - cell)[..., None]
    weights = torch.cat([(1 - u) ** 3, 3 * u**3 - 6 * u**2 + 4, -3 * u**3 + 3 * u**2 + 3 * u + 1, u**3], dim=-1) / 6
    rows = position.new_zeros(*position.shape, cells + 3)
    return rows.scatter(-1, cell[..., None].long() + torch.arange(4, device=position.device), weights)


def smooth_field(control: Float[Tensor, "b c gx gy gz"], shape: torch.Size) -> Float[Tensor, "b c x y z"]:
    """The cubic B-spline field of control values on a grid of voxels (x, y, z)."""
    matrices = [bspline_matrix(size, count - 3, control) for size, count in zip(shape, control.shape[2:], strict=True)]
    return separable(control, *matrices)


def smooth_field_at(
    control: Float[Tensor, "b c gx gy gz"], shape: torch.Size, points: Float[Tensor, "b n 3"]
) -> Float[Tensor, "b n c"]:
    """The same field at single points, in voxels from the centre of the grid; beyond its edge, as at the edge."""
    size = torch.tensor(shape, device=points.device, dtype=points.dtype)
    cells = [count - 3 for count in control.shape[2:]]
    unit = ((points + size / 2) / size).clamp(0.0, 1.0)
    x, y, z = (bspline_rows(unit[..., axis] * count, count) for axis, count in enumerate(cells))
    return torch.einsum("bcijk,bni,bnj,bnk->bnc", control, x, y, z)


def gaussian_matrix(size: int, sigma: Float[Tensor, "b"]) -> Float[Tensor, "b size size"]:
    """Gaussian smoothing along one axis, `sigma` in voxels; weights sum to 1 at the edges too; 0 is the identity."""
    at = torch.arange(size, device=sigma.device, dtype=sigma.dtype)
    weights = torch.exp(-0.5 * ((at[:, None] - at) / sigma.clamp(min=1e-3)[:, None, None]) ** 2)
    return weights / weights.sum(2, keepdim=True)


def thick_slice_matrix(size: int, factor: Float[Tensor, "b"]) -> Float[Tensor, "b size size"]:
    """Average an axis into slices `factor` >= 1 voxels thick, then interpolate back linearly; 1 is the identity."""
    voxel = torch.arange(size, device=factor.device, dtype=factor.dtype)
    factor = factor[:, None, None]
    lower = voxel[None, :, None] * factor
    overlap = (torch.minimum(lower + factor, voxel + 1) - torch.maximum(lower, voxel)).clamp(min=0)
    average = overlap / overlap.sum(2, keepdim=True).clamp(min=1e-6)
    last = torch.ceil(size / factor - 1e-4) - 1
    position = ((voxel[None, :, None] + 0.5) / factor - 0.5).clamp(min=0).minimum(last)
    return (1 - (position - voxel).abs()).clamp(min=0) @ average
