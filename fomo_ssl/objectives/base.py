"""The contract of every objective: views in, a loss out; it owns whatever is thrown away after pretraining.

An objective says what the encoder sees instead of the views (`inputs`), what it may not see of that (`masks`), and
scores what the encoder made of it (`score`). The pass through the encoder lies before the last, so that `hybrid` scores
several objectives over one pass.
"""

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import TypeVar

import torch
from einops import repeat
from jaxtyping import Bool, Float, Int64
from torch import Tensor, nn

from fomo_ssl.core.errors import ConfigError
from fomo_ssl.core.registry import Registry
from fomo_ssl.core.types import Triple, Views, ViewSpec
from fomo_ssl.encoders.base import Encoder
from fomo_ssl.encoders.patches import to_patches
from fomo_ssl.objectives.losses import embedding_std
from fomo_ssl.objectives.teacher import follow, slow_copy

PREVIEWED = 4
"""Samples of a preview."""

Mask = Bool[Tensor, "b gx gy gz"]
"""True = hidden, on the grid of mask units."""

_Head = TypeVar("_Head", bound=nn.Module)


@dataclass
class Encoded:
    """What one pass of the encoder over one view gave.

    Attributes:
        embedding: (b, e).
        shown: what the encoder was given, before voxels were masked (b, c, x, y, z).
        features: the pyramid, or None where tokens were dropped.
        tokens: encoded visible tokens (b, k, d), or None where voxels were masked.
        keep: flat grid indices of the visible tokens (b, k), or None.
        mask: what was hidden, or None.
        taught: what the teacher made of the whole view, without gradients; None where the objective has no teacher.
    """

    embedding: Float[Tensor, "b e"]
    shown: Float[Tensor, "b c x y z"]
    features: list[Tensor] | None = None
    tokens: Float[Tensor, "b k d"] | None = None
    keep: Int64[Tensor, "b k"] | None = None
    mask: Mask | None = None
    taught: "Encoded | None" = None


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
        health: detached monitors, such as the similarity of positives, for the log.

    Names in `terms` and `health` start with the objective's own ("mae/loss"), so that several can be logged together;
    `Objective.forward` adds the `embedding_std` of all.
    """

    loss: Float[Tensor, ""]
    terms: dict[str, Tensor] = field(default_factory=dict)
    health: dict[str, Tensor] = field(default_factory=dict)


class Objective(nn.Module, ABC):
    """Base of all objectives; leaves implement `score` and, where the encoder must not see all, `masks` or `inputs`.

    Attributes:
        encoder: the encoder being pretrained; the only part that a bundle keeps at its top level.
        views: what the data module has to serve.
        mask_unit: voxels per mask unit; the encoder's patch where tokens are dropped.
        hides: whether `masks` or `inputs` keep anything from the encoder.
        recuts: whether `inputs` are other crops than the views, so that nobody else can score what was made of them.
        teacher: a slow copy of the encoder, or None; shows in `Encoded.taught`.
        momentum: share of itself that the teacher keeps at each step, or None.
        reconstructs: whether there is a `preview`.
    """

    encoder: Encoder
    views: ViewSpec
    mask_unit: Triple
    hides: bool = False
    recuts: bool = False
    reconstructs: bool = False
    teacher: Encoder | None
    momentum: float | None

    def __init__(self, encoder: Encoder, views: ViewSpec, momentum: float | None = None) -> None:
        """Takes a teacher where `momentum` is given.

        Raises:
            ConfigError: a momentum outside [0, 1).
        """
        super().__init__()
        if momentum is not None and not 0.0 <= momentum < 1.0:
            raise ConfigError(f"momentum {momentum} is out of range", way_out="0.99 is a good start")
        self.encoder, self.views, self.mask_unit = encoder, views, encoder.patch_size
        self.momentum = momentum
        self.teacher = None if momentum is None else slow_copy(encoder)
        self._slow_heads: list[tuple[nn.Module, nn.Module]] = []

    def slow_head(self, head: _Head) -> _Head:
        """The teacher's copy of a head of the student's; `after_step` moves it as it moves the teacher."""
        slow = slow_copy(head)
        self._slow_heads.append((slow, head))
        return slow

    def inputs(self, views: Views, step: int) -> list[Float[Tensor, "b c x y z"]]:
        """What the encoder is given in place of each view: a function of the views and their keys alone."""
        return views.images

    def masks(self, views: Views, step: int) -> list[Mask | None]:
        """Per view, what the encoder may not see; None hides nothing."""
        return [None] * len(views.images)

    @abstractmethod
    def score(self, encoded: list[Encoded], views: Views, step: int) -> ObjectiveOutput:
        """The loss from what the encoder made of each view."""

    def counted(self, views: Views, view: int) -> Bool[Tensor, "b 1 x y z"] | None:
        """Voxels of a view that count in the loss; None where all do, or where this objective does not ask."""
        return views.valid[view] if self.views.valid and views.valid is not None else None

    def encode_views(self, views: Views, step: int) -> list[Encoded]:
        """One pass over what is shown of each view, and one of the teacher over the whole view where there is one."""
        shown, hidden = self.inputs(views, step), self.masks(views, step)
        encoded = [encode(self.encoder, x, m, self.mask_unit) for x, m in zip(shown, hidden, strict=True)]
        if self.teacher is not None:
            self.teacher.eval()
            with torch.no_grad():
                for one, image in zip(encoded, views.images, strict=True):
                    one.taught = encode(self.teacher, image, None, self.mask_unit)
        return encoded

    def forward(self, views: Views, step: int) -> ObjectiveOutput:
        """Hide, encode each view once, score; the spread of the embeddings is everybody's monitor."""
        encoded = self.encode_views(views, step)
        output = self.score(encoded, views, step)
        output.health["embedding_std"] = embedding_std(torch.cat([one.embedding for one in encoded]))
        return output

    def after_step(self, step: int) -> None:
        """Called after the optimizer's step: teachers, their heads and queues move here."""
        if self.momentum is None:
            return
        if self.teacher is not None:
            follow(self.teacher, self.encoder, self.momentum)
        for slow, head in self._slow_heads:
            follow(slow, head, self.momentum)

    def preview(self, views: Views) -> Preview | None:
        """Pictures of the first samples, without gradients, where the objective reconstructs; call in eval mode."""
        return None

    def pretraining_state(self) -> dict[str, Tensor]:
        """What a bundle keeps beside the encoder for continuation: every entry of the state but the encoder's."""
        return {name: value for name, value in self.state_dict().items() if not name.startswith("encoder.")}

    def load_pretraining_state(self, state: Mapping[str, Tensor]) -> None:
        """Take up what `pretraining_state` gave.

        Raises:
            ValueError: an entry is missing or unknown; names it.
        """
        wrong = set(state) ^ set(self.pretraining_state())
        if wrong:
            raise ValueError(f"pretraining state does not fit {type(self).__name__}: {', '.join(sorted(wrong)[:5])}")
        self.load_state_dict(state, strict=False)

    def borrow_encoder(self) -> None:
        """Keep the encoder as a plain reference, so that whoever composes this objective owns it alone; no teacher.

        Whoever composes objectives of one momentum has the teacher for all of them.
        """
        encoder = self.encoder
        del self.encoder, self.teacher
        object.__setattr__(self, "encoder", encoder)
        self.teacher = None


def encode(encoder: Encoder, x: Float[Tensor, "b c x y z"], mask: Mask | None, unit: Triple) -> Encoded:
    """One pass: hidden tokens are dropped where the encoder can, else hidden voxels are set to zero.

    Every sample of `mask` must hide the same number of units where tokens are dropped.
    """
    if mask is None:
        features = encoder.forward_features(x)
        return Encoded(embedding=encoder.pool(features), shown=x, features=features)
    if encoder.supports_token_dropping:
        visible = ~mask.flatten(1)
        # A stable sort on the boolean lists the visible tokens first and keeps their order.
        keep = visible.int().argsort(dim=1, descending=True, stable=True)[:, : int(visible[0].sum())]
        tokens, embedding = encoder.forward_tokens(x, keep)
        return Encoded(embedding=embedding, shown=x, tokens=tokens, keep=keep, mask=mask)
    hidden = mask_to_voxels(mask, unit, x.shape[2:])
    features = encoder.forward_features(x.masked_fill(hidden, 0.0))
    return Encoded(embedding=encoder.pool(features), shown=x, features=features, mask=mask)


def previewed(views: Views) -> Views:
    """The first samples, as many as a preview shows; draws go by key, so they see what they would in the batch."""

    def first(per_view: Sequence[Tensor]) -> list[Tensor]:
        return [each[:PREVIEWED] for each in per_view]

    return replace(
        views,
        images=first(views.images),
        targets=first(views.targets),
        keys=views.keys[:PREVIEWED],
        spacing=views.spacing[:PREVIEWED],
        sequences=views.sequences[:, :PREVIEWED],
        paired=views.paired[:PREVIEWED],
        valid=None if views.valid is None else first(views.valid),
        placement=None,
    )


def mask_to_voxels(mask: Mask, unit: Triple, size: Sequence[int]) -> Bool[Tensor, "b 1 x y z"]:
    """A grid mask as a voxel mask of `size` with a channel axis (True = hidden); units over the far edge are cut."""
    i, j, k = unit
    voxels = repeat(mask, "b x y z -> b 1 (x i) (y j) (z k)", i=i, j=j, k=k)
    return voxels[:, :, : size[0], : size[1], : size[2]]


def patches_of_mask(
    mask: Bool[Tensor, "b 1 x y z"] | None, channels: int, unit: Triple
) -> Bool[Tensor, "b n p"] | None:
    """A voxel mask cut into mask units as an image of so many channels is; None stays None."""
    if mask is None:
        return None
    return to_patches(mask.to(torch.float32).expand(-1, channels, -1, -1, -1), unit)[0] > 0.5


def check_choice(what: str, value: str, choices: Sequence[str]) -> None:
    """Raise a ConfigError where an argument has none of its values: a misspelt word must not pick another way."""
    if value not in choices:
        raise ConfigError(f"{what} is {value!r}", way_out=f"One of {', '.join(choices)}")


objectives: Registry[Objective] = Registry("objective")
