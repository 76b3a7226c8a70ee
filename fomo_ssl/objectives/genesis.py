"""Models Genesis: restore a scan whose grey scale was bent, whose texture was shuffled, and that was painted over.

Zhou et al. 2021 (arXiv 2004.07882). The decoder has skips, as in the paper: it is the whole network that learns, and
decoder weights stay beside the encoder in the bundle.
"""

import torch
from einops import rearrange
from jaxtyping import Bool, Float, Int64
from torch import Tensor

from fomo_ssl.core.seeding import bits, fold, uniform
from fomo_ssl.core.types import Views, ViewSpec
from fomo_ssl.encoders.base import Encoder
from fomo_ssl.heads.decoders import UNetDecoder
from fomo_ssl.objectives.base import Encoded, Objective, ObjectiveOutput, Preview, encode, objectives, previewed
from fomo_ssl.objectives.losses import masked_mean

_CURVE_POINTS = 128


@objectives.register("genesis")
class Genesis(Objective):
    """Mean squared error of the whole crop after non-linear intensity, local shuffling, in- and out-painting.

    Args:
        encoder: any encoder.
        p_intensity, p_shuffle, p_paint: probability of each deformation (0.9, 0.5 and 0.9 in the paper).
        p_inpaint: share of paintings that cover a few boxes (0.2 in the paper); the others cover all but a few.
        window: edge in voxels of the cubes within which texture is shuffled. The paper takes windows of random size
            and place one after another; a regular grid is shuffled at once.
        shuffled: share of those cubes that are shuffled.
        loss_mask: leave voxels that do not count, such as a defaced region, out of the loss.
    """

    hides = reconstructs = True

    def __init__(
        self,
        encoder: Encoder,
        *,
        p_intensity: float = 0.9,
        p_shuffle: float = 0.5,
        p_paint: float = 0.9,
        p_inpaint: float = 0.2,
        window: int = 4,
        shuffled: float = 0.5,
        loss_mask: bool = True,
    ) -> None:
        super().__init__(encoder, ViewSpec(valid=loss_mask))
        self.p_intensity, self.p_shuffle, self.p_paint, self.p_inpaint = p_intensity, p_shuffle, p_paint, p_inpaint
        self.window, self.shuffled = window, shuffled
        self.decoder = UNetDecoder(encoder.feature_info, encoder.in_channels, encoder.in_channels)

    def inputs(self, views: Views, step: int) -> list[Float[Tensor, "b c x y z"]]:
        """The deformed views."""
        return [self._deform(image, fold(views.keys, f"genesis/{view}")) for view, image in enumerate(views.images)]

    def score(self, encoded: list[Encoded], views: Views, step: int) -> ObjectiveOutput:
        """Error of the restored crops, averaged over views."""
        errors = []
        for view, (one, target) in enumerate(zip(encoded, views.targets, strict=True)):
            error = (self._restore(one) - target.float()).square()
            errors.append(masked_mean(error, self.counted(views, view)))
        loss = torch.stack(errors).mean()
        return ObjectiveOutput(
            loss=loss,
            terms={"genesis/loss": loss.detach()},
        )

    @torch.no_grad()
    def preview(self, views: Views) -> Preview:
        """First view of the first samples: as it was, deformed, restored."""
        views = previewed(views)
        one = encode(self.encoder, self.inputs(views, 0)[0], None, self.mask_unit)
        target, visible, restored = (v[:, :1].float() for v in (views.targets[0], one.shown, self._restore(one)))
        return Preview(target=target, visible=visible, reconstruction=restored)

    def _restore(self, encoded: Encoded) -> Float[Tensor, "b c x y z"]:
        assert encoded.features is not None
        restored: Tensor = self.decoder(encoded.shown, encoded.features)
        return restored.float()

    def _deform(self, x: Float[Tensor, "b c x y z"], keys: Int64[Tensor, "b"]) -> Float[Tensor, "b c x y z"]:
        def drawn(name: str, p: float) -> Bool[Tensor, "b 1 1 1 1"]:
            return (uniform(fold(keys, name)) < p)[:, None, None, None, None]

        x = torch.where(
            drawn("shuffle?", self.p_shuffle), shuffle(x, fold(keys, "shuffle"), self.window, self.shuffled), x
        )
        x = torch.where(drawn("intensity?", self.p_intensity), bend(x, fold(keys, "intensity")), x)
        inside = drawn("inpaint?", self.p_inpaint)
        few = boxes(fold(keys, "in"), x.shape[2:], 5, (1 / 6, 1 / 3))
        but_few = ~boxes(fold(keys, "out"), x.shape[2:], 4, (3 / 7, 4 / 7))
        covered = torch.where(inside, few, but_few) & drawn("paint?", self.p_paint)
        low, high = x.amin((1, 2, 3, 4), keepdim=True), x.amax((1, 2, 3, 4), keepdim=True)
        noise = low + (high - low) * uniform(fold(keys, "noise"), *x.shape[1:])
        return torch.where(covered, noise, x)


def bend(x: Float[Tensor, "b c x y z"], keys: Int64[Tensor, "b"]) -> Float[Tensor, "b c x y z"]:
    """Map the crop's range through a monotone cubic Bezier curve, falling for half of the samples."""
    inner = uniform(keys, 4)
    t = torch.linspace(0.0, 1.0, _CURVE_POINTS, device=x.device)
    basis = torch.stack([3 * t * (1 - t) ** 2, 3 * t**2 * (1 - t), t**3])
    ends = torch.ones(len(x), 1, device=x.device)
    with torch.autocast(x.device.type, enabled=False):  # 16 bits would leave the curve some hundred grey values
        along = torch.cat((inner[:, :2], ends), dim=1) @ basis
        up = torch.cat((inner[:, 2:], ends), dim=1) @ basis
    # Both coordinates sorted, as the authors do: a function, and a rising one.
    along, up = along.sort(dim=1).values, up.sort(dim=1).values
    falls = (uniform(fold(keys, "falls")) < 0.5)[:, None]
    up = torch.where(falls, 1.0 - up, up)
    low, high = x.amin((1, 2, 3, 4), keepdim=True), x.amax((1, 2, 3, 4), keepdim=True)
    span = (high - low).clamp(min=1e-6)
    values = ((x - low) / span).flatten(1)
    right = torch.searchsorted(along, values).clamp(1, _CURVE_POINTS - 1)
    x0, x1 = along.gather(1, right - 1), along.gather(1, right)
    y0, y1 = up.gather(1, right - 1), up.gather(1, right)
    share = ((values - x0) / (x1 - x0).clamp(min=1e-6)).clamp(0.0, 1.0)
    return (y0 + share * (y1 - y0)).view_as(x) * span + low


def shuffle(
    x: Float[Tensor, "b c x y z"], keys: Int64[Tensor, "b"], window: int, share: float
) -> Float[Tensor, "b c x y z"]:
    """Permute the voxels within a share of the cubes of a grid; voxels beyond the last whole cube stay."""
    a, b, c = (size - size % window for size in x.shape[2:])
    if not min(a, b, c):
        return x
    pattern = "b c (gx i) (gy j) (gz k) -> b c (gx gy gz) (i j k)"
    cubes = rearrange(x[:, :, :a, :b, :c], pattern, i=window, j=window, k=window)
    order = bits(keys, *cubes.shape[2:]).argsort(dim=-1)
    chosen = uniform(fold(keys, "chosen"), cubes.shape[2], 1) < share
    order = torch.where(chosen, order, torch.arange(window**3, device=x.device))
    mixed = cubes.gather(-1, order[:, None].expand_as(cubes))
    out = x.clone()
    back = "b c (gx gy gz) (i j k) -> b c (gx i) (gy j) (gz k)"
    sizes = {"gx": a // window, "gy": b // window, "gz": c // window}
    out[:, :, :a, :b, :c] = rearrange(mixed, back, i=window, j=window, k=window, **sizes)
    return out


def boxes(
    keys: Int64[Tensor, "b"], size: torch.Size, count: int, edge: tuple[float, float]
) -> Bool[Tensor, "b 1 x y z"]:
    """The union of up to `count` boxes with edges of the given share of the crop's."""
    draws = uniform(keys, count, 2, 3)
    lengths = edge[0] + (edge[1] - edge[0]) * draws[:, :, 0]
    starts = draws[:, :, 1] * (1.0 - lengths)
    # The first box is always there, each further one with a falling probability.
    there = uniform(fold(keys, "count"), count) < torch.linspace(1.0, 1.0 / count, count, device=keys.device)
    inside = there[:, :, None, None, None]
    for axis, voxels in enumerate(size):
        at = (torch.arange(voxels, device=keys.device) + 0.5) / voxels
        low, high = starts[:, :, axis, None], (starts + lengths)[:, :, axis, None]
        shape = [1, 1, 1]
        shape[axis] = voxels
        inside = inside & ((at >= low) & (at < high)).view(*low.shape[:2], *shape)
    return inside.any(dim=1)[:, None]
