"""The encoder of MedNeXt with 3x3x3 kernels: `mednext_{s,b,m,l}`."""

from collections.abc import Sequence
from functools import partial

import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from fomo_ssl.encoders.base import Encoder, register_encoder
from fomo_ssl.encoders.presets import MEDNEXT
from fomo_ssl.encoders.pyramid import halving_info, run_stages
from fomo_ssl.layers.convolution import convolve, normalise


class MedNeXtBlock(nn.Module):
    """Depthwise convolution, norm of each channel, widening by `ratio`, GELU, narrowing, and a skip.

    With stride 2 the depthwise convolution halves the map and the skip is a strided 1x1x1 convolution.
    """

    def __init__(self, in_channels: int, out_channels: int, ratio: int, stride: int = 1) -> None:
        super().__init__()
        self.conv1 = nn.Conv3d(in_channels, in_channels, 3, stride, padding=1, groups=in_channels)
        self.norm = nn.GroupNorm(in_channels, in_channels)
        self.conv2 = nn.Conv3d(in_channels, ratio * in_channels, 1)
        self.conv3 = nn.Conv3d(ratio * in_channels, out_channels, 1)
        self.res_conv = nn.Conv3d(in_channels, out_channels, 1, stride) if stride != 1 else nn.Identity()

    def forward(self, x: Float[Tensor, "b c x y z"]) -> Float[Tensor, "b _ _ _ _"]:
        """Maps of the same size, or half of it, rounded up."""
        inner = normalise(self.norm, convolve(self.conv1, x))
        out: Tensor = self.conv3(F.gelu(self.conv2(inner))) + self.res_conv(x)
        return out


class MedNeXt(Encoder):
    """ConvNeXt blocks in the shape of a UNet's encoder (Roy et al. 2023, arXiv 2303.09975), strides 1, 2, 4, 8, 16.

    Equal to the encoder of MONAI's `MedNeXt` in numbers and, but for its `stem`, which is `stem_conv` here, in names of
    parameters. As there, and unlike in the authors' own code, a block that halves the map widens by the ratio of the
    stage it leaves, not of the one it enters. The embedding is the mean of the coarsest map over space.
    """

    stem = "stem_conv"

    def __init__(self, blocks: Sequence[int], ratios: Sequence[int], width: int = 32, in_channels: int = 1) -> None:
        """Number of blocks and widening ratio of each stage, finest first; channels of the first stage."""
        super().__init__()
        if len(blocks) != len(ratios):
            raise ValueError(f"{len(blocks)} stages by their blocks but {len(ratios)} by their ratios")
        channels = [width * 2**level for level in range(len(blocks))]
        self.in_channels, self.embed_dim = in_channels, channels[-1]
        self.feature_info = halving_info(channels)
        self.patch_size = self.feature_info[-1].stride
        self.stem_conv = nn.Conv3d(in_channels, width, 1)
        stages = [
            nn.Sequential(*(MedNeXtBlock(size, size, ratio) for _ in range(count)))
            for size, count, ratio in zip(channels, blocks, ratios, strict=True)
        ]
        self.enc_stages, self.bottleneck = nn.ModuleList(stages[:-1]), stages[-1]
        self.down_blocks = nn.ModuleList(
            MedNeXtBlock(size, 2 * size, ratio, stride=2)
            for size, ratio in zip(channels[:-1], ratios[:-1], strict=True)
        )

    def forward_features(self, x: Float[Tensor, "b c x y z"]) -> list[Float[Tensor, "b _ _ _ _"]]:
        """The map of every stage, finest first."""
        stages = [*self.enc_stages, self.bottleneck]
        before = [self.stem_conv, *self.down_blocks]
        return run_stages(self, [nn.Sequential(down, stage) for down, stage in zip(before, stages, strict=True)], x)

    def layer_groups(self) -> list[list[str]]:
        """The stem, then each stage with the block that leads to it."""
        stages = [*(f"enc_stages.{level}" for level in range(len(self.enc_stages))), "bottleneck"]
        downs = [f"down_blocks.{level}" for level in range(len(self.down_blocks))]
        return [["stem_conv"], stages[:1], *([down, stage] for down, stage in zip(downs, stages[1:], strict=True))]


for _name, _arguments in MEDNEXT.items():
    register_encoder(_name)(partial(MedNeXt, **_arguments))
