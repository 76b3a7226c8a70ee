"""Volumes as tokens: cut into patches and back, and where a flat token index lies on the patch grid.

Flat order is x slowest, z fastest, everywhere.
"""

import torch
from einops import rearrange
from jaxtyping import Float, Int64
from torch import Tensor

from fomo_ssl.core.types import Triple


def patchify(x: Float[Tensor, "b c x y z"], patch: Triple) -> Float[Tensor, "b n v"]:
    """Cut a volume whose size is a multiple of `patch` into tokens of v = c * px * py * pz values, channel slowest."""
    px, py, pz = patch
    return rearrange(x, "b c (gx px) (gy py) (gz pz) -> b (gx gy gz) (c px py pz)", px=px, py=py, pz=pz)


def unpatchify(patches: Float[Tensor, "b n v"], patch: Triple, grid: Triple) -> Float[Tensor, "b c x y z"]:
    """Put patches back in place; the inverse of `patchify`."""
    (px, py, pz), (gx, gy, gz) = patch, grid
    pattern = "b (gx gy gz) (c px py pz) -> b c (gx px) (gy py) (gz pz)"
    return rearrange(patches, pattern, gx=gx, gy=gy, gz=gz, px=px, py=py, pz=pz)


def gather_tokens(tokens: Float[Tensor, "b n d"], keep: Int64[Tensor, "b k"]) -> Float[Tensor, "b k d"]:
    """The tokens at flat indices `keep`, each sample its own."""
    return tokens.gather(1, keep[..., None].expand(-1, -1, tokens.shape[-1]))


def token_coordinates(index: Int64[Tensor, "b k"], grid: Triple) -> Float[Tensor, "b k 3"]:
    """Position of flat token indices on the patch grid, in patch units along x, y, z."""
    _, gy, gz = grid
    return torch.stack((index // (gy * gz), index // gz % gy, index % gz), dim=-1).float()


def all_tokens(grid: Triple, device: torch.device) -> Int64[Tensor, "1 n"]:
    """Flat indices of every token of a grid."""
    return torch.arange(grid[0] * grid[1] * grid[2], device=device)[None]
