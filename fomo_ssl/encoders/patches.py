"""What the transformer families share: an input as patches, positions from a table, blocks in a row, tokens as maps.

Flat token order is x slowest, as in `fomo_ssl.layers.tokens`.
"""

from collections.abc import Iterable, Iterator, Sequence

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int64
from torch import Tensor, nn

from fomo_ssl.core.types import FeatureInfo, Triple
from fomo_ssl.encoders.base import Encoder, crop_maps, pad_to_multiple
from fomo_ssl.layers import recompute
from fomo_ssl.layers.linear import linear
from fomo_ssl.layers.tokens import gather_tokens, patchify
from fomo_ssl.layers.transformer import Rotary


class PatchEmbed(nn.Module):
    """A linear map of each patch, applied to visible patches only.

    Gathering before the linear layer is 3.3 times as fast as a strided convolution at 25 % visible patches. The weight
    keeps the layout of that convolution, (d, c, px, py, pz), so that stems inflate and are exchanged like any other.
    """

    def __init__(self, in_channels: int, dim: int, patch: Triple) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.empty(dim, in_channels, *patch))
        self.bias = nn.Parameter(torch.zeros(dim))
        # Unit variance in, unit variance out: with 0.02 the tokens would drown in the blocks' first updates.
        std = self.weight[0].numel() ** -0.5
        nn.init.trunc_normal_(self.weight, std=std, a=-2 * std, b=2 * std)

    def forward(self, patches: Float[Tensor, "b k v"]) -> Float[Tensor, "b k d"]:
        """Tokens from patches of v = c * px * py * pz values."""
        return linear(patches, self.weight.flatten(1), self.bias)


def to_patches(x: Float[Tensor, "b c x y z"], patch: Triple) -> tuple[Float[Tensor, "b n v"], Triple]:
    """All patches of an input, padded at the far end to whole ones, and the grid they lie on."""
    padded = pad_to_multiple(x, patch)
    gx, gy, gz = (size // edge for size, edge in zip(padded.shape[2:], patch, strict=True))
    return patchify(padded, patch), (gx, gy, gz)


def learned_positions(
    table: Float[Tensor, "1 d gx gy gz"], index: Int64[Tensor, "_ k"], grid: Triple
) -> Float[Tensor, "_ k d"]:
    """Rows of a position table, interpolated to `grid`, of the tokens with these flat indices."""
    rows = F.interpolate(table, size=grid, mode="trilinear").flatten(2).transpose(1, 2)
    return gather_tokens(rows.expand(len(index), -1, -1), index)


def run_blocks(
    encoder: Encoder, blocks: Iterable[nn.Module], tokens: Float[Tensor, "b k d"], rotary: Rotary, taps: Sequence[int]
) -> Iterator[Float[Tensor, "b k d"]]:
    """Tokens after each number of blocks in `taps`, recomputed in the backward pass where the encoder asks for it."""
    for depth, block in enumerate(blocks, start=1):
        tokens = recompute.run(encoder, block, tokens, rotary)
        if depth in taps:
            yield tokens


def to_maps(
    tapped: Iterable[Float[Tensor, "b n d"]], grid: Triple, info: list[FeatureInfo], size: Sequence[int]
) -> list[Float[Tensor, "b d _ _ _"]]:
    """All tokens of a grid as maps over space, cut to an input of `size` voxels before padding."""
    return crop_maps([tokens.transpose(1, 2).reshape(len(tokens), -1, *grid) for tokens in tapped], info, size)
