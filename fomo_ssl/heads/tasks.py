"""Heads for downstream tasks: one dense, one per scan."""

from collections.abc import Sequence
from typing import Literal, Protocol, runtime_checkable

import torch
from jaxtyping import Float
from torch import Tensor, nn

from fomo_ssl.core.types import FeatureInfo
from fomo_ssl.heads.decoders import UNetDecoder
from fomo_ssl.heads.pooling import GatedAttention, Pool, PoolMaps, log_sum_exp, top_share
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
    """A `GlobalHead` on several maps of the pyramid, each pooled over space.

    Instance norm gives every map of every scan the same mean before its activation; what is left of the scan in the
    mean is how its values spread, and the maximum keeps more. Fine maps still show what the coarsest has merged.
    """

    def __init__(self, feature_info: Sequence[FeatureInfo], out_channels: int, pool: Pool) -> None:
        super().__init__()
        self.pool, self.levels = pool, len(feature_info)
        channels = [level.channels for level in feature_info]
        self.attention = nn.ModuleList(GatedAttention(width) for width in channels if pool == "attention")
        self.output = GlobalHead(sum(channels), out_channels)

    def forward(
        self, image: Float[Tensor, "b c x y z"], features: list[Float[Tensor, "b _ _ _ _"]]
    ) -> Float[Tensor, "b k"]:
        """One row of outputs per scan, from the last maps of the pyramid, as many as the head was made for."""
        space, maps = (2, 3, 4), features[-self.levels :]
        if self.pool == "attention":
            pooled = [attend(level) for attend, level in zip(self.attention, maps, strict=True)]
        else:
            pooled = [level.mean(space) if self.pool == "mean" else level.amax(space) for level in maps]
        out: Tensor = self.output(torch.cat([row.float() for row in pooled], dim=1))
        return out


class LesionHead(nn.Module):
    """Outputs of every voxel, as a segmentation has them, of which the strongest decide over the scan.

    For labels that a small lesion decides: the decoder goes back to the resolution of the image, where the lesion is
    bright on one sequence and dark on another, and `lse` or `topk` lets some voxels speak for all.
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
    kind: HeadKind,
    encoder: Pyramid,
    out_channels: int,
    pool: Pool = "mean",
    maps: PoolMaps = "last",
    share: float = 0.002,
) -> TaskHead:
    """The head of a task kind.

    Args:
        kind: of the task.
        encoder: whose pyramid the head reads.
        out_channels: number of classes, with background for segmentation; 1 for a regression.
        pool: what a whole-scan task keeps of space. `mean`, `max` and `attention` pool maps of the pyramid; `lse` and
            `topk` pool outputs of every voxel. The mean of the last map is the encoder's own embedding.
        maps: which maps are pooled, all or the last.
        share: of the voxels, for `topk`.
    """
    if kind == "segmentation":
        return SegmentationHead(encoder.feature_info, encoder.in_channels, out_channels)
    if pool in ("lse", "topk"):
        return LesionHead(encoder.feature_info, encoder.in_channels, out_channels, pool, share)
    if pool == "mean" and maps == "last":
        return GlobalHead(encoder.embed_dim, out_channels)
    return PooledHead(encoder.feature_info if maps == "all" else encoder.feature_info[-1:], out_channels, pool)
