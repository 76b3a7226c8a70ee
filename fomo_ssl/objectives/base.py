"""The contract of every objective: views in, a loss out; it owns whatever is thrown away after pretraining.

An objective says what the encoder may not see (`masks`) and scores what the encoder made of the rest (`score`).
The pass through the encoder lies between the two, so that `hybrid` scores several objectives over one pass.
"""

from abc import ABC, abstractmethod
from dataclasses import dataclass, field

from jaxtyping import Bool, Float, Int64
from torch import Tensor, nn

from fomo_ssl.core.registry import Registry
from fomo_ssl.core.types import Triple, Views, ViewSpec
from fomo_ssl.encoders.base import Encoder

Mask = Bool[Tensor, "b gx gy gz"]
"""True = hidden, on the grid of mask units."""


@dataclass
class Encoded:
    """What one pass of the encoder over one view gave.

    Attributes:
        embedding: (b, e).
        features: the pyramid, or None where tokens were dropped.
        tokens: encoded visible tokens (b, k, d), or None where voxels were masked.
        keep: flat grid indices of the visible tokens (b, k), or None.
        mask: what was hidden, or None.
    """

    embedding: Float[Tensor, "b e"]
    features: list[Tensor] | None = None
    tokens: Float[Tensor, "b k d"] | None = None
    keep: Int64[Tensor, "b k"] | None = None
    mask: Mask | None = None


@dataclass
class Preview:
    """What a person would like to look at, first samples of the batch, all of shape (b, 1, x, y, z)."""

    target: Tensor
    visible: Tensor
    reconstruction: Tensor


@dataclass
class ObjectiveOutput:
    """Result of one step.

    Attributes:
        loss: scalar with gradient.
        terms: detached parts of the loss, for the log.
        health: detached monitors (embedding spread, positive similarity), for the log.
        preview: pictures, where the objective reconstructs.
    """

    loss: Float[Tensor, ""]
    terms: dict[str, Tensor] = field(default_factory=dict)
    health: dict[str, Tensor] = field(default_factory=dict)
    preview: Preview | None = None


class Objective(nn.Module, ABC):
    """Base of all objectives; leaves implement `score` and, where they hide something, `masks`.

    Attributes:
        encoder: the encoder being pretrained; the only part that a bundle keeps at its top level.
        views: what the data module has to serve.
    """

    views: ViewSpec
    encoder: Encoder

    def masks(self, views: Views, step: int) -> list[Mask | None]:
        """Per view, what the encoder may not see; None hides nothing."""
        return [None] * len(views.images)

    @property
    def mask_unit(self) -> Triple:
        """Voxels per mask unit; tokens for encoders that drop them."""
        return self.encoder.patch_size

    @abstractmethod
    def score(self, encoded: list[Encoded], views: Views, step: int) -> ObjectiveOutput:
        """The loss from what the encoder made of each view."""

    def forward(self, views: Views, step: int) -> ObjectiveOutput:
        """Hide, encode each view once, score."""
        hidden = self.masks(views, step)
        encoded = [encode(self.encoder, x, m, self.mask_unit) for x, m in zip(views.images, hidden, strict=True)]
        return self.score(encoded, views, step)

    def after_step(self, step: int) -> None:
        """Called after the optimizer's step: teachers and queues move here."""


def encode(encoder: Encoder, x: Float[Tensor, "b c x y z"], mask: Mask | None, unit: Triple) -> Encoded:
    """One pass: hidden tokens are dropped where the encoder can, else hidden voxels are set to zero.

    Every sample of `mask` must hide the same number of units where tokens are dropped.
    """
    if mask is None:
        features = encoder.forward_features(x)
        return Encoded(embedding=encoder.pool(features), features=features)
    if encoder.supports_token_dropping:
        visible = ~mask.flatten(1)
        # A stable sort on the boolean lists the visible tokens first and keeps their order.
        keep = visible.int().argsort(dim=1, descending=True, stable=True)[:, : int(visible[0].sum())]
        tokens, embedding = encoder.forward_tokens(x, keep)
        return Encoded(embedding=embedding, tokens=tokens, keep=keep, mask=mask)
    features = encoder.forward_features(x.masked_fill(mask_to_voxels(mask, unit), 0.0))
    return Encoded(embedding=encoder.pool(features), features=features, mask=mask)


def mask_to_voxels(mask: Mask, unit: Triple) -> Bool[Tensor, "b 1 x y z"]:
    """A grid mask as a voxel mask with a channel axis (True = hidden)."""
    voxels = mask
    for axis, size in enumerate(unit, start=1):
        voxels = voxels.repeat_interleave(size, dim=axis)
    return voxels[:, None]


objectives: Registry[Objective] = Registry("objective")
