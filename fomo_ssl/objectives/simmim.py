"""SimMIM: the encoder sees every token, hidden ones as a learned patch, and a light head predicts what they hide.

Xie et al. 2022 (arXiv 2111.09886). Unlike MAE the encoder keeps its full length: dearer, and fit for encoders that
cannot drop tokens.
"""

import math
from typing import get_args

import torch
from jaxtyping import Float
from torch import Tensor, nn

from fomo_ssl.core.errors import ConfigError
from fomo_ssl.core.types import Triple, Views, ViewSpec
from fomo_ssl.encoders.base import Encoder
from fomo_ssl.encoders.patches import to_patches
from fomo_ssl.heads.decoders import LightDecoder
from fomo_ssl.layers.tokens import unpatchify
from fomo_ssl.objectives.base import (
    Encoded,
    Mask,
    Objective,
    ObjectiveOutput,
    Preview,
    check_choice,
    encode,
    mask_to_voxels,
    objectives,
    patches_of_mask,
    previewed,
)
from fomo_ssl.objectives.losses import ReconstructionLoss, explained, reconstruction_loss
from fomo_ssl.objectives.masking import view_mask

MASK_UNIT = 8
"""Edge in voxels of a hidden cube."""


@objectives.register("simmim")
class SimMIM(Objective):
    """Absolute error on hidden voxels; one linear layer reads a transformer's tokens, a light decoder a coarse map.

    Args:
        encoder: any encoder.
        mask_ratio: hidden fraction.
        mask_unit: edge in voxels of a hidden cube; larger ones are harder, and need larger crops. By default 8, or as
            many tokens as reach 8; a transformer's cubes are whole tokens, or it would see a part of nearly all.
        loss: `l1` as in the paper, `smooth_l1` or `mse`.
        loss_mask: leave voxels that do not count, such as a defaced region, out of the loss.

    Raises:
        ConfigError: an unknown loss, or a cube that cuts through tokens.
    """

    hides = reconstructs = True

    def __init__(
        self,
        encoder: Encoder,
        *,
        mask_ratio: float = 0.6,
        mask_unit: int | None = None,
        loss: ReconstructionLoss = "l1",
        loss_mask: bool = True,
    ) -> None:
        super().__init__(encoder, ViewSpec(valid=loss_mask))
        check_choice("loss of simmim", loss, get_args(ReconstructionLoss))
        self.mask_ratio, self.kind, self.mask_unit = mask_ratio, loss, _unit(encoder, mask_unit)
        channels, last = encoder.in_channels, encoder.feature_info[-1]
        # A patch of voxels in front of a linear patch embedding is a mask token behind it.
        self.mask_token = nn.Parameter(torch.zeros(channels, *self.mask_unit))
        self.decoder: nn.Module = (
            nn.Conv3d(last.channels, channels * math.prod(last.stride), 1)
            if encoder.supports_token_dropping
            else LightDecoder(encoder.feature_info, channels)
        )

    def inputs(self, views: Views, step: int) -> list[Float[Tensor, "b c x y z"]]:
        """The views with the learned patch in every hidden place."""
        return [self._covered(image, self._mask(views, view)) for view, image in enumerate(views.images)]

    def score(self, encoded: list[Encoded], views: Views, step: int) -> ObjectiveOutput:
        """Error on hidden voxels, averaged over views."""
        errors, shares = [], []
        for view, (one, target) in enumerate(zip(encoded, views.targets, strict=True)):
            hidden = self._mask(views, view).flatten(1)
            predicted, truth = self._patches(self._predict(one, target)), self._patches(target)
            valid = patches_of_mask(self.counted(views, view), target.shape[1], self.mask_unit)
            errors.append(reconstruction_loss(predicted, truth, hidden, self.kind, valid))
            shares.append(explained(predicted, truth, hidden, valid))
        loss = torch.stack(errors).mean()
        return ObjectiveOutput(
            loss=loss,
            terms={"simmim/loss": loss.detach()},
            health={"simmim/explained": torch.stack(shares).mean()},
        )

    @torch.no_grad()
    def preview(self, views: Views) -> Preview:
        """First view of the first samples; the reconstruction shows the truth where nothing was hidden."""
        views = previewed(views)
        image, target, mask = views.images[0], views.targets[0], self._mask(views, 0)
        one = encode(self.encoder, self._covered(image, mask), None, self.mask_unit)
        predicted = self._predict(one, target).float()
        hidden = mask_to_voxels(mask, self.mask_unit, image.shape[2:])
        return Preview(
            target=target[:, :1],
            visible=image.masked_fill(hidden, 0.0)[:, :1],
            reconstruction=torch.where(hidden, predicted, target)[:, :1],
        )

    def _predict(self, encoded: Encoded, like: Float[Tensor, "b c x y z"]) -> Float[Tensor, "b c x y z"]:
        assert encoded.features is not None
        x, y, z = like.shape[2:]
        if isinstance(self.decoder, LightDecoder):
            volume: Tensor = self.decoder(encoded.features, (x, y, z))
            return volume
        values = self.decoder(encoded.features[-1])
        gx, gy, gz = values.shape[2:]
        patches = values.flatten(2).transpose(1, 2)
        return unpatchify(patches, self.encoder.feature_info[-1].stride, (gx, gy, gz))[:, :, :x, :y, :z]

    def _covered(self, image: Float[Tensor, "b c x y z"], mask: Mask) -> Float[Tensor, "b c x y z"]:
        x, y, z = image.shape[2:]
        tiles = [math.ceil(size / unit) for size, unit in zip((x, y, z), self.mask_unit, strict=True)]
        patch = self.mask_token.repeat(1, *tiles)[:, :x, :y, :z].to(image.dtype)
        return torch.where(mask_to_voxels(mask, self.mask_unit, (x, y, z)), patch, image)

    def _patches(self, volume: Float[Tensor, "b c x y z"]) -> Float[Tensor, "b n p"]:
        """Voxels of every mask unit; where units reach over the edge, the edge is repeated."""
        return to_patches(volume, self.mask_unit)[0]

    def _mask(self, views: Views, view: int) -> Mask:
        x, y, z = views.images[view].shape[2:]
        return view_mask(views.keys, view, (x, y, z), self.mask_unit, self.mask_ratio)


def _unit(encoder: Encoder, edge: int | None) -> Triple:
    """Voxels of what is hidden together along each axis."""
    x, y, z = encoder.patch_size if encoder.supports_token_dropping else (1, 1, 1)
    if edge is None:
        return -(-MASK_UNIT // x) * x, -(-MASK_UNIT // y) * y, -(-MASK_UNIT // z) * z
    if edge < 1 or edge % x or edge % y or edge % z:
        raise ConfigError(
            f"mask_unit is {edge}, but this encoder's tokens have {(x, y, z)} voxels",
            way_out="leave mask_unit empty, or take a multiple of the token along every axis",
        )
    return edge, edge, edge
