"""A plain 3D vision transformer that encodes only the tokens it is given: `vit_{t,s,b,l}_p{8,16}`."""

from collections.abc import Sequence
from functools import partial

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int64
from torch import Tensor, nn

from fomo_ssl.core.types import FeatureInfo, Triple
from fomo_ssl.encoders.base import Encoder, register_encoder
from fomo_ssl.encoders.patches import PatchEmbed, learned_positions, run_blocks, to_maps, to_patches
from fomo_ssl.encoders.presets import VIT
from fomo_ssl.layers.tokens import all_tokens, gather_tokens, token_coordinates
from fomo_ssl.layers.transformer import Block, init_transformer, rotary_angles


class ViT(Encoder):
    """Vision transformer over non-overlapping 3D patches (Dosovitskiy et al. 2020, arXiv 2010.11929).

    Positions are 3D axial rotary angles in patch units, so any grid and any subset of tokens works. `registers` extra
    tokens give attention a place to put what belongs nowhere (Darcet et al. 2023, arXiv 2309.16588); they never leave
    the encoder. The embedding is the mean of the patch tokens after the final norm.

    `forward_features` returns four maps, after one, two, three and four quarters of the depth, each through the final
    norm and all with the patch as stride. An input that is no multiple of the patch is padded at the far end with its
    edge; the maps have ceil(size / patch) voxels, and the last ones look partly at the padding.
    """

    supports_token_dropping = True
    stem = "patch_embed"

    def __init__(
        self,
        dim: int,
        depth: int,
        heads: int,
        patch_size: int | Sequence[int],
        in_channels: int = 1,
        mlp_ratio: float = 4.0,
        registers: int = 4,
        learned_grid: Sequence[int] | None = None,
    ) -> None:
        """Arguments beside the sizes.

        patch_size: voxels per token, one number or one per axis (thick slices: (8, 8, 2)).
        learned_grid: adds a learned position table of this grid, interpolated to the grid of the input.
        """
        super().__init__()
        patch = (patch_size,) * 3 if isinstance(patch_size, int) else tuple(patch_size)
        if len(patch) != 3 or depth < 4:
            raise ValueError(f"patch_size is one or three numbers and depth at least 4, got {patch_size} and {depth}")
        self.patch_size = patch
        self.in_channels, self.embed_dim = in_channels, dim
        self.feature_info = [FeatureInfo(dim, self.patch_size)] * 4
        self.taps = [depth * quarter // 4 for quarter in (1, 2, 3, 4)]
        self.head_dim = dim // heads

        self.blocks = nn.ModuleList(Block(dim, heads, mlp_ratio) for _ in range(depth))
        self.norm = nn.LayerNorm(dim)
        self.apply(init_transformer)
        self.patch_embed = PatchEmbed(in_channels, dim, self.patch_size)
        self.registers = nn.Parameter(torch.empty(1, registers, dim).normal_(std=0.02)) if registers else None
        self.positions = (
            nn.Parameter(torch.empty(1, dim, *learned_grid).normal_(std=0.02)) if learned_grid is not None else None
        )

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
        """Registers and learned positions."""
        return {name for name in ("registers", "positions") if getattr(self, name) is not None}

    def layer_groups(self) -> list[list[str]]:
        """The stem with all position parameters, each block, the final norm with the last block."""
        stem = ["patch_embed", *sorted(self.no_weight_decay())]
        blocks = [[f"blocks.{i}"] for i in range(len(self.blocks))]
        return [stem, *blocks[:-1], [*blocks[-1], "norm"]]

    def _encode(
        self, patches: Float[Tensor, "b k v"], index: Int64[Tensor, "_ k"], grid: Triple, taps: list[int]
    ) -> list[Float[Tensor, "b k d"]]:
        """Patch tokens after each number of blocks in `taps`, before the final norm; `index` may have batch 1."""
        tokens = self.patch_embed(patches)
        if self.positions is not None:
            tokens = tokens + learned_positions(self.positions, index, grid)
        places, prefix = token_coordinates(index, grid), 0
        if self.registers is not None:
            prefix = self.registers.shape[1]
            tokens = torch.cat((self.registers.expand(len(tokens), -1, -1).to(tokens.dtype), tokens), dim=1)
            places = F.pad(places, (0, 0, prefix, 0))  # at the origin, where the rotation does nothing
        rotary = rotary_angles(places, self.head_dim)
        return [tapped[:, prefix:] for tapped in run_blocks(self, self.blocks, tokens, rotary, taps)]


for _name, _arguments in VIT.items():
    register_encoder(_name)(partial(ViT, **_arguments))
