"""Heads for downstream tasks: one dense, one per scan."""

from collections.abc import Sequence
from typing import Literal, Protocol, runtime_checkable

from jaxtyping import Float
from torch import Tensor, nn

from fomo_ssl.core.types import FeatureInfo
from fomo_ssl.heads.decoders import UNetDecoder
from fomo_ssl.layers.transformer import init_transformer

HeadKind = Literal["segmentation", "classification", "regression"]


@runtime_checkable
class Pyramid(Protocol):
    """All that a head has to know of an encoder."""

    in_channels: int
    embed_dim: int
    feature_info: list[FeatureInfo]


class SegmentationHead(nn.Module):
    """Logits of every voxel from the pyramid, and from the image where the pyramid has no full resolution."""

    def __init__(self, feature_info: Sequence[FeatureInfo], in_channels: int, out_channels: int) -> None:
        super().__init__()
        self.decoder = UNetDecoder(feature_info, out_channels, in_channels=in_channels)

    def forward(
        self, image: Float[Tensor, "b c x y z"], features: list[Float[Tensor, "b _ _ _ _"]]
    ) -> Float[Tensor, "b k x y z"]:
        """Logits at exactly the image's size."""
        logits: Tensor = self.decoder(image, features)
        return logits


class GlobalHead(nn.Module):
    """Logits or values of a scan from its embedding: a norm, so that any encoder's scale will do, and a linear map."""

    def __init__(self, embed_dim: int, out_channels: int) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(embed_dim)
        self.predict = nn.Linear(embed_dim, out_channels)
        self.apply(init_transformer)

    def forward(self, embedding: Float[Tensor, "b e"]) -> Float[Tensor, "b k"]:
        """One row of outputs per scan."""
        out: Tensor = self.predict(self.norm(embedding))
        return out


def build_head(kind: HeadKind, encoder: Pyramid, out_channels: int) -> SegmentationHead | GlobalHead:
    """The head of a task kind; `out_channels` counts classes with background, or 1 for a regression."""
    if kind == "segmentation":
        return SegmentationHead(encoder.feature_info, encoder.in_channels, out_channels)
    return GlobalHead(encoder.embed_dim, out_channels)
