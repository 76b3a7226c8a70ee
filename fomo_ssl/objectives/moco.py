"""Momentum contrast: a view finds its partner, as a slow teacher saw it, among those of many earlier scans.

He et al. 2020 (MoCo, arXiv 1911.05722) with the symmetric loss and the predictor of Chen et al. 2021 (MoCo v3,
arXiv 2104.02057). The queue gives thousands of negatives to the small batches that 3D crops allow.
Where gradients are accumulated, a micro-batch has its own samples and the queue as negatives, and the queue takes all
samples of a step at its end.
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
from fomo_ssl.objectives.losses import cosine


@objectives.register("moco")
class MoCo(Objective):
    """Cross-entropy of each view against the teacher's partner view, with the batch and a queue as negatives.

    Args:
        encoder: any encoder; its embedding is contrasted.
        pairing: `overlap` two crops of one scan, `session` two sequences of one session on one region, `subject`
            two sessions of one subject.
        min_overlap: least shared fraction of two crops of one scan.
        temperature: divides cosine similarities.
        queue: number of earlier teacher projections that serve as negatives; 0 takes the batch alone.
        momentum: share of itself that the teacher keeps at each step.
        projector_hidden, projector_dim: hidden and output width of projector and predictor.
    """

    queue: Tensor
    filled: Tensor

    def __init__(
        self,
        encoder: Encoder,
        *,
        pairing: Pairing = "overlap",
        min_overlap: float = 0.4,
        temperature: float = 0.2,
        queue: int = 4096,
        momentum: float = 0.99,
        projector_hidden: int = 2048,
        projector_dim: int = 128,
    ) -> None:
        super().__init__(encoder, ViewSpec(n=2, pairing=pairing, min_overlap=min_overlap), momentum)
        if temperature <= 0.0:
            raise ConfigError(f"temperature must be positive, got {temperature}", way_out="0.2 is a good start")
        self.temperature = temperature
        self.projector = Projector(encoder.embed_dim, projector_hidden, projector_dim)
        self.predictor = Projector(projector_dim, projector_hidden, projector_dim)
        self.slow_projector = self.slow_head(self.projector)
        self.register_buffer("queue", torch.zeros(queue, projector_dim))
        # Rows of the queue that hold something; the oldest are at the end.
        self.register_buffer("filled", torch.zeros((), dtype=torch.int64))
        self._new: list[Tensor] = []

    def score(self, encoded: list[Encoded], views: Views, step: int) -> ObjectiveOutput:
        """Both directions between the first two views."""
        keys = [gather_rows(self._project(one.taught)) for one in encoded[:2]]
        losses, found = [], []
        for view, partner in ((0, 1), (1, 0)):
            query = self.predictor(self.projector(encoded[view].embedding))
            batch, target = keys[partner]
            logits = cosine(query, torch.cat((batch, self.queue[: int(self.filled)]))) / self.temperature
            if logits.shape[1] < 2:
                raise ConfigError(
                    "a batch of one sample and an empty queue have no negatives", way_out="raise the batch size"
                )
            # Scaled by 2 t, as MoCo v3 does, so that the temperature does not change the size of the gradient.
            losses.append(F.cross_entropy(logits, target) * 2.0 * self.temperature)
            found.append((logits.detach().argmax(1) == target).float().mean())
        if torch.is_grad_enabled():  # a step, maybe one of its micro-batches, and not somebody's look at held-out scans
            self._new += [batch for batch, _ in keys]
        loss = torch.stack(losses).mean()
        return ObjectiveOutput(
            loss=loss,
            terms={"moco/loss": loss.detach()},
            health={
                "moco/accuracy": torch.stack(found).mean(),
                "moco/paired": views.paired.float().mean(),
            },
        )

    @torch.no_grad()
    def after_step(self, step: int) -> None:
        """Move the teacher, and put its newest projections in front of the queue."""
        super().after_step(step)
        if self._new:
            size, new = len(self.queue), torch.cat(self._new)
            self.queue.copy_(torch.cat((new, self.queue))[:size])
            self.filled.add_(len(new)).clamp_(max=size)
            self._new = []

    @torch.no_grad()
    def _project(self, taught: Encoded | None) -> Float[Tensor, "b d"]:
        """What the teacher says of a view."""
        assert taught is not None
        projected: Tensor = self.slow_projector(taught.embedding)
        return projected.float()
