"""Aligned views: where two crops of a scan overlap, the student's features of one are the teacher's of the other.

After the consistent view alignment of Latent Campus, first in the open track of FOMO25 (arXiv 2604.11679; its code:
github.com/Tenbatsu24/LatentCampus), with three differences: places are followed through mirroring, turning, zoom and
bending, where that code knows the crops' boxes; tokens that were dropped are left out of the comparison; and features
are looked up first and then projected, which costs count^3 rows instead of a map.
"""

from typing import Literal, get_args

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float
from torch import Tensor

from fomo_ssl.core.errors import ConfigError
from fomo_ssl.core.types import Triple, Views, ViewSpec
from fomo_ssl.encoders.base import Encoder
from fomo_ssl.heads.projectors import Projector
from fomo_ssl.objectives.base import Encoded, Objective, ObjectiveOutput, check_choice, objectives
from fomo_ssl.objectives.places import last_map, look_up, shared_places

AlignmentLoss = Literal["cosine", "gram", "contrast"]


@objectives.register("alignment")
class Alignment(Objective):
    """Agreement of student and teacher at places that both views show, in both directions.

    Args:
        encoder: any encoder; its last map is compared.
        loss: `cosine` 2 - 2 cos at each place; `gram` squared distance of the channels' Gram matrices over all places
            of a sample; `contrast` each place finds itself among the sample's places.
        min_overlap: least shared fraction of the two crops.
        places: lattice of places along each axis of the overlap.
        temperature: of `contrast`.
        momentum: share of itself that the teacher keeps at each step.
        projector_hidden, projector_dim: widths of the projector, and of the predictor that only the student has
            (Grill et al. 2020, arXiv 2006.07733): without it `cosine` would collapse.
    """

    def __init__(
        self,
        encoder: Encoder,
        *,
        loss: AlignmentLoss = "cosine",
        min_overlap: float = 0.4,
        places: int = 7,
        temperature: float = 0.2,
        momentum: float = 0.995,
        projector_hidden: int = 1024,
        projector_dim: int = 256,
    ) -> None:
        spec = ViewSpec(n=2, pairing="overlap", min_overlap=min_overlap, placed=True)
        super().__init__(encoder, spec, momentum)
        check_choice("loss of alignment", loss, get_args(AlignmentLoss))
        if places < 2 or temperature <= 0.0:
            raise ConfigError(f"alignment needs 2 places and a positive temperature, got {places} and {temperature}")
        self.kind, self.places, self.temperature = loss, places, temperature
        last = encoder.feature_info[-1]
        self.stride = last.stride
        self.projector = Projector(last.channels, projector_hidden, projector_dim)
        self.predictor = Projector(projector_dim, projector_hidden, projector_dim)
        self.slow_projector = self.slow_head(self.projector)

    def score(self, encoded: list[Encoded], views: Views, step: int) -> ObjectiveOutput:
        """Both directions between the first two views, averaged over samples.

        Raises:
            ConfigError: the views do not say where they lie.
        """
        if views.placement is None:
            raise ConfigError(
                "alignment must know where its views lie", way_out="build Augmenter(preset, spec=objective.views)"
            )
        x, y, z = views.images[0].shape[2:]
        size: Triple = (x, y, z)
        positions, inside = shared_places(views.placement, size, self.places)
        losses, similarities = [], []
        for view, partner in ((0, 1), (1, 0)):
            found, near = look_up(*last_map(encoded[view], size, self.stride), positions[view], self.stride)
            taught = encoded[partner].taught
            assert taught is not None
            with torch.autocast(found.device.type, enabled=False):
                said = F.normalize(self.predictor(self.projector(found)), dim=-1)
                with torch.no_grad():
                    target, _ = look_up(*last_map(taught, size, self.stride), positions[partner], self.stride)
                    aim = F.normalize(self.slow_projector(target), dim=-1)
                losses.append(disagreement(said, aim, inside & near, self.kind, self.temperature).mean())
                similarities.append(place_mean((said.detach() * aim).sum(-1), inside & near).mean())
        loss = torch.stack(losses).mean()
        return ObjectiveOutput(
            loss=loss,
            terms={"alignment/loss": loss.detach()},
            health={
                "alignment/similarity": torch.stack(similarities).mean(),
                "alignment/places": inside.float().mean(),
            },
        )


def disagreement(
    said: Float[Tensor, "b n d"],
    aim: Float[Tensor, "b n d"],
    counts: Bool[Tensor, "b n"],
    kind: AlignmentLoss,
    temperature: float,
) -> Float[Tensor, "b"]:
    """Of unit vectors at the places of each sample that count; 0 for a sample without any."""
    if kind == "cosine":
        return place_mean(2.0 - 2.0 * (said * aim).sum(-1), counts)
    if kind == "gram":
        return (gram(said, counts) - gram(aim, counts)).square().sum((1, 2))
    # Places that do not count are no candidates; a row of its own keeps those rows finite, and they weigh nothing.
    others = ~counts[:, None] & ~torch.eye(counts.shape[1], dtype=torch.bool, device=counts.device)
    logits = (said @ aim.transpose(1, 2) / temperature).masked_fill(others, float("-inf"))
    return place_mean(-logits.log_softmax(-1).diagonal(dim1=1, dim2=2), counts)


def gram(z: Float[Tensor, "b n d"], counts: Bool[Tensor, "b n"]) -> Float[Tensor, "b d d"]:
    """Mean of z z^T over the places that count; of trace 1 for unit vectors."""
    weighted = z * counts[..., None]
    return weighted.transpose(1, 2) @ z / counts.sum(1).clamp_min(1)[:, None, None]


def place_mean(values: Float[Tensor, "b n"], counts: Bool[Tensor, "b n"]) -> Float[Tensor, "b"]:
    """Mean over the places of each sample that count; 0 where none does."""
    return (values * counts).sum(1) / counts.sum(1).clamp_min(1)
