"""What the convolutional families share: stages run one after another, their maps cropped to the input."""

from collections.abc import Iterable, Sequence

from jaxtyping import Float
from torch import Tensor, nn

from fomo_ssl.core.errors import ConfigError
from fomo_ssl.core.types import FeatureInfo
from fomo_ssl.encoders.base import Encoder, crop_maps, pad_to_multiple
from fomo_ssl.layers import recompute


def halving_info(channels: Sequence[int]) -> list[FeatureInfo]:
    """Levels at strides 1, 2, 4, …, finest first."""
    return [FeatureInfo(width, (2**level,) * 3) for level, width in enumerate(channels)]


def run_stages(
    encoder: Encoder, stages: Iterable[nn.Module], x: Float[Tensor, "b c x y z"]
) -> list[Float[Tensor, "b _ _ _ _"]]:
    """The map after each stage, finest first, recomputed in the backward pass where the encoder asks for it.

    Raises:
        ConfigError: the coarsest map has one voxel, which instance norm would set to a constant.
    """
    size, stride = x.shape[2:], encoder.feature_info[-1].stride
    if all(n <= s for n, s in zip(size, stride, strict=True)):
        raise ConfigError(
            f"an input of {tuple(size)} voxels leaves a single voxel at the coarsest stride {stride[0]}",
            way_out=f"use crops longer than {stride[0]} along an axis, or an encoder with fewer stages",
        )
    padded, maps = pad_to_multiple(x, stride), []
    for stage in stages:
        padded = recompute.run(encoder, stage, padded)
        maps.append(padded)
    return crop_maps(maps, encoder.feature_info, size)
