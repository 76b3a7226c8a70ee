"""From a map to one row a scan: what a whole-scan task keeps of space.

Multiple-instance learning's names: a scan is a bag, its voxels are instances, and a label that a small lesion decides
is lost in their mean.
"""

import math
from typing import Literal, get_args

import torch
from jaxtyping import Float
from torch import Tensor, nn

from fomo_ssl.layers.transformer import init_transformer

Pool = Literal["mean", "max", "attention", "lse", "topk"]
PoolMaps = Literal["all", "last"]
POOLS: tuple[Pool, ...] = get_args(Pool)
POOL_MAPS: tuple[PoolMaps, ...] = get_args(PoolMaps)
SHARPNESS = 10.0
"""Of log-sum-exp: a difference of 1/10 between two logits already shifts the weight from one voxel to the other."""


class GatedAttention(nn.Module):
    """Weighted mean over space, weights from a gated network of each voxel (Ilse et al. 2018, arXiv 1802.04712).

    Instances are normalised over channels first: the gate saturates at any encoder's scale otherwise.
    """

    def __init__(self, channels: int, hidden: int | None = None) -> None:
        super().__init__()
        hidden = hidden or max(8, channels // 2)
        self.norm = nn.LayerNorm(channels)
        self.value, self.gate = nn.Linear(channels, hidden), nn.Linear(channels, hidden)
        self.score = nn.Linear(hidden, 1)
        self.apply(init_transformer)

    def weights(self, instances: Float[Tensor, "b n c"]) -> Float[Tensor, "b n 1"]:
        """How much each of the normalised instances counts; they sum to 1."""
        scores: Tensor = self.score(torch.tanh(self.value(instances)) * torch.sigmoid(self.gate(instances)))
        return scores.float().softmax(dim=1)

    def forward(self, features: Float[Tensor, "b c x y z"]) -> Float[Tensor, "b c"]:
        """One embedding a scan."""
        instances = self.norm(features.flatten(2).transpose(1, 2))
        pooled: Tensor = (self.weights(instances) * instances).sum(dim=1)
        return pooled


def log_sum_exp(logits: Float[Tensor, "b k *space"], sharpness: float = SHARPNESS) -> Float[Tensor, "b k"]:
    """A smooth maximum over space, between the mean (sharpness 0) and the maximum (Pinheiro and Collobert 2015)."""
    flat = logits.float().flatten(2)
    return (torch.logsumexp(sharpness * flat, dim=2) - math.log(flat.shape[2])) / sharpness


def top_share(logits: Float[Tensor, "b k *space"], share: float) -> Float[Tensor, "b k"]:
    """The mean of the largest `share` of the voxels of each output, at least one voxel."""
    flat = logits.float().flatten(2)
    return flat.topk(max(1, round(share * flat.shape[2])), dim=2).values.mean(dim=2)
