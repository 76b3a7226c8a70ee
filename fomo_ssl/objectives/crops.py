"""Small crops of a view, cut on its device."""

import torch
from jaxtyping import Float, Int64
from torch import Tensor

from fomo_ssl.core.types import Triple


def cut(
    image: Float[Tensor, "b c x y z"], corners: Int64[Tensor, "b n 3"], edge: Triple
) -> Float[Tensor, "k c x2 y2 z2"]:
    """Crops of `edge` voxels at each sample's corners, a sample's crops one after another (k = b * n)."""
    x, y, z = (corners[..., axis, None] + torch.arange(length, device=image.device) for axis, length in enumerate(edge))
    sample = torch.arange(len(image), device=image.device)[:, None, None, None, None]
    cropped = image.movedim(1, -1)[sample, x[..., None, None], y[..., None, :, None], z[..., None, None, :]]
    return cropped.flatten(0, 1).movedim(-1, 1).contiguous()
