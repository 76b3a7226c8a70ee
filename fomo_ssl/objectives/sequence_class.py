"""Sequence classification: say which sequence a crop is of. The label costs nothing: every scan's file names it.

An auxiliary task of an entry to the FOMO25 challenge (arXiv 2604.11679), where it keeps a contrast from forgetting what
differs between two sequences of one session. Alone it teaches little beyond contrast: sequences are easy to tell apart.
"""

from collections.abc import Mapping

import torch
import torch.nn.functional as F
from torch import Tensor

from fomo_ssl.core.errors import ConfigError
from fomo_ssl.core.types import SEQUENCES, Views, ViewSpec
from fomo_ssl.encoders.base import Encoder
from fomo_ssl.heads.tasks import GlobalHead
from fomo_ssl.objectives.base import Encoded, Objective, ObjectiveOutput, objectives


@objectives.register("sequence_class")
class SequenceClass(Objective):
    """Cross-entropy of the class of every view's sequence, one of `SEQUENCES`, from its embedding.

    Args:
        encoder: any encoder.
        class_weights: weight of a class by its name, 1 where it is not named: rare sequences can count for more. The
            weighted errors are averaged over samples and not divided by the weights of a batch, so that a sample's
            part in the loss does not depend on its neighbours.

    Raises:
        ConfigError: a weight is negative, or names no class.
    """

    weights: Tensor

    def __init__(self, encoder: Encoder, *, class_weights: Mapping[str, float] | None = None) -> None:
        super().__init__(encoder, ViewSpec())
        given = dict(class_weights or {})
        odd = sorted(name for name, weight in given.items() if name not in SEQUENCES or weight < 0.0)
        if odd:
            raise ConfigError(
                f"class_weights of {', '.join(odd)}: no such class of sequences, or a negative weight",
                way_out=f"One of {', '.join(SEQUENCES)}, each with a weight of at least 0",
            )
        self.head = GlobalHead(encoder.embed_dim, len(SEQUENCES))
        weights = torch.tensor([float(given.get(name, 1.0)) for name in SEQUENCES])
        self.register_buffer("weights", weights, persistent=False)

    def score(self, encoded: list[Encoded], views: Views, step: int) -> ObjectiveOutput:
        """The loss over all views."""
        embedding = torch.cat([one.embedding for one in encoded])
        truth = views.sequences[: len(encoded)].flatten()
        logits = self.head(embedding).float()
        loss = (self.weights[truth] * F.cross_entropy(logits, truth, reduction="none")).mean()
        return ObjectiveOutput(
            loss=loss,
            terms={"sequence_class/loss": loss.detach()},
            health={"sequence_class/accuracy": (logits.detach().argmax(dim=1) == truth).float().mean()},
        )
