"""Self-distillation: a student that sees part of a crop says what a slow teacher says of all of it.

DINO (Caron et al. 2021, arXiv 2104.14294) between views, iBOT (Zhou et al. 2022, arXiv 2111.07832) between a hidden
place and the same place as the teacher saw it, and KoLeo (Sablayrolles et al. 2019, arXiv 1806.03198), which keeps
embeddings apart, as DINOv2 (Oquab et al. 2023, arXiv 2304.07193) puts them together. Different here: a local crop is
cut from one of the two augmented views, so that it shares that view's grey values, and is taught by the other one
alone; in the papers it is augmented on its own and taught by both.
"""

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int64
from torch import Tensor, nn

from fomo_ssl.core.device import few_numbers
from fomo_ssl.core.errors import ConfigError
from fomo_ssl.core.seeding import fold, uniform
from fomo_ssl.core.types import Pairing, Triple, Views, ViewSpec
from fomo_ssl.encoders.base import Encoder
from fomo_ssl.layers.tokens import gather_tokens
from fomo_ssl.layers.transformer import init_transformer
from fomo_ssl.objectives.base import Encoded, Mask, Objective, ObjectiveOutput, mask_to_voxels, objectives
from fomo_ssl.objectives.crops import cut
from fomo_ssl.objectives.gather import gather_rows
from fomo_ssl.objectives.losses import cosine
from fomo_ssl.objectives.masking import hidden_count, view_mask


class PrototypeHead(nn.Module):
    """Two hidden layers, a narrow one of unit length, and similarities to prototypes of unit length (DINO's head)."""

    def __init__(self, in_dim: int, hidden: int, bottleneck: int, prototypes: int) -> None:
        super().__init__()
        self.layers = nn.Sequential(
            nn.Linear(in_dim, hidden), nn.GELU(), nn.Linear(hidden, hidden), nn.GELU(), nn.Linear(hidden, bottleneck)
        )
        self.apply(init_transformer)
        self.prototypes = nn.Parameter(torch.randn(prototypes, bottleneck))

    def forward(self, x: Float[Tensor, "n d"]) -> Float[Tensor, "n k"]:
        """Cosine similarity of each row to each prototype, in float32."""
        return cosine(self.layers(x), self.prototypes)


@objectives.register("self_distillation")
class SelfDistillation(Objective):
    """DINO + iBOT + KoLeo. The student's crops have hidden cubes, the teacher's have none.

    Args:
        encoder: any encoder; DINO uses its embedding, iBOT its last map.
        pairing: `overlap` two crops of one scan, `session` two sequences of one session on one region, `subject`
            two sessions of one subject.
        min_overlap: least shared fraction of two crops of one scan.
        mask_ratio: hidden fraction of the student's crops, in cubes of the last map's stride.
        local_crops: small crops of a sample that the student sees whole, half of them from either view; they join the
            mean of the DINO term. 8 in the papers.
        local_share: their edge as a share of the view's, to the nearest multiple of the last map's stride.
        dino, ibot, koleo: weights of the terms, each a mean over the two views. DINOv2 has 1, 1 and 0.1, but adds up
            the KoLeo of both views: 0.2 here.
        student_temperature, teacher_temperature: of the softmax over prototypes.
        momentum: share of itself that the teacher keeps at each step.
        center_momentum: the same for the mean of the teacher's outputs, which is taken off them against collapse.
        prototypes, hidden, bottleneck: sizes of the two heads (65,536 prototypes in the paper, for millions of images).
    """

    hides = True
    center: Tensor
    patch_center: Tensor

    def __init__(
        self,
        encoder: Encoder,
        *,
        pairing: Pairing = "overlap",
        min_overlap: float = 0.4,
        mask_ratio: float = 0.3,
        local_crops: int = 0,
        local_share: float = 0.5,
        dino: float = 1.0,
        ibot: float = 1.0,
        koleo: float = 0.1,
        student_temperature: float = 0.1,
        teacher_temperature: float = 0.05,
        momentum: float = 0.99,
        center_momentum: float = 0.9,
        prototypes: int = 2048,
        hidden: int = 1024,
        bottleneck: int = 256,
    ) -> None:
        super().__init__(encoder, ViewSpec(n=2, pairing=pairing, min_overlap=min_overlap), momentum)
        if not 0.0 < mask_ratio < 1.0 or min(student_temperature, teacher_temperature) <= 0.0:
            raise ConfigError(f"mask_ratio {mask_ratio} or a temperature is out of range")
        if local_crops < 0 or not 0.0 < local_share < 1.0:
            raise ConfigError(f"local_crops {local_crops} or local_share {local_share} is out of range")
        last = encoder.feature_info[-1]
        self.mask_unit, self.mask_ratio = last.stride, mask_ratio
        self.local_crops, self.local_share = local_crops, local_share
        self.weights = {"dino": dino, "ibot": ibot, "koleo": koleo}
        self.student_temperature, self.teacher_temperature = student_temperature, teacher_temperature
        self.center_momentum = center_momentum
        self.mask_token = nn.Parameter(torch.zeros(encoder.in_channels, 1, 1, 1))
        sizes = (hidden, bottleneck, prototypes)
        self.heads = nn.ModuleDict(
            {"scan": PrototypeHead(encoder.embed_dim, *sizes), "patch": PrototypeHead(last.channels, *sizes)}
        )
        self.slow_heads = self.slow_head(self.heads)
        self.register_buffer("center", torch.zeros(prototypes))
        self.register_buffer("patch_center", torch.zeros(prototypes))
        self._new: list[tuple[Tensor, Tensor]] = []

    def inputs(self, views: Views, step: int) -> list[Float[Tensor, "b c x y z"]]:
        """The views with hidden cubes set to a learned value."""
        shown = []
        for view, image in enumerate(views.images):
            hidden = mask_to_voxels(self._mask(views, view), self.mask_unit, image.shape[2:])
            shown.append(torch.where(hidden, self.mask_token.to(image.dtype), image))
        return shown

    def score(self, encoded: list[Encoded], views: Views, step: int) -> ObjectiveOutput:
        """The three terms over the first two views."""
        outputs, patches = self._teach(encoded)
        if torch.is_grad_enabled():  # a step, maybe one of its micro-batches, and not somebody's look at held-out scans
            self._note(outputs, patches)
        said = [self.heads["scan"](one.embedding) / self.student_temperature for one in encoded[:2]]
        taught = [self._sharpen(output, self.center) for output in outputs]
        each = [cross_entropy(said[1 - v], taught[v]).mean() for v in (0, 1)]
        for view in range(min(2, self.local_crops)):
            each += self._local(views, view, taught[1 - view])
        dino = torch.stack(each).mean()
        ibot = torch.stack([self._ibot(encoded[v], patches[v], self._mask(views, v)) for v in (0, 1)]).mean()
        apart = torch.stack([koleo(one.embedding) for one in encoded[:2]]).mean()
        parts = {"dino": dino, "ibot": ibot, "koleo": apart}
        loss = torch.stack([self.weights[name] * value for name, value in parts.items()]).sum()
        probability = torch.cat(taught)
        entropy = -(probability * probability.clamp_min(1e-12).log()).sum(1).mean()
        spread = probability.mean(0)
        return ObjectiveOutput(
            loss=loss,
            terms={f"self_distillation/{name}": value.detach() for name, value in ({"loss": loss} | parts).items()},
            health={
                # Collapse to one prototype: both go to 0. Collapse to none: both go to log K.
                "self_distillation/teacher_entropy": entropy,
                "self_distillation/prototype_entropy": -(spread * spread.clamp_min(1e-12).log()).sum(),
            },
        )

    @torch.no_grad()
    def after_step(self, step: int) -> None:
        """Move the teacher and the centres."""
        super().after_step(step)
        if self._new:
            for center, new in zip((self.center, self.patch_center), zip(*self._new, strict=True), strict=True):
                center.lerp_(torch.stack(new).mean(0), 1.0 - self.center_momentum)
            self._new = []

    @torch.no_grad()
    def _teach(self, encoded: list[Encoded]) -> tuple[list[Tensor], list[Tensor]]:
        """Similarities of the first two whole views, and of every place of their last maps (b, n, k)."""
        heads, outputs, patches = self.slow_heads, [], []
        for one in encoded[:2]:
            assert one.taught is not None
            assert one.taught.features is not None
            outputs.append(heads["scan"](one.taught.embedding))
            places = one.taught.features[-1].flatten(2).transpose(1, 2)
            patches.append(heads["patch"](places.flatten(0, 1)).unflatten(0, places.shape[:2]))
        return outputs, patches

    @torch.no_grad()
    def _note(self, outputs: list[Tensor], patches: list[Tensor]) -> None:
        """Keep what the centres move to at the end of the step."""
        means = [torch.cat(rows).flatten(0, -2).mean(0, keepdim=True) for rows in (outputs, patches)]
        scan, patch = (gather_rows(mean)[0].mean(0) for mean in means)
        self._new.append((scan, patch))

    def _sharpen(self, output: Float[Tensor, "... k"], center: Float[Tensor, "k"]) -> Float[Tensor, "... k"]:
        return ((output - center) / self.teacher_temperature).softmax(-1)

    def _ibot(self, encoded: Encoded, taught: Float[Tensor, "b n k"], mask: Mask) -> Float[Tensor, ""]:
        """Mean over the hidden places, which are as many in every sample; the others are not projected."""
        assert encoded.features is not None
        x, y, z = mask.shape[1:]
        count = hidden_count((x, y, z), self.mask_ratio)
        hidden = mask.flatten(1).int().argsort(dim=1, descending=True, stable=True)[:, :count]
        places = gather_tokens(encoded.features[-1].flatten(2).transpose(1, 2), hidden)
        said = self.heads["patch"](places.flatten(0, 1)) / self.student_temperature
        aim = self._sharpen(gather_tokens(taught, hidden), self.patch_center)
        return cross_entropy(said, aim.flatten(0, 1)).mean()

    def _local(self, views: Views, view: int, taught: Float[Tensor, "b k"]) -> list[Float[Tensor, ""]]:
        """Of every local crop of a view, what the student says of it against what it was taught of the other view."""
        image, corners, edge = views.images[view], *self._corners(views, view)
        embedding = self.encoder.pool(self.encoder.forward_features(cut(image, corners, edge)))
        said = self.heads["scan"](embedding).unflatten(0, corners.shape[:2]) / self.student_temperature
        return list(cross_entropy(said, taught[:, None]).mean(0))

    def _corners(self, views: Views, view: int) -> tuple[Int64[Tensor, "b n 3"], Triple]:
        """Where the local crops of a view begin, in voxels, and their edge.

        Raises:
            ConfigError: they would be as large as the view.
        """
        size, device = views.images[view].shape[2:], views.images[view].device
        x, y, z = (
            min(length, stride * max(1, round(self.local_share * length / stride)))
            for length, stride in zip(size, self.mask_unit, strict=True)
        )
        if (x, y, z) == tuple(size):
            raise ConfigError(
                f"a local crop of {self.local_share} of a crop {tuple(size)}, in multiples of {self.mask_unit} voxels,"
                " is all of it",
                way_out="use larger crops, a smaller local_share or local_crops=0",
            )
        draws = uniform(fold(views.keys, f"local/{view}"), (self.local_crops + 1 - view) // 2, 3)
        room = few_numbers([length - edge + 1 for length, edge in zip(size, (x, y, z), strict=True)], device)
        return (draws * room).long(), (x, y, z)

    def _mask(self, views: Views, view: int) -> Mask:
        x, y, z = views.images[view].shape[2:]
        return view_mask(views.keys, view, (x, y, z), self.mask_unit, self.mask_ratio)


def cross_entropy(logits: Float[Tensor, "... k"], probability: Float[Tensor, "... k"]) -> Float[Tensor, "..."]:
    """Of what a student says against what it was taught."""
    return -(probability * F.log_softmax(logits, dim=-1)).sum(-1)


def koleo(embedding: Float[Tensor, "n e"]) -> Float[Tensor, ""]:
    """Minus the mean log distance to the nearest other embedding, of all ranks, of unit length; 0 for a single one."""
    with torch.autocast(embedding.device.type, enabled=False):
        unit = F.normalize(embedding.float(), dim=1)
        everyone, own = gather_rows(unit)
        if len(everyone) < 2:
            return embedding.sum() * 0.0
        # Distances of the nearest ones alone: the gradient of a distance to itself is not defined.
        near = (unit @ everyone.T).detach().scatter(1, own[:, None], -2.0).argmax(1)
        distance = (unit - everyone[near]).square().sum(1).add(1e-8).sqrt()
    return -distance.log().mean()
