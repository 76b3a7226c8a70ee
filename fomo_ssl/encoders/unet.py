"""The plain UNet encoder of the FOMO25 challenge's baselines: `unet_{t,s,b,xl}`."""

from collections.abc import Sequence
from functools import partial

from jaxtyping import Float
from torch import Tensor, nn

from fomo_ssl.encoders.base import Encoder, register_encoder
from fomo_ssl.encoders.presets import UNET
from fomo_ssl.encoders.pyramid import halving_info, run_stages
from fomo_ssl.layers.convolution import ConvNorm, init_convolution


class UNetEncoder(Encoder):
    """Double convolutions with 2x max pooling between them (Ronneberger et al. 2015, arXiv 1505.04597).

    `unet_b` and `unet_xl` have the layers of the FOMO25 baselines (arXiv 2604.11679). The embedding is the mean of the
    coarsest map over space.
    """

    stem = "stages.0.0.conv"

    def __init__(self, channels: Sequence[int], in_channels: int = 1) -> None:
        """Channels of each stage, finest first."""
        super().__init__()
        self.in_channels, self.embed_dim = in_channels, channels[-1]
        self.feature_info = halving_info(channels)
        self.patch_size = self.feature_info[-1].stride
        self.stages = nn.ModuleList(
            nn.Sequential(ConvNorm(before, after), ConvNorm(after, after))
            for before, after in zip([in_channels, *channels[:-1]], channels, strict=True)
        )
        self.down = nn.MaxPool3d(2)
        self.apply(init_convolution)

    def forward_features(self, x: Float[Tensor, "b c x y z"]) -> list[Float[Tensor, "b _ _ _ _"]]:
        """The map of every stage, finest first."""
        return run_stages(self, [self.stages[0], *(nn.Sequential(self.down, s) for s in self.stages[1:])], x)

    def layer_groups(self) -> list[list[str]]:
        """Each stage; the stem is the first convolution of the first."""
        return [[f"stages.{level}"] for level in range(len(self.stages))]


for _name, _arguments in UNET.items():
    register_encoder(_name)(partial(UNetEncoder, **_arguments))
