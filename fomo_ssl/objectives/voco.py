"""VoCo: say where in a region a small crop lies, by how like it is to each of the crops that tile the region.

Wu et al. 2024 (arXiv 2402.17300). Different here: base and target crops are cut from one augmented crop, by the
sample's key, so that overlaps are exact whatever the augmentation; the region is tiled along all three axes, where the
paper tiles the axial plane only; and the embedding is projected, where its code joins all stages of the network. The
loss is that of the paper's equations; its code weights places by their overlap, squares similarities where there is
none and among base crops, and takes half of what is said from a slow teacher.
"""

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int64
from torch import Tensor

from fomo_ssl.core.device import few_numbers
from fomo_ssl.core.errors import ConfigError
from fomo_ssl.core.seeding import fold, uniform
from fomo_ssl.core.types import Triple, Views, ViewSpec
from fomo_ssl.encoders.base import Encoder
from fomo_ssl.heads.projectors import Projector
from fomo_ssl.objectives.base import Encoded, Objective, ObjectiveOutput, objectives
from fomo_ssl.objectives.crops import cut

_LARGEST_DISTANCE = 1.0 - 1e-6


@objectives.register("voco")
class VoCo(Objective):
    """Similarity of target crops to base crops predicts their overlap, and base crops are unlike one another.

    Args:
        encoder: any encoder. It is given the small crops, all of a sample in one pass; so no other objective can score
            that pass, and `voco` is no member of a hybrid.
        grid: base crops along each axis; each has 1 / grid of the crop's edge.
        targets: target crops of a sample, of the same size, anywhere in the crop.
        regularisation: weight of the term that keeps base crops apart (1 in the paper).
        projector_hidden, projector_dim: hidden and output width of the projector.
    """

    hides = recuts = True

    def __init__(
        self,
        encoder: Encoder,
        *,
        grid: int = 2,
        targets: int = 4,
        regularisation: float = 1.0,
        projector_hidden: int = 2048,
        projector_dim: int = 2048,
    ) -> None:
        super().__init__(encoder, ViewSpec())
        if grid < 2 or targets < 1:
            raise ConfigError(f"voco needs a grid of at least 2 and a target, got {grid} and {targets}")
        self.grid, self.targets, self.regularisation = grid, targets, regularisation
        self.projector = Projector(encoder.embed_dim, projector_hidden, projector_dim)

    def inputs(self, views: Views, step: int) -> list[Float[Tensor, "k c x y z"]]:
        """Per view the small crops of all samples: k = b * (grid^3 + targets), a sample's base crops first."""
        return [
            cut(image, self._corners(image, views.keys, view), self._edge(image))
            for view, image in enumerate(views.images)
        ]

    def score(self, encoded: list[Encoded], views: Views, step: int) -> ObjectiveOutput:
        """Both terms, averaged over samples and views."""
        bases, distances, likenesses = self.grid**3, [], []
        for view, (one, image) in enumerate(zip(encoded, views.images, strict=True)):
            corners = self._corners(image, views.keys, view)
            truth = overlap(corners[:, bases:], corners[:, :bases], self._edge(image))
            with torch.autocast(image.device.type, enabled=False):
                projected = F.normalize(self.projector(one.embedding.float()), dim=-1)
                rows = projected.view(len(views), bases + self.targets, -1)
                base, target = rows[:, :bases], rows[:, bases:]
                # As in the paper, base crops learn to lie apart, and only targets where they lie.
                said = F.relu(target @ base.detach().transpose(1, 2))
                likenesses.append((base @ base.transpose(1, 2)).triu(1).abs().sum((1, 2)) / (bases * (bases - 1) / 2))
            distances.append((said - truth).abs())
        distance, likeness = torch.stack(distances), torch.stack(likenesses).mean()
        placed = -torch.log1p(-distance.clamp(max=_LARGEST_DISTANCE)).mean()
        loss = placed + self.regularisation * likeness
        return ObjectiveOutput(
            loss=loss,
            terms={f"voco/{k}": v.detach() for k, v in (("loss", loss), ("place", placed), ("likeness", likeness))},
            health={"voco/distance": distance.detach().mean()},
        )

    def _edge(self, image: Float[Tensor, "b c x y z"]) -> Triple:
        x, y, z = (size // self.grid for size in image.shape[2:])
        return x, y, z

    def _corners(
        self, image: Float[Tensor, "b c x y z"], keys: Int64[Tensor, "b"], view: int
    ) -> Int64[Tensor, "b n 3"]:
        """Corners of base crops, x slowest, and then of target crops, in voxels."""
        size = few_numbers(image.shape[2:], image.device)
        edge = few_numbers(self._edge(image), image.device)
        steps = torch.arange(self.grid, device=image.device)
        bases = torch.cartesian_prod(steps, steps, steps) * edge
        draws = uniform(fold(keys, f"voco/{view}"), self.targets, 3)
        targets = (draws * (size - edge + 1)).long()
        return torch.cat((bases.expand(len(keys), -1, -1), targets), dim=1)


def overlap(first: Int64[Tensor, "b n 3"], second: Int64[Tensor, "b m 3"], edge: Triple) -> Float[Tensor, "b n m"]:
    """Share of their volume that boxes of one size have in common, by their corners."""
    length = few_numbers(edge, first.device)
    apart = (first[:, :, None] - second[:, None]).abs()
    return ((length - apart).clamp(min=0) / length).prod(dim=-1)
