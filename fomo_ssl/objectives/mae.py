"""Masked autoencoding: hide most of a crop, reconstruct it as it was before its intensities were augmented.

He et al. 2022 (MAE, arXiv 2111.06377) for encoders that drop tokens; Munk et al. 2024 (AMAES, arXiv 2408.00640) for
convolutional encoders and for the target.
"""

import math
from typing import Literal, get_args

import torch
from jaxtyping import Float, Int64
from torch import Tensor, nn

from fomo_ssl.core.errors import ConfigError
from fomo_ssl.core.types import Triple, Views, ViewSpec
from fomo_ssl.encoders.base import Encoder
from fomo_ssl.encoders.patches import to_patches
from fomo_ssl.heads.decoders import LightDecoder, TokenDecoder
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
from fomo_ssl.objectives.losses import ReconstructionLoss, explained, normalise_patches, reconstruction_loss
from fomo_ssl.objectives.masking import mask_grid, view_mask

TOKEN_RATIO, VOXEL_RATIO = 0.75, 0.6
"""Hidden fraction by default: of tokens (He et al. 2022, figure 5), of voxels before a convolution (AMAES)."""

VOXEL_UNIT = 8
"""Edge in voxels of what is hidden together from a convolutional encoder."""


@objectives.register("mae")
class MAE(Objective):
    """Reconstruct hidden patches; a transformer sees only the visible tokens, a convolution sees zeros.

    The decoder of convolutional encoders starts from the coarsest map alone: skips would carry the visible voxels
    past the encoder. Several views are masked apart and their losses averaged.

    Args:
        encoder: any encoder.
        mask_ratio: hidden fraction; by default 0.75 where tokens are dropped, else 0.6.
        mask_unit: edge in voxels of a mask unit, by default 8; where tokens are dropped it is the encoder's patch.
        mask_block: edge, in units, of cubes that are hidden together.
        loss: `mse`, or `smooth_l1`, which outliers such as bright vessels pull less.
        loss_on: `masked` voxels or `all`.
        loss_mask: leave voxels that do not count, such as a defaced region, out of the loss and of `mae/explained`.
        normalise_patches: aim at patches of zero mean and unit variance. Off by default, unlike on photographs: scans
            are normalised as a whole already, brightness of a patch is what tells sequences and lesions apart, and the
            variance of a patch of air is noise.
        decoder_dim: width of the token decoder, by default half the encoder's.
        decoder_depth: blocks of the token decoder; convolutional encoders take neither.
    """

    hides = reconstructs = True

    def __init__(
        self,
        encoder: Encoder,
        *,
        mask_ratio: float | None = None,
        mask_unit: int | None = None,
        mask_block: int = 1,
        loss: ReconstructionLoss = "mse",
        loss_on: Literal["masked", "all"] = "masked",
        loss_mask: bool = True,
        normalise_patches: bool = False,
        decoder_dim: int | None = None,
        decoder_depth: int = 4,
    ) -> None:
        super().__init__(encoder, ViewSpec(valid=loss_mask))
        check_choice("loss of mae", loss, get_args(ReconstructionLoss))
        check_choice("loss_on of mae", loss_on, ("masked", "all"))
        drops = encoder.supports_token_dropping
        if not drops:
            self.mask_unit = (mask_unit or VOXEL_UNIT,) * 3
        elif mask_unit is not None:
            raise ConfigError(
                f"mask_unit is {mask_unit}, but this encoder hides whole tokens of {encoder.patch_size} voxels",
                way_out="leave mask_unit empty; mask_block hides larger cubes",
            )
        self.mask_ratio = mask_ratio if mask_ratio is not None else (TOKEN_RATIO if drops else VOXEL_RATIO)
        self.mask_block, self.kind, self.masked_only = mask_block, loss, loss_on == "masked"
        self.normalise = normalise_patches
        channels = encoder.in_channels
        self.decoder: nn.Module = (
            TokenDecoder(
                encoder.embed_dim, channels * math.prod(encoder.patch_size), dim=decoder_dim, depth=decoder_depth
            )
            if drops
            else LightDecoder(encoder.feature_info, channels)
        )

    def masks(self, views: Views, step: int) -> list[Mask | None]:
        """A mask of its own for every view and sample, drawn from the sample's key."""
        return [self._mask(views.keys, view, image) for view, image in enumerate(views.images)]

    def score(self, encoded: list[Encoded], views: Views, step: int) -> ObjectiveOutput:
        """Reconstruction error, averaged over views."""
        scored = [self._score_view(one, views, view) for view, one in enumerate(encoded)]
        loss = torch.stack([error for error, _ in scored]).mean()
        return ObjectiveOutput(
            loss=loss,
            terms={"mae/loss": loss.detach()},
            health={"mae/explained": torch.stack([share for _, share in scored]).mean()},
        )

    @torch.no_grad()
    def preview(self, views: Views) -> Preview:
        """First view of the first four samples; the reconstruction shows the truth where nothing was hidden."""
        views = previewed(views)
        image, target = views.images[0], views.targets[0]
        mask = self._mask(views.keys, 0, image)
        patches = self._predict(encode(self.encoder, image, mask, self.mask_unit), image).float()
        if self.normalise:
            _, mean, std = normalise_patches(self._patches(target))
            patches = patches * std + mean
        x, y, z = image.shape[2:]
        predicted = unpatchify(patches, self.mask_unit, self._grid(image))[:, :, :x, :y, :z]
        hidden = mask_to_voxels(mask, self.mask_unit, (x, y, z))
        return Preview(
            target=target[:, :1],
            visible=image.masked_fill(hidden, 0.0)[:, :1],
            reconstruction=torch.where(hidden, predicted, target)[:, :1],
        )

    def _score_view(self, encoded: Encoded, views: Views, view: int) -> tuple[Float[Tensor, ""], Float[Tensor, ""]]:
        """Loss, and the share of the hidden variance that is explained."""
        assert encoded.mask is not None
        target, hidden = views.targets[view], encoded.mask.flatten(1)
        predicted, truth = self._predict(encoded, target), self._patches(target)
        valid = patches_of_mask(self.counted(views, view), target.shape[1], self.mask_unit)
        if self.normalise:
            truth, _, _ = normalise_patches(truth)
        loss = reconstruction_loss(predicted, truth, hidden if self.masked_only else None, self.kind, valid)
        return loss, explained(predicted, truth, hidden, valid)

    def _predict(self, encoded: Encoded, like: Float[Tensor, "b c x y z"]) -> Float[Tensor, "b n p"]:
        """Every patch of a crop of the size of `like`."""
        if encoded.tokens is None:
            return self._patches(self.decoder(encoded.features, like.shape[2:]))
        patches: Tensor = self.decoder(encoded.tokens, encoded.keep, self._grid(like))
        return patches

    def _patches(self, volume: Float[Tensor, "b c x y z"]) -> Float[Tensor, "b n p"]:
        """Voxels of every mask unit; where units reach over the edge, the edge is repeated."""
        return to_patches(volume, self.mask_unit)[0]

    def _grid(self, volume: Float[Tensor, "b c x y z"]) -> Triple:
        x, y, z = volume.shape[2:]
        return mask_grid((x, y, z), self.mask_unit)

    def _mask(self, keys: Int64[Tensor, "b"], view: int, image: Float[Tensor, "b c x y z"]) -> Mask:
        x, y, z = image.shape[2:]
        return view_mask(keys, view, (x, y, z), self.mask_unit, self.mask_ratio, self.mask_block)
