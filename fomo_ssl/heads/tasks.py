"""Heads for downstream tasks: one dense, one per scan."""

from collections.abc import Sequence
from typing import Literal, Protocol, runtime_checkable

import torch
from jaxtyping import Float
from torch import Tensor, nn

from fomo_ssl.core.types import FeatureInfo
from fomo_ssl.heads.decoders import UNetDecoder
from fomo_ssl.heads.pooling import GatedAttention, Pool, log_sum_exp, top_share
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


class PooledHead(nn.Module):
    """A `GlobalHead` on the coarsest map's maximum over space, or on its attention-weighted mean."""

    def __init__(self, channels: int, out_channels: int, pool: Pool) -> None:
        super().__init__()
        self.attention = GatedAttention(channels) if pool == "attention" else None
        self.output = GlobalHead(channels, out_channels)

    def forward(
        self, image: Float[Tensor, "b c x y z"], features: list[Float[Tensor, "b _ _ _ _"]]
    ) -> Float[Tensor, "b k"]:
        """One row of outputs per scan."""
        coarsest = features[-1]
        embedding = coarsest.amax(dim=(2, 3, 4)) if self.attention is None else self.attention(coarsest)
        out: Tensor = self.output(embedding)
        return out


class LesionHead(nn.Module):
    """Outputs of every voxel, as a segmentation has them, of which the strongest decide over the scan.

    For labels that a small lesion decides. The coarsest map has few voxels, and its instance norm gives all scans the
    same mean; so the decoder goes back to the resolution of the image, where the lesion is bright on one sequence and
    dark on another, and `lse` or `topk` lets some voxels speak for all.
    """

    def __init__(
        self, feature_info: Sequence[FeatureInfo], in_channels: int, out_channels: int, pool: Pool, share: float
    ) -> None:
        super().__init__()
        self.pool, self.share = pool, share
        self.decoder = UNetDecoder(feature_info, out_channels, in_channels=in_channels)
        # The strongest of thousands of voxels start near zero, not at four deviations.
        with torch.no_grad():
            self.decoder.predict.weight.mul_(0.1)

    def forward(
        self, image: Float[Tensor, "b c x y z"], features: list[Float[Tensor, "b _ _ _ _"]]
    ) -> Float[Tensor, "b k"]:
        """One row of outputs per scan."""
        voxels = self.decoder(image, features)
        return log_sum_exp(voxels) if self.pool == "lse" else top_share(voxels, self.share)


TaskHead = SegmentationHead | GlobalHead | PooledHead | LesionHead


def build_head(
    kind: HeadKind, encoder: Pyramid, out_channels: int, pool: Pool = "mean", pool_share: float = 0.002
) -> TaskHead:
    """The head of a task kind.

    Args:
        kind: of the task.
        encoder: whose pyramid the head reads.
        out_channels: number of classes, with background for segmentation; 1 for a regression.
        pool: what a whole-scan task keeps of space. `mean` is a `GlobalHead` on the encoder's own embedding; `max` and
            `attention` pool its coarsest map; `lse` and `topk` pool outputs of every voxel.
        pool_share: of the voxels, for `topk`.
    """
    if kind == "segmentation":
        return SegmentationHead(encoder.feature_info, encoder.in_channels, out_channels)
    if pool == "mean":
        return GlobalHead(encoder.embed_dim, out_channels)
    if pool in ("max", "attention"):
        return PooledHead(encoder.feature_info[-1].channels, out_channels, pool)
    return LesionHead(encoder.feature_info, encoder.in_channels, out_channels, pool, pool_share)
