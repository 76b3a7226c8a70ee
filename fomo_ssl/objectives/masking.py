"""Random masks as pure functions of keys: the same keys give the same mask on any device and for any batch split."""

import math

from einops import repeat
from jaxtyping import Bool, Int64
from torch import Tensor

from fomo_ssl.core.errors import ConfigError
from fomo_ssl.core.seeding import bits, fold
from fomo_ssl.core.types import Triple


def mask_grid(size: Triple, unit: Triple) -> Triple:
    """Mask units along each axis that cover `size` voxels; the last unit may reach over the edge."""
    x, y, z = (math.ceil(s / u) for s, u in zip(size, unit, strict=True))
    return x, y, z


def hidden_count(grid: Triple, ratio: float) -> int:
    """How many units of `grid` a mask hides: round(ratio * n).

    Raises:
        ConfigError: `ratio` lies outside [0, 1].
    """
    if not 0.0 <= ratio <= 1.0:
        raise ConfigError(f"mask ratio {ratio} does not lie between 0 and 1")
    return round(ratio * math.prod(grid))


def view_mask(
    keys: Int64[Tensor, "b"], view: int, size: Triple, unit: Triple, ratio: float, block: int = 1
) -> Bool[Tensor, "b gx gy gz"]:
    """The mask of a view of `size` voxels, its own for every sample and view; `unit` in voxels, else as `random_mask`.

    Raises:
        ConfigError: it would hide nothing, or everything, or the same of every sample.
    """
    grid = mask_grid(size, unit)
    units, count = math.prod(grid), hidden_count(grid, ratio)
    if not 0 < count < units:
        raise ConfigError(
            f"mask ratio {ratio} hides {count} of the {units} units of {unit} voxels in a crop {size}",
            way_out="use larger crops, another ratio or smaller units, which tokens and maps take from the encoder",
        )
    if block < 1 or math.prod(mask_grid(grid, (block, block, block))) < 2:
        raise ConfigError(
            f"masks in cubes of {block} units along an edge are not random in a crop of {grid} units",
            way_out="take mask_block from 1 up to less than the units along the crop's longest axis",
        )
    return random_mask(fold(keys, f"mask/{view}"), grid, ratio, block)


def random_mask(keys: Int64[Tensor, "b"], grid: Triple, ratio: float, block: int = 1) -> Bool[Tensor, "b gx gy gz"]:
    """Hide exactly `hidden_count(grid, ratio)` units of every sample, uniformly at random (True = hidden).

    Args:
        keys: one random key per sample.
        grid: mask units along x, y, z.
        ratio: hidden fraction, 0 to 1.
        block: edge, in units, of the cubes that are hidden together; whole cubes are hidden in random order and
            only the last one is cut to meet the count.
    """
    count = hidden_count(grid, ratio)
    blocks = mask_grid(grid, (block, block, block))
    # 64-bit draws instead of floats: two units never share a rank in effect, and integers sort alike on every device.
    draws = repeat(bits(keys, *blocks), "b x y z -> b (x i) (y j) (z k)", i=block, j=block, k=block)
    draws = draws[:, : grid[0], : grid[1], : grid[2]].flatten(1)
    # Units of one block share a draw; the stable sort cuts the last block in raster order.
    order = draws.argsort(dim=1, stable=True)
    hidden = order.new_zeros(order.shape).bool().scatter_(1, order[:, :count], True)
    return hidden.reshape(-1, *grid)
