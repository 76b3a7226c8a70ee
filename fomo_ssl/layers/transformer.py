"""Transformer blocks that know where their tokens are in 3D: pre-norm, fused attention, axial rotary positions.

Encoders and token decoders share them. Positions are coordinates, not table rows: any grid size works, and so does
any subset of its tokens.
"""

import torch
from jaxtyping import Float
from torch import Tensor, nn

from fomo_ssl.layers.attention import attend
from fomo_ssl.layers.linear import Linear

Rotary = tuple[Float[Tensor, "#b n p"], Float[Tensor, "#b n p"]]
"""Cosine and sine of each token's rotation angles, float32; batch 1 where all samples share them."""

ROTARY_BASE = 100.0
"""Ratio of the fastest to the slowest frequency. Grids have tens of tokens a side, not the thousands of a text, for
which RoFormer's 10000 leaves most frequencies idle."""


def rotary_angles(coordinates: Float[Tensor, "b n 3"], head_dim: int, base: float = ROTARY_BASE) -> Rotary:
    """Axial rotary positions (Su et al. 2021, arXiv 2104.09864, one third of the pairs per axis).

    Args:
        coordinates: positions along x, y, z, in patch units; batch 1 where all samples share them.
        head_dim: width of a head; the `head_dim % 6` last channels carry no position.
        base: ratio of the fastest to the slowest frequency.
    """
    pairs = head_dim // 6
    frequencies = base ** -(torch.arange(pairs, device=coordinates.device, dtype=torch.float32) / pairs)
    angles = (coordinates[..., None] * frequencies).flatten(-2)
    return angles.cos(), angles.sin()


def rotate(x: Float[Tensor, "b h n d"], rotary: Rotary) -> Float[Tensor, "b h n d"]:
    """Turn channel pairs (i, i + p) by the tokens' angles, in float32; the result has the type of x."""
    cos, sin = (table[:, None] for table in rotary)
    pairs = cos.shape[-1]
    # One conversion and one split: slices would each fill a gradient of the whole size with zeros.
    first, second, rest = torch.split(x.float(), [pairs, pairs, x.shape[-1] - 2 * pairs], dim=-1)
    turned = torch.cat((first * cos - second * sin, first * sin + second * cos, rest), dim=-1)
    return turned.to(x.dtype)


class Attention(nn.Module):
    """Multi-head self-attention over tokens with rotary positions."""

    def __init__(self, dim: int, heads: int) -> None:
        super().__init__()
        if dim % heads:
            raise ValueError(f"width {dim} is no multiple of {heads} heads")
        self.heads = heads
        self.qkv = Linear(dim, 3 * dim)
        self.proj = Linear(dim, dim)

    def forward(self, x: Float[Tensor, "b n d"], rotary: Rotary) -> Float[Tensor, "b n d"]:
        """Mix the tokens of each sample."""
        q, k, v = self.qkv(x).unflatten(-1, (3, self.heads, -1)).permute(2, 0, 3, 1, 4)
        mixed = attend(rotate(q, rotary), rotate(k, rotary), v)
        out: Tensor = self.proj(mixed.transpose(1, 2).flatten(2))
        return out


class Block(nn.Module):
    """Pre-norm transformer block: attention, then a GELU MLP (Dosovitskiy et al. 2020, arXiv 2010.11929)."""

    def __init__(self, dim: int, heads: int, mlp_ratio: float = 4.0) -> None:
        super().__init__()
        hidden = round(dim * mlp_ratio)
        self.norm1 = nn.LayerNorm(dim)
        self.attn = Attention(dim, heads)
        self.norm2 = nn.LayerNorm(dim)
        self.mlp = nn.Sequential(Linear(dim, hidden), nn.GELU(), Linear(hidden, dim))

    def forward(self, x: Float[Tensor, "b n d"], rotary: Rotary) -> Float[Tensor, "b n d"]:
        """One residual step."""
        x = x + self.attn(self.norm1(x), rotary)
        out: Tensor = x + self.mlp(self.norm2(x))
        return out


def init_transformer(module: nn.Module) -> None:
    """Weights of linear layers from N(0, 0.02) cut at two deviations, biases zero; for `nn.Module.apply`."""
    if isinstance(module, nn.Linear):
        nn.init.trunc_normal_(module.weight, std=0.02, a=-0.04, b=0.04)
        if module.bias is not None:
            nn.init.zeros_(module.bias)
