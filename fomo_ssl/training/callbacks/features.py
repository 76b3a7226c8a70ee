"""What an encoder tells apart inside a scan: the first three principal components of its features as colours."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

from fomo_ssl.training.pictures import grey_window, middle_slices, save_picture

MIN_CELLS = 6
"""Cells along its longest axis that a map needs to be looked at."""


def map_to_show(maps: Sequence[Float[Tensor, "b _ _ _ _"]]) -> Float[Tensor, "b c x y z"]:
    """The last feature map that is not too coarse for a picture: a pyramid ends in very few cells."""
    fine = [level for level in maps if max(level.shape[2:]) >= MIN_CELLS]
    return (fine or maps[:1])[-1]


def principal_colours(features: Float[Tensor, "b c x y z"]) -> Float[Tensor, "b x y z 3"]:
    """The three directions in which the features differ most, over all scans together, as red, green and blue.

    Each component from its 2nd to its 98th percentile as 0 to 1; its sign is chosen so that its largest loading is
    positive. Fewer than three channels leave the other colours at 0.5.
    """
    b, c, *grid = features.shape
    cells = features.detach().float().cpu().movedim(1, -1).reshape(-1, c)
    cells = cells - cells.mean(dim=0)
    _, _, directions = torch.linalg.svd(cells.T @ cells)
    directions = directions[:3]
    signs = directions.gather(1, directions.abs().argmax(dim=1, keepdim=True)).sign()
    components = cells @ (directions * signs).T
    low, high = torch.quantile(_thinned(components), torch.tensor([0.02, 0.98]), dim=0)
    colours = ((components - low) / (high - low).clamp_min(1e-12)).clamp(0.0, 1.0)
    return F.pad(colours, (0, 3 - colours.shape[1]), value=0.5).reshape(b, *grid, 3)


def draw_features(images: Float[Tensor, "b c x y z"], features: Float[Tensor, "b d _ _ _"], path: Path) -> None:
    """One row per scan: its first channel and its colours over the whole crop, each by three middle slices."""
    colours = F.interpolate(principal_colours(features).movedim(-1, 1), size=images.shape[2:], mode="trilinear")
    rows = []
    for image, colour in zip(images[:, 0].float().cpu().numpy(), colours.movedim(1, -1).numpy(), strict=True):
        grey = middle_slices(image, *grey_window(image))
        rows.append(np.hstack([grey[..., None].repeat(3, axis=-1), middle_slices(colour)]))
    save_picture(np.vstack(rows), ("scan", "first three principal components of the features"), path)


def _thinned(rows: Float[Tensor, "n k"]) -> Float[Tensor, "m k"]:
    """At most about 100,000 evenly spaced rows: `torch.quantile` takes no more than 16 million numbers."""
    return rows[:: max(1, len(rows) // 100_000)]
