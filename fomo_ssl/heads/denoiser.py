"""A denoiser on any encoder, preconditioned as EDM: D(x; s), and with it the score of the noisy scans' density.

Karras et al. 2022 (arXiv 2206.00364). x is a scan y plus white noise of standard deviation s ("sigma"); the denoiser
that minimises the squared error gives the mean of all y that could have become x, and (D(x; s) - x) / s^2 is the
gradient of the log density of noisy scans (equation 3). Samplers and priors need nothing else.
"""

import math
from collections.abc import Sequence
from typing import Protocol, runtime_checkable

import torch
from jaxtyping import Float
from torch import Tensor, nn

from fomo_ssl.core.types import FeatureInfo
from fomo_ssl.heads.decoders import UNetDecoder
from fomo_ssl.layers.transformer import init_transformer

_FREQUENCIES, _FASTEST = 32, 32.0


class NoiseEmbedding(nn.Module):
    """Fourier features of c_noise = ln(sigma) / 4, and two layers.

    Frequencies are geometric, from one turn in four units of c_noise (the range of usual noise) to 8 turns in one.
    """

    frequencies: Tensor

    def __init__(self, dim: int) -> None:
        super().__init__()
        frequencies = torch.logspace(math.log2(0.25), math.log2(_FASTEST / 4), _FREQUENCIES, base=2.0)
        self.register_buffer("frequencies", frequencies, persistent=False)
        self.layers = nn.Sequential(nn.Linear(2 * _FREQUENCIES, dim), nn.SiLU(), nn.Linear(dim, dim), nn.SiLU())
        self.apply(init_transformer)

    def forward(self, c_noise: Float[Tensor, "b"]) -> Float[Tensor, "b d"]:
        """One row per sample."""
        angles = 2.0 * math.pi * c_noise.float()[:, None] * self.frequencies
        out: Tensor = self.layers(torch.cat((angles.cos(), angles.sin()), dim=1))
        return out


class DenoisingHead(nn.Module):
    """The part of the denoiser that stands on the encoder's maps, and EDM's preconditioning around both (table 1).

    F is encoder and U-Net decoder. The noise level reaches the decoder alone, as a scale and a shift of its maps at
    every level (FiLM, Perez et al. 2018, arXiv 1709.07871), for two reasons. The encoder that is kept takes a scan and
    nothing else. And instance norms wipe out what is constant over space: a shift added to the coarsest map would not
    survive the first convolution, whereas a scale after the norm does, and sets how much each level of detail counts.

    Args:
        feature_info: the encoder's levels.
        channels: sequences of the scan.
        sigma_data: standard deviation of the scans.
        dim: width of the noise embedding.
    """

    def __init__(
        self, feature_info: Sequence[FeatureInfo], channels: int, *, sigma_data: float = 1.0, dim: int = 128
    ) -> None:
        super().__init__()
        self.sigma_data = sigma_data
        self.decoder = UNetDecoder(feature_info, channels, channels)
        self.embed = NoiseEmbedding(dim)
        # Zeros: at first every level passes as it is, whatever the noise.
        self.film = nn.ModuleList(nn.Linear(dim, 2 * rung.channels) for rung in self.decoder.rungs[1:])
        for layer in self.film:
            assert isinstance(layer, nn.Linear)
            nn.init.zeros_(layer.weight)
            nn.init.zeros_(layer.bias)

    def scaled(self, x: Float[Tensor, "b c x y z"], sigma: Float[Tensor, "b"]) -> Float[Tensor, "b c x y z"]:
        """c_in x: what the encoder is given; of unit variance at every noise level."""
        return x * _spread((sigma.square() + self.sigma_data**2).rsqrt())

    def residual(
        self, x: Float[Tensor, "b c x y z"], sigma: Float[Tensor, "b"], features: list[Float[Tensor, "b _ _ _ _"]]
    ) -> Float[Tensor, "b c x y z"]:
        """F(c_in x; c_noise) in float32: what the network itself says, of about unit variance."""
        noise = self.embed(sigma.log() / 4.0)
        film = [layer(noise) for layer in self.film]
        out: Tensor = self.decoder(self.scaled(x, sigma), features, film)
        return out.float()

    def forward(
        self, x: Float[Tensor, "b c x y z"], sigma: Float[Tensor, "b"], features: list[Float[Tensor, "b _ _ _ _"]]
    ) -> Float[Tensor, "b c x y z"]:
        """D(x; sigma) = c_skip x + c_out F, in float32.

        Args:
            x: the noisy scan.
            sigma: standard deviation of its noise, per sample.
            features: the encoder's maps of `scaled(x, sigma)`.
        """
        c_skip, c_out = self.coefficients(sigma)
        return _spread(c_skip) * x.float() + _spread(c_out) * self.residual(x, sigma, features)

    def coefficients(self, sigma: Float[Tensor, "b"]) -> tuple[Float[Tensor, "b"], Float[Tensor, "b"]]:
        """c_skip and c_out."""
        total = sigma.square() + self.sigma_data**2
        return self.sigma_data**2 / total, sigma * self.sigma_data * total.rsqrt()


@runtime_checkable
class HasFeatures(Protocol):
    """All that a denoiser asks of an encoder: its maps, finest first."""

    def forward_features(self, x: Float[Tensor, "b c x y z"]) -> list[Float[Tensor, "b _ _ _ _"]]: ...


class Denoiser(nn.Module):
    """An encoder and its denoising head as one function of a noisy scan."""

    def __init__(self, encoder: HasFeatures, head: DenoisingHead) -> None:
        super().__init__()
        self.encoder, self.head = encoder, head

    def denoise(self, x: Float[Tensor, "b c x y z"], sigma: Float[Tensor, "b"]) -> Float[Tensor, "b c x y z"]:
        """D(x; sigma): the expected scan, given x and the standard deviation of its noise, per sample; float32."""
        features = self.encoder.forward_features(self.head.scaled(x, sigma))
        out: Tensor = self.head(x, sigma, features)
        return out

    def score(self, x: Float[Tensor, "b c x y z"], sigma: Float[Tensor, "b"]) -> Float[Tensor, "b c x y z"]:
        """Gradient of the log density of scans with noise of sigma, at x (equation 3); float32."""
        return (self.denoise(x, sigma) - x.float()) / _spread(sigma.square())


def _spread(values: Float[Tensor, "b"]) -> Float[Tensor, "b 1 1 1 1"]:
    return values.to(torch.float32)[:, None, None, None, None]
