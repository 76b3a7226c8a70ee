"""The transformer block of EVA-02 (Fang et al. 2023, arXiv 2303.11331), as Primus uses it in 3D.

Parameter names are timm's, so that weights of Primus map one to one.
"""

import torch
import torch.nn.functional as F
from einops import rearrange
from jaxtyping import Float
from torch import Tensor, nn

from fomo_ssl.layers.attention import attend
from fomo_ssl.layers.linear import Linear
from fomo_ssl.layers.transformer import Rotary

EVA_ROTARY_BASE = 10_000.0
"""Ratio of the fastest to the slowest rotary frequency in EVA-02."""


def rotate_neighbours(x: Float[Tensor, "b h n d"], rotary: Rotary) -> Float[Tensor, "b h n d"]:
    """Turn channel pairs (2i, 2i + 1) by the tokens' angles, in float32; the result has the type of x.

    The order of the pairs, all of one axis after all of the axis before, is that of `rotary_angles`.
    """
    cos, sin = (table[:, None] for table in rotary)
    even, odd = rearrange(x.float(), "b h n (p two) -> two b h n p", two=2)
    return torch.stack((even * cos - odd * sin, odd * cos + even * sin), dim=-1).flatten(-2).to(x.dtype)


class EvaAttention(nn.Module):
    """Self-attention with rotary positions, keys without bias and a norm before the projection."""

    def __init__(self, dim: int, heads: int) -> None:
        super().__init__()
        if dim % (6 * heads):
            raise ValueError(f"width {dim} over {heads} heads is no multiple of 6, which rotation along 3 axes needs")
        self.heads = heads
        self.q_proj = Linear(dim, dim)
        self.k_proj = Linear(dim, dim, bias=False)  # a bias on keys cancels in the softmax
        self.v_proj = Linear(dim, dim)
        self.norm = nn.LayerNorm(dim)
        self.proj = Linear(dim, dim)

    def forward(self, x: Float[Tensor, "b n d"], rotary: Rotary) -> Float[Tensor, "b n d"]:
        """Mix the tokens of each sample."""
        layers = (self.q_proj, self.k_proj, self.v_proj)
        q, k, v = (layer(x).unflatten(-1, (self.heads, -1)).transpose(1, 2) for layer in layers)
        mixed = attend(rotate_neighbours(q, rotary), rotate_neighbours(k, rotary), v)
        out: Tensor = self.proj(self.norm(mixed.transpose(1, 2).flatten(2)))
        return out


class SwiGLU(nn.Module):
    """Gated MLP (Shazeer 2020, arXiv 2002.05202) with a norm before its last layer."""

    def __init__(self, dim: int, hidden: int) -> None:
        super().__init__()
        self.fc1_g = Linear(dim, hidden)
        self.fc1_x = Linear(dim, hidden)
        self.norm = nn.LayerNorm(hidden)
        self.fc2 = Linear(hidden, dim)

    def forward(self, x: Float[Tensor, "b n d"]) -> Float[Tensor, "b n d"]:
        """Each token on its own."""
        out: Tensor = self.fc2(self.norm(F.silu(self.fc1_g(x)) * self.fc1_x(x)))
        return out


class EvaBlock(nn.Module):
    """Pre-norm block whose two branches are scaled per channel (LayerScale, Touvron et al. 2021, arXiv 2103.17239)."""

    def __init__(self, dim: int, heads: int, hidden: int, layer_scale: float) -> None:
        super().__init__()
        self.gamma_1 = nn.Parameter(torch.full((dim,), layer_scale))
        self.gamma_2 = nn.Parameter(torch.full((dim,), layer_scale))
        self.norm1 = nn.LayerNorm(dim)
        self.attn = EvaAttention(dim, heads)
        self.norm2 = nn.LayerNorm(dim)
        self.mlp = SwiGLU(dim, hidden)

    def forward(self, x: Float[Tensor, "b n d"], rotary: Rotary) -> Float[Tensor, "b n d"]:
        """One residual step."""
        x = x + self.gamma_1 * self.attn(self.norm1(x), rotary)
        out: Tensor = x + self.gamma_2 * self.mlp(self.norm2(x))
        return out
