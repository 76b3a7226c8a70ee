"""Primus, the 3D vision transformer of nnU-Net and OpenMind: `primus_{t,s,b,m,l}`."""

import math
from collections.abc import Sequence
from functools import partial

import torch
from jaxtyping import Float, Int64
from torch import Tensor, nn

from fomo_ssl.core.types import FeatureInfo, Triple
from fomo_ssl.encoders.base import Encoder, register_encoder
from fomo_ssl.encoders.patches import PatchEmbed, learned_positions, run_blocks, to_maps, to_patches
from fomo_ssl.encoders.presets import PRIMUS
from fomo_ssl.layers.eva import EVA_ROTARY_BASE, EvaBlock
from fomo_ssl.layers.tokens import all_tokens, gather_tokens, token_coordinates
from fomo_ssl.layers.transformer import init_transformer, rotary_angles


class Primus(Encoder):
    """Encoder of Primus (Wald et al. 2025, arXiv 2503.01835): EVA-02 blocks over non-overlapping 3D patches.

    Positions are told twice: by a learned table, interpolated to the grid of the input, and by axial rotary angles in
    patch units. There is no class token; the embedding is the mean of the tokens after the final norm. The same numbers
    as `Primus` of dynamic-network-architectures 0.4.3 and later; parameters of the blocks have its names.

    `forward_features` returns four maps, after one, two, three and four quarters of the depth, each through the final
    norm and all with the patch as stride, as `ViT` does. Only the last one is the original's.
    """

    supports_token_dropping = True
    stem = "patch_embed"

    def __init__(
        self,
        dim: int,
        depth: int,
        heads: int,
        patch_size: int | Sequence[int] = 8,
        in_channels: int = 1,
        learned_grid: Sequence[int] = (20, 20, 20),
        layer_scale: float = 0.1,
    ) -> None:
        """Arguments beside the sizes.

        patch_size: voxels per token, one number or one per axis (thick slices: (8, 8, 2)).
        learned_grid: size of the position table in tokens; crop over patch size makes interpolation unnecessary.
        layer_scale: start value of the factors on the branches.
        """
        super().__init__()
        patch = (patch_size,) * 3 if isinstance(patch_size, int) else tuple(patch_size)
        if len(patch) != 3 or len(learned_grid) != 3 or depth < 4:
            raise ValueError(
                f"patch_size is one or three numbers, learned_grid three and depth at least 4, "
                f"got {patch_size}, {learned_grid} and {depth}"
            )
        self.patch_size = patch
        self.in_channels, self.embed_dim = in_channels, dim
        self.feature_info = [FeatureInfo(dim, self.patch_size)] * 4
        self.taps = [depth * quarter // 4 for quarter in (1, 2, 3, 4)]
        self.head_dim = dim // heads

        blocks = [EvaBlock(dim, heads, dim * 8 // 3, layer_scale) for _ in range(depth)]
        self.blocks = nn.ModuleList(blocks)
        self.norm = nn.LayerNorm(dim)
        self.apply(init_transformer)
        with torch.no_grad():  # deep blocks start small, as in EVA
            for number, block in enumerate(blocks, start=1):
                block.attn.proj.weight /= math.sqrt(2 * number)
                block.mlp.fc2.weight /= math.sqrt(2 * number)
        self.patch_embed = PatchEmbed(in_channels, dim, self.patch_size)
        self.positions = nn.Parameter(torch.empty(1, dim, *learned_grid).normal_(std=0.02))

    def forward_features(self, x: Float[Tensor, "b c x y z"]) -> list[Float[Tensor, "b _ _ _ _"]]:
        """Four maps (b, d, gx, gy, gz) from a quarter of the depth to the end."""
        patches, grid = to_patches(x, self.patch_size)
        tapped = self._encode(patches, all_tokens(grid, x.device), grid, self.taps)
        return to_maps([self.norm(tokens) for tokens in tapped], grid, self.feature_info, x.shape[2:])

    def forward_tokens(
        self, x: Float[Tensor, "b c x y z"], keep: Int64[Tensor, "b k"]
    ) -> tuple[Float[Tensor, "b k d"], Float[Tensor, "b e"]]:
        """Encode only the tokens `keep` (flat indices into the padded patch grid, x slowest) and their mean."""
        patches, grid = to_patches(x, self.patch_size)
        (tokens,) = self._encode(gather_tokens(patches, keep), keep, grid, self.taps[-1:])
        tokens = self.norm(tokens)
        return tokens, tokens.mean(dim=1)

    def no_weight_decay(self) -> set[str]:
        """The position table."""
        return {"positions"}

    def layer_groups(self) -> list[list[str]]:
        """The stem with the position table, each block, the final norm with the last block."""
        blocks = [[f"blocks.{i}"] for i in range(len(self.blocks))]
        return [["patch_embed", "positions"], *blocks[:-1], [*blocks[-1], "norm"]]

    def _encode(
        self, patches: Float[Tensor, "b k v"], index: Int64[Tensor, "_ k"], grid: Triple, taps: list[int]
    ) -> list[Float[Tensor, "b k d"]]:
        """Tokens after each number of blocks in `taps`, before the final norm; `index` may have batch 1."""
        tokens = self.patch_embed(patches) + learned_positions(self.positions, index, grid)
        rotary = rotary_angles(token_coordinates(index, grid), self.head_dim, EVA_ROTARY_BASE)
        return list(run_blocks(self, self.blocks, tokens, rotary, taps))


for _name, _arguments in PRIMUS.items():
    register_encoder(_name)(partial(Primus, **_arguments))
