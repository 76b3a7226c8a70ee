"""VolumeFusion: tell, voxel by voxel, in which proportion two crops were blended.

Wang et al. 2023 (arXiv 2306.16925): pretraining for segmentation that is a segmentation, with the blend's steps as
classes. The paper blends crops of different volumes; ours are two crops of one scan, so that a sample's loss does not
depend on its neighbours in the batch. Each is the foreground once.
"""

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int64
from torch import Tensor

from fomo_ssl.core.errors import ConfigError
from fomo_ssl.core.seeding import fold, uniform
from fomo_ssl.core.types import Views, ViewSpec
from fomo_ssl.encoders.base import Encoder
from fomo_ssl.heads.decoders import UNetDecoder
from fomo_ssl.objectives.base import Encoded, Objective, ObjectiveOutput, objectives


@objectives.register("volume_fusion")
class VolumeFusion(Objective):
    """Cross-entropy and Dice of the blend's step, with a decoder with skips on the blended crop.

    Args:
        encoder: any encoder.
        steps: number K of steps above 0; a voxel's class is its share of foreground times K (4 in the paper).
        patches: largest number of boxes with a share of their own (40 in the paper; at least a quarter of it is drawn).
        edge_min, edge_max: shortest and longest edge of a box as shares of the crop's.
    """

    hides = True

    def __init__(
        self, encoder: Encoder, *, steps: int = 4, patches: int = 40, edge_min: float = 0.1, edge_max: float = 0.5
    ) -> None:
        super().__init__(encoder, ViewSpec(n=2, pairing="overlap", min_overlap=0.0))
        if steps < 1 or patches < 1 or not 0.0 < edge_min <= edge_max <= 1.0:
            raise ConfigError(f"steps {steps}, patches {patches} or edges {edge_min} to {edge_max} are out of range")
        self.steps, self.patches, self.edge = steps, patches, (edge_min, edge_max)
        self.decoder = UNetDecoder(encoder.feature_info, steps + 1, encoder.in_channels)

    def inputs(self, views: Views, step: int) -> list[Float[Tensor, "b c x y z"]]:
        """Each view as the foreground of a blend with the next."""
        n = len(views.images)
        return [self._blend(views, view, views.images[(view + 1) % n]) for view in range(n)]

    def score(self, encoded: list[Encoded], views: Views, step: int) -> ObjectiveOutput:
        """Loss over all views."""
        losses, right = [], []
        for view, one in enumerate(encoded):
            assert one.features is not None
            logits, truth = self.decoder(one.shown, one.features).float(), self._classes(views, view)
            losses.append(F.cross_entropy(logits, truth) + soft_dice_loss(logits.softmax(1), truth))
            right.append((logits.detach().argmax(1) == truth).float().mean())
        loss = torch.stack(losses).mean()
        return ObjectiveOutput(
            loss=loss,
            terms={"volume_fusion/loss": loss.detach()},
            health={"volume_fusion/accuracy": torch.stack(right).mean()},
        )

    def _blend(self, views: Views, view: int, background: Float[Tensor, "b c x y z"]) -> Float[Tensor, "b c x y z"]:
        share = (self._classes(views, view) / self.steps)[:, None].to(background.dtype)
        return share * views.images[view] + (1.0 - share) * background

    def _classes(self, views: Views, view: int) -> Int64[Tensor, "b x y z"]:
        keys = fold(views.keys, f"fusion/{view}")
        return fusion_classes(keys, views.images[view].shape[2:], self.steps, self.patches, self.edge)


def fusion_classes(
    keys: Int64[Tensor, "b"], size: torch.Size, steps: int, patches: int, edge: tuple[float, float]
) -> Int64[Tensor, "b x y z"]:
    """0 outside all boxes, and in each box a step from 1 to K; later boxes lie over earlier ones."""
    draws = uniform(keys, patches, 7)
    count = patches // 4 + (uniform(fold(keys, "count")) * (patches - patches // 4 + 1)).long()
    lengths = edge[0] + (edge[1] - edge[0]) * draws[..., :3]
    starts = draws[..., 3:6] * (1.0 - lengths)
    classes = 1 + (draws[..., 6] * steps).to(torch.int16)  # small while whole volumes are written again and again
    places = [(torch.arange(voxels, device=keys.device) + 0.5) / voxels for voxels in size]
    result = torch.zeros(len(keys), *size, dtype=torch.int16, device=keys.device)
    for box in range(patches):
        x, y, z = (
            (place >= starts[:, box, axis, None]) & (place < (starts + lengths)[:, box, axis, None])
            for axis, place in enumerate(places)
        )
        inside = x[:, :, None, None] & y[:, None, :, None] & z[:, None, None] & (box < count)[:, None, None, None]
        result = torch.where(inside, classes[:, box, None, None, None], result)
    return result.long()


def soft_dice_loss(probability: Float[Tensor, "b k x y z"], truth: Int64[Tensor, "b x y z"]) -> Float[Tensor, ""]:
    """1 - Dice of the probabilities, mean over classes and samples."""
    axes = (2, 3, 4)
    expected = F.one_hot(truth, probability.shape[1]).movedim(-1, 1).to(probability.dtype)
    overlap = (probability * expected).sum(axes)
    return 1.0 - ((2.0 * overlap + 1.0) / (probability.sum(axes) + expected.sum(axes) + 1.0)).mean()
