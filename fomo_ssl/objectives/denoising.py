"""Denoising score matching: take white noise of any strength off a scan, and so learn how scans are distributed.

Karras et al. 2022 (EDM, arXiv 2206.00364): preconditioning, log-normal noise levels and their weights. The encoder
learns from every level; encoder and head together are a prior over scans (`heads.denoiser.Denoiser`).
"""

import math

import torch
from jaxtyping import Float
from torch import Tensor

from fomo_ssl.core.errors import ConfigError
from fomo_ssl.core.seeding import fold, normal
from fomo_ssl.core.types import Views, ViewSpec
from fomo_ssl.encoders.base import Encoder
from fomo_ssl.heads.denoiser import Denoiser, DenoisingHead
from fomo_ssl.objectives.base import PREVIEWED, Encoded, Objective, ObjectiveOutput, Preview, objectives, previewed
from fomo_ssl.objectives.losses import masked_mean


@objectives.register("denoising")
class Denoising(Objective):
    """Weighted squared error of the denoised scan, over noise levels with ln(sigma) ~ N(log_mean, log_std^2).

    The scan is the view without intensity augmentation: the score is that of scans as they are, not as augmented.

    Args:
        encoder: any encoder; it sees the noisy scan, scaled to unit variance.
        sigma_data: standard deviation of the scans; 1, since preprocessing makes the foreground so.
        log_mean, log_std: of the natural logarithm of sigma. The paper has -1.2 and 1.2 at sigma_data = 0.5; with
            intensities twice as wide, -0.5 is the same noise.
        loss_mask: leave voxels that do not count, such as a defaced region, out of the loss and of `denoising/error`.
    """

    hides = reconstructs = True

    def __init__(
        self,
        encoder: Encoder,
        *,
        sigma_data: float = 1.0,
        log_mean: float = -0.5,
        log_std: float = 1.2,
        loss_mask: bool = True,
    ) -> None:
        super().__init__(encoder, ViewSpec(valid=loss_mask))
        if sigma_data <= 0.0 or log_std < 0.0:
            raise ConfigError(f"sigma_data {sigma_data} must be positive and log_std {log_std} not negative")
        self.log_mean, self.log_std = log_mean, log_std
        self.head = DenoisingHead(encoder.feature_info, encoder.in_channels, sigma_data=sigma_data)

    @property
    def denoiser(self) -> Denoiser:
        """Encoder and head as a function of a noisy scan; shares their weights."""
        return Denoiser(self.encoder, self.head)

    def inputs(self, views: Views, step: int) -> list[Float[Tensor, "b c x y z"]]:
        """The noisy scans, scaled."""
        noisy = [self._noisy(views, view) for view in range(len(views.targets))]
        return [self.head.scaled(x, sigma) for x, sigma in noisy]

    def score(self, encoded: list[Encoded], views: Views, step: int) -> ObjectiveOutput:
        """lambda(sigma) |D(x; sigma) - y|^2, averaged over the voxels that count, samples and views.

        Since lambda = 1 / c_out^2, this is the squared error of F itself (equation 8), which loses no digits where
        sigma is tiny.
        """
        losses, errors = [], []
        for view, (one, target) in enumerate(zip(encoded, views.targets, strict=True)):
            assert one.features is not None
            x, sigma = self._noisy(views, view)
            said = self.head.residual(x, sigma, one.features)
            c_skip, c_out = (c[:, None, None, None, None] for c in self.head.coefficients(sigma))
            aim = (target.float() - c_skip * x) / c_out
            counted = self.counted(views, view)
            losses.append(masked_mean((said - aim).square(), counted))
            errors.append(masked_mean((c_out * (said - aim)).detach().square(), counted))
        loss = torch.stack(losses).mean()
        return ObjectiveOutput(
            loss=loss,
            terms={"denoising/loss": loss.detach(), "denoising/error": torch.stack(errors).mean()},
        )

    @torch.no_grad()
    def preview(self, views: Views) -> Preview:
        """Scan, with noise, and denoised in one step; from little to much noise down the first samples."""
        views = previewed(views)
        target = views.targets[0].float()
        # Quintiles of the levels that are trained, not draws: the same noise in every picture of a run.
        level = torch.arange(1, len(target) + 1, device=target.device) / (PREVIEWED + 1)
        sigma = torch.exp(self.log_mean + self.log_std * math.sqrt(2.0) * torch.erfinv(2.0 * level - 1.0))
        noise = normal(fold(views.keys, "noise/0"), *target.shape[1:])
        x = target + sigma[:, None, None, None, None] * noise
        denoised = self.denoiser.denoise(x, sigma)
        return Preview(target=target[:, :1], visible=x[:, :1], reconstruction=denoised[:, :1])

    def _noisy(self, views: Views, view: int) -> tuple[Float[Tensor, "b c x y z"], Float[Tensor, "b"]]:
        """A view with noise in float32, and the noise's standard deviation per sample."""
        y = views.targets[view].float()
        draw = normal(fold(views.keys, f"sigma/{view}"), 1)[:, 0]
        sigma = torch.exp(self.log_mean + self.log_std * draw)
        noise = normal(fold(views.keys, f"noise/{view}"), *y.shape[1:])
        return y + sigma[:, None, None, None, None] * noise, sigma
