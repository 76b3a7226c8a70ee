"""VICReg: two views of a scan agree, each dimension keeps its spread, and no two dimensions say the same.

Bardes, Ponce and LeCun 2022 (arXiv 2105.04906). No negatives and no teacher, so it does not ask for large batches.
Spread and covariance are those of a micro-batch where gradients are accumulated.
"""

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

from fomo_ssl.core.errors import ConfigError
from fomo_ssl.core.types import Pairing, Views, ViewSpec
from fomo_ssl.encoders.base import Encoder
from fomo_ssl.heads.projectors import Projector
from fomo_ssl.objectives.base import Encoded, Objective, ObjectiveOutput, objectives
from fomo_ssl.objectives.gather import gather_rows

_EPSILON = 1e-4


@objectives.register("vicreg")
class VICReg(Objective):
    """Invariance, variance and covariance of two views' projections, over the samples of all ranks.

    Args:
        encoder: any encoder; its embedding is projected.
        pairing: `overlap` two crops of one scan, `session` two sequences of one session on one region, `subject`
            two sessions of one subject.
        min_overlap: least shared fraction of two crops of one scan.
        invariance, variance, covariance: weights of the three terms (25, 25 and 1 in the paper).
        projector_hidden, projector_dim: hidden and output width of the projector (8192 in the paper, for batches of
            thousands).
    """

    def __init__(
        self,
        encoder: Encoder,
        *,
        pairing: Pairing = "overlap",
        min_overlap: float = 0.4,
        invariance: float = 25.0,
        variance: float = 25.0,
        covariance: float = 1.0,
        projector_hidden: int = 2048,
        projector_dim: int = 512,
    ) -> None:
        super().__init__(encoder, ViewSpec(n=2, pairing=pairing, min_overlap=min_overlap))
        self.invariance, self.variance, self.covariance = invariance, variance, covariance
        self.projector = Projector(encoder.embed_dim, projector_hidden, projector_dim)

    def score(self, encoded: list[Encoded], views: Views, step: int) -> ObjectiveOutput:
        """The three terms over the first two views."""
        first, second = (gather_rows(self.projector(view.embedding).float())[0] for view in encoded[:2])
        if len(first) < 2:
            raise ConfigError("a batch of one sample has no spread", way_out="raise the batch size")
        agree = F.mse_loss(first, second)
        spread = 0.5 * (spread_loss(first) + spread_loss(second))
        redundant = redundancy(first) + redundancy(second)
        loss = self.invariance * agree + self.variance * spread + self.covariance * redundant
        parts = {"loss": loss, "invariance": agree, "variance": spread, "covariance": redundant}
        return ObjectiveOutput(
            loss=loss,
            terms={f"vicreg/{name}": value.detach() for name, value in parts.items()},
        )


def spread_loss(z: Float[Tensor, "n d"]) -> Float[Tensor, ""]:
    """How far the standard deviation of each dimension falls short of 1 (equation 1)."""
    return F.relu(1.0 - (z.var(dim=0) + _EPSILON).sqrt()).mean()


def redundancy(z: Float[Tensor, "n d"]) -> Float[Tensor, ""]:
    """Squared covariances of different dimensions, summed and divided by their number (equations 3 and 4)."""
    with torch.autocast(z.device.type, enabled=False):
        centred = z - z.mean(dim=0)
        covariance = centred.T @ centred / (len(z) - 1)
    return (covariance.square().sum() - covariance.diagonal().square().sum()) / z.shape[1]
