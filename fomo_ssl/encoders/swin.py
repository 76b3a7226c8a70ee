"""MONAI's Swin transformer, the encoder of SwinUNETR: `swin_{t,s,b,l}`."""

from collections.abc import Mapping, Sequence
from functools import partial

import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from fomo_ssl.core.errors import ConfigError
from fomo_ssl.core.types import FeatureInfo
from fomo_ssl.encoders.base import (
    Encoder,
    create_encoder,
    crop_maps,
    load_encoder_state,
    pad_to_multiple,
    register_encoder,
)
from fomo_ssl.encoders.presets import SWIN
from fomo_ssl.layers import recompute

TABLE = "relative_position_bias_table"


class Swin(Encoder):
    """Attention in shifted windows, merged 2x2x2 between stages (Hatamizadeh et al. 2022, arXiv 2201.01266).

    Built of MONAI's stages and equal to its `SwinTransformer` in numbers and parameter names, so that SwinUNETR's
    weights map one to one. Maps at strides 2, 4, 8, 16, 32 with C, 2C, 4C, 8C and 16C channels, each normalised over
    its channels without weights, as SwinUNETR takes them. The embedding is the mean of the coarsest map over space.

    As in MONAI, a map smaller than the window is one window, whose relative positions are read from the first rows of
    the table: weights learned at another crop size mean something else there.
    """

    stem = "patch_embed.proj"

    def __init__(
        self,
        dim: int,
        depths: Sequence[int],
        heads: Sequence[int],
        window: int | Sequence[int] = 7,
        in_channels: int = 1,
    ) -> None:
        """Arguments beside the sizes.

        dim: channels C of the finest map; each stage doubles them.
        depths, heads: blocks and attention heads of each stage.
        window: voxels of its map that a window spans, one number or one per axis.
        """
        super().__init__()
        # Importing MONAI takes seconds, and most users of this package build no Swin.
        from monai.networks.blocks import PatchEmbed
        from monai.networks.nets.swin_unetr import BasicLayer, PatchMerging

        if len(depths) != len(heads):
            raise ValueError(f"{len(depths)} stages by their depths but {len(heads)} by their heads")
        self.window = (window,) * 3 if isinstance(window, int) else tuple(window)
        levels = range(len(depths) + 1)
        self.in_channels, self.embed_dim = in_channels, dim * 2 ** len(depths)
        self.feature_info = [FeatureInfo(dim * 2**level, (2 ** (level + 1),) * 3) for level in levels]
        self.patch_size = self.feature_info[-1].stride
        # `norm_layer` is for a norm after the embedding, which SwinUNETR does not have.
        self.patch_embed = PatchEmbed(2, in_channels, dim, norm_layer=None, spatial_dims=3)
        for level, (depth, head) in enumerate(zip(depths, heads, strict=True)):
            stage = BasicLayer(
                dim * 2**level,
                depth,
                head,
                self.window,
                drop_path=[0.0] * depth,
                qkv_bias=True,
                downsample=PatchMerging,
            )
            setattr(self, f"layers{level + 1}", nn.ModuleList([stage]))
        _share_position_index(self)

    def forward_features(self, x: Float[Tensor, "b c x y z"]) -> list[Float[Tensor, "b _ _ _ _"]]:
        """The normalised map of the embedding and after every stage, finest first."""
        level: Tensor = self.patch_embed(pad_to_multiple(x, self.patch_size))
        maps = [_normalised(level)]
        for (stage,) in self._stages():
            level = recompute.run(self, stage, level)
            maps.append(_normalised(level))
        return crop_maps(maps, self.feature_info, x.shape[2:])

    def no_weight_decay(self) -> set[str]:
        """Tables of relative positions."""
        return {name for name, _ in self.named_parameters() if name.endswith(TABLE)}

    def layer_groups(self) -> list[list[str]]:
        """The patch embedding, then each stage."""
        return [["patch_embed"], *([f"layers{level}"] for level in range(1, len(self.feature_info)))]

    def _stages(self) -> list[nn.ModuleList]:
        return [getattr(self, f"layers{level}") for level in range(1, len(self.feature_info))]


def resize_tables(state: Mapping[str, Tensor], before: Sequence[int], after: Sequence[int]) -> dict[str, Tensor]:
    """A Swin state for another window: its tables of relative positions, interpolated (Liu et al. 2021, section 4.1).

    A table has a row for each offset from -(w - 1) to w - 1 along each axis of the window, x slowest; the middle row is
    offset zero and stays.

    Raises:
        ValueError: a table is not that of the window `before`.
    """
    resized = dict(state)
    grid, target = ([2 * w - 1 for w in window] for window in (before, after))
    for name, table in state.items():
        if not name.endswith(TABLE):
            continue
        if len(table) != grid[0] * grid[1] * grid[2]:
            raise ValueError(f"{name} has {len(table)} rows, which is no table of a window of {before}")
        volume = table.float().T.reshape(1, -1, *grid)
        resized[name] = (
            F.interpolate(volume, size=target, mode="trilinear", align_corners=True).flatten(2)[0].T.to(table)
        )
    return resized


def with_window(encoder: Encoder, window: int | Sequence[int]) -> Encoder:
    """The same Swin with another window and its own weights, its tables of relative positions interpolated.

    Its name, arguments and state are those of an encoder created with this window; a bundle keeps all three.

    Args:
        encoder: a Swin; left as it is.
        window: voxels of a map that the new window spans, one number or one per axis.

    Raises:
        ConfigError: the encoder is no Swin, or a window below 2 voxels.
    """
    if not isinstance(encoder, Swin):
        raise ConfigError(f"{encoder.name} attends in no windows", way_out="give a swin_*, or no window")
    edges = (window,) * 3 if isinstance(window, int) else tuple(window)
    if min(edges) < 2:
        raise ConfigError(f"a window of {edges} voxels", way_out="use 2 or more along each axis")
    other = create_encoder(encoder.name, encoder.in_channels, **{**encoder.arguments, "window": window})
    load_encoder_state(other, resize_tables(encoder.state_dict(), encoder.window, edges))
    return other.train(encoder.training)


def _normalised(level: Float[Tensor, "b c x y z"]) -> Float[Tensor, "b c x y z"]:
    """Zero mean and unit variance over the channels of each voxel."""
    return F.layer_norm(level.movedim(1, -1), level.shape[1:2]).movedim(-1, 1)


def _share_position_index(encoder: nn.Module) -> None:
    """One index of relative positions for all blocks, out of the state: it follows from the window.

    MONAI stores one a block, which is 0.9 MB each and more than all the weights of a small encoder.
    """
    shared: Tensor | None = None
    for module in encoder.modules():
        index = module._buffers.pop("relative_position_index", None)
        if index is not None:
            shared = index if shared is None else shared
            module.register_buffer("relative_position_index", shared, persistent=False)


for _name, _arguments in SWIN.items():
    register_encoder(_name)(partial(Swin, **_arguments))
