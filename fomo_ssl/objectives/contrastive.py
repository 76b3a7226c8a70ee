"""Contrast: two views of one scan, or two sequences of one session, recognise each other in the batch (NT-Xent).

Chen et al. 2020 (SimCLR, arXiv 2002.05709). Negatives are all other views of the batch (of the micro-batch, where
gradients are accumulated), on every rank. Views carry no subject, so two scans of one subject that meet in a batch
count as negatives; a random order makes that rare.
"""

import torch
import torch.nn.functional as F

from fomo_ssl.core.errors import ConfigError
from fomo_ssl.core.types import Pairing, Views, ViewSpec
from fomo_ssl.encoders.base import Encoder
from fomo_ssl.heads.projectors import Projector
from fomo_ssl.objectives.base import Encoded, Objective, ObjectiveOutput, objectives
from fomo_ssl.objectives.gather import gather_rows
from fomo_ssl.objectives.losses import contrast_logits


@objectives.register("contrastive")
class Contrastive(Objective):
    """NT-Xent between two views, symmetric, with negatives from all ranks.

    Args:
        encoder: any encoder; its embedding is contrasted.
        pairing: `overlap` two crops of one scan, `session` two sequences of one session on one region, `subject`
            two sessions of one subject.
        min_overlap: least shared fraction of two crops of one scan.
        temperature: divides cosine similarities.
        projector_hidden, projector_dim: hidden and output width of the projector.
    """

    def __init__(
        self,
        encoder: Encoder,
        *,
        pairing: Pairing = "overlap",
        min_overlap: float = 0.4,
        temperature: float = 0.1,
        projector_hidden: int = 2048,
        projector_dim: int = 128,
    ) -> None:
        super().__init__(encoder, ViewSpec(n=2, pairing=pairing, min_overlap=min_overlap))
        if temperature <= 0.0:
            raise ConfigError(f"temperature must be positive, got {temperature}", way_out="0.1 is a good start")
        self.temperature = temperature
        self.projector = Projector(encoder.embed_dim, projector_hidden, projector_dim)

    def score(self, encoded: list[Encoded], views: Views, step: int) -> ObjectiveOutput:
        """Cross-entropy of each view's similarities against its partner, over the first two views."""
        anchors = self.projector(torch.cat([one.embedding for one in encoded[:2]]))
        candidates, own = gather_rows(anchors)
        if len(candidates) < 4:
            raise ConfigError("a contrastive batch of one sample has no negatives", way_out="raise the batch size")
        partner = own.roll(len(views))
        logits = contrast_logits(anchors, candidates, own, self.temperature)
        loss = F.cross_entropy(logits, partner)
        found = logits.detach()
        return ObjectiveOutput(
            loss=loss,
            terms={"contrastive/loss": loss.detach()},
            health={
                "contrastive/positive_similarity": found.gather(1, partner[:, None]).mean() * self.temperature,
                "contrastive/accuracy": (found.argmax(dim=1) == partner).float().mean(),
                "contrastive/paired": views.paired.float().mean(),
            },
        )
