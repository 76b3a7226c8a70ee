"""What an encoder made of a view as a map over space, whether or not tokens were dropped, and looked up at places."""

import math

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float
from torch import Tensor

from fomo_ssl.core.device import few_numbers
from fomo_ssl.core.types import Placement, Triple
from fomo_ssl.objectives.base import Encoded
from fomo_ssl.objectives.masking import mask_grid


def last_map(
    encoded: Encoded, size: Triple, stride: Triple
) -> tuple[Float[Tensor, "b c gx gy gz"], Float[Tensor, "b 1 gx gy gz"]]:
    """The encoder's last map, and 1 where it holds something: tokens are put in their places, 0 where one was dropped.

    Args:
        encoded: one view's.
        size: voxels of the view.
        stride: voxels per place of the map.
    """
    if encoded.tokens is None:
        assert encoded.features is not None
        features = encoded.features[-1].float()
        return features, torch.ones_like(features[:, :1])
    assert encoded.keep is not None
    tokens, grid = encoded.tokens.float(), mask_grid(size, stride)
    b, _, d = tokens.shape
    index = encoded.keep[..., None]
    flat = tokens.new_zeros(b, math.prod(grid), d).scatter(1, index.expand_as(tokens), tokens)
    held = tokens.new_zeros(b, math.prod(grid), 1).scatter(1, index, 1.0)
    return flat.transpose(1, 2).reshape(b, d, *grid), held.transpose(1, 2).reshape(b, 1, *grid)


def look_up(
    features: Float[Tensor, "b c gx gy gz"],
    held: Float[Tensor, "b 1 gx gy gz"],
    places: Float[Tensor, "b n 3"],
    stride: Triple,
) -> tuple[Float[Tensor, "b n c"], Bool[Tensor, "b n"]]:
    """Features at places in voxels of the view, interpolated between what is held, and whether anything was near.

    Normalised convolution (Knutsson & Westin 1993, doi 10.1109/CVPR.1993.341081): both the features, with zeros where
    nothing is held, and the certainties 0 and 1 are interpolated, and divided.
    """
    cells = few_numbers([g * s for g, s in zip(features.shape[2:], stride, strict=True)], places.device)
    # A place's voxels are stride * g to stride * (g + 1) - 1; grid_sample wants -1 and 1 at the map's outer edges.
    unit = ((2.0 * places + 1.0) / cells - 1.0).flip(-1)[:, :, None, None]
    with torch.autocast(features.device.type, enabled=False):
        both = torch.cat((features * held, held), dim=1)
        found = F.grid_sample(both, unit, mode="bilinear", padding_mode="border", align_corners=False)
    found = found.flatten(2).transpose(1, 2)
    near = found[..., -1:]
    return found[..., :-1] / near.clamp_min(1e-6), near[..., 0] > 1e-3


def shared_places(
    placement: Placement, size: Triple, count: int
) -> tuple[list[Float[Tensor, "b n 3"]], Bool[Tensor, "b n"]]:
    """Where the places of a lattice over the overlap of two crops of one scan lie in both views, in voxels.

    The lattice has count^3 places, the centres of as many equal boxes.

    Returns:
        positions in the first and in the second view, and whether a place lies inside both: zoom may have pushed it
        out, and crops of scans smaller than a crop need not overlap.
    """
    origins = placement.origins[:2].float()
    voxels = few_numbers(size, origins.device, torch.float32)
    low, high = origins.amax(0), origins.amin(0) + voxels
    along = (torch.arange(count, device=origins.device) + 0.5) / count
    lattice = torch.cartesian_prod(along, along, along)
    # Voxel i reaches from i - 0.5 to i + 0.5, in scan and view alike.
    points = low[:, None] + (high - low)[:, None] * lattice - 0.5
    inside = (high > low).all(1)[:, None].expand(-1, len(lattice))
    positions = []
    for view in (0, 1):
        unit = (2.0 * (points - origins[view][:, None]) / (voxels - 1.0) - 1.0).flip(-1)[:, :, None, None]
        found = F.grid_sample(placement.landmarks[view], unit, padding_mode="border", align_corners=True)
        position = found.flatten(2).transpose(1, 2)
        inside = inside & ((position >= -0.5) & (position <= voxels - 0.5)).all(-1)
        positions.append(position)
    return positions, inside
