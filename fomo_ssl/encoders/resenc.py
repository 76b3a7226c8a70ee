"""The residual encoder of nnU-Net's ResEnc presets: `resenc_{t,s,b,l,xl}`."""

from collections.abc import Sequence
from functools import partial

import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from fomo_ssl.encoders.base import Encoder, register_encoder
from fomo_ssl.encoders.presets import RESENC
from fomo_ssl.encoders.pyramid import halving_info, run_stages
from fomo_ssl.layers.convolution import SLOPE, ConvNorm, init_convolution


class ResidualBlock(nn.Module):
    """Two convolutions and a skip: average pooling where the stride is not 1, a 1x1 convolution where channels change.

    ResNet-D (He et al. 2018, arXiv 1812.01187), as `BasicBlockD` of dynamic-network-architectures.
    """

    def __init__(self, in_channels: int, out_channels: int, stride: int = 1) -> None:
        super().__init__()
        self.conv1 = ConvNorm(in_channels, out_channels, stride=stride)
        self.conv2 = ConvNorm(out_channels, out_channels, act=False)
        skip: list[nn.Module] = []
        if stride != 1:
            skip.append(nn.AvgPool3d(stride))
        if in_channels != out_channels:
            skip.append(ConvNorm(in_channels, out_channels, kernel=1, bias=False, act=False))
        self.skip = nn.Sequential(*skip)

    def forward(self, x: Float[Tensor, "b c x y z"]) -> Float[Tensor, "b _ _ _ _"]:
        """Maps at the block's stride."""
        return F.leaky_relu(self.conv2(self.conv1(x)) + self.skip(x), SLOPE, inplace=True)


class _Stage(nn.Module):
    """Residual blocks in a row, under the name that the original gives them."""

    def __init__(self, in_channels: int, out_channels: int, blocks: int, stride: int) -> None:
        super().__init__()
        first = ResidualBlock(in_channels, out_channels, stride)
        self.blocks = nn.Sequential(first, *(ResidualBlock(out_channels, out_channels) for _ in range(blocks - 1)))

    def forward(self, x: Float[Tensor, "b c x y z"]) -> Float[Tensor, "b _ _ _ _"]:
        """The stage's map."""
        out: Tensor = self.blocks(x)
        return out


class ResEnc(Encoder):
    """Residual encoder of nnU-Net (Isensee et al. 2024, arXiv 2404.09556), strides 1, 2, 4, …

    Parameter names are those of dynamic-network-architectures' `ResidualEncoder`, but for its `stem.convs`, which is
    `stem_convs` here; so OpenMind's weights map one to one. The embedding is the mean of the coarsest map over space.
    """

    stem = "stem_convs.0.conv"

    def __init__(self, channels: Sequence[int], blocks: Sequence[int], in_channels: int = 1) -> None:
        """Channels and number of residual blocks of each stage."""
        super().__init__()
        if len(channels) != len(blocks):
            raise ValueError(f"{len(channels)} stages by their channels but {len(blocks)} by their blocks")
        self.in_channels, self.embed_dim = in_channels, channels[-1]
        self.feature_info = halving_info(channels)
        self.patch_size = self.feature_info[-1].stride
        self.stem_convs = nn.Sequential(ConvNorm(in_channels, channels[0]))
        inputs = [channels[0], *channels[:-1]]
        self.stages = nn.ModuleList(
            _Stage(before, after, count, stride=2 if level else 1)
            for level, (before, after, count) in enumerate(zip(inputs, channels, blocks, strict=True))
        )
        self.apply(init_convolution)

    def forward_features(self, x: Float[Tensor, "b c x y z"]) -> list[Float[Tensor, "b _ _ _ _"]]:
        """The map of every stage, finest first."""
        return run_stages(self, [nn.Sequential(self.stem_convs, self.stages[0]), *self.stages[1:]], x)

    def layer_groups(self) -> list[list[str]]:
        """The stem, then each stage."""
        return [["stem_convs"], *([f"stages.{level}"] for level in range(len(self.stages)))]


for _name, _arguments in RESENC.items():
    register_encoder(_name)(partial(ResEnc, **_arguments))
