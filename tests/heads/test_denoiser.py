import math

import pytest
import torch

from fomo_ssl.core.seeding import normal
from fomo_ssl.core.types import FeatureInfo
from fomo_ssl.encoders import Encoder, create_encoder
from fomo_ssl.heads.denoiser import Denoiser, DenoisingHead

LEVELS = torch.tensor([0.002, 0.5, 3.0, 80.0])


def small(name: str) -> Encoder:
    arguments = {
        "vit_t_p8": {"dim": 48, "depth": 4, "heads": 2},
        "resenc_t": {"channels": (8, 16, 32), "blocks": (1, 1, 1)},
    }
    return create_encoder(name, **arguments[name])


def build(name: str, sigma_data: float = 0.7) -> Denoiser:
    torch.manual_seed(0)
    encoder = small(name)
    return Denoiser(encoder, DenoisingHead(encoder.feature_info, 1, sigma_data=sigma_data))


@pytest.mark.parametrize("name", ["vit_t_p8", "resenc_t"])
def test_preconditioning_is_table_1_of_the_paper(name: str) -> None:
    denoiser = build(name)
    x = normal(torch.arange(4), 1, 16, 16, 16) * 2.0
    found = denoiser.denoise(x, LEVELS)
    for i, sigma in enumerate(LEVELS.tolist()):
        data = 0.7
        c_skip = data**2 / (sigma**2 + data**2)
        c_out = sigma * data / math.sqrt(data**2 + sigma**2)
        c_in = 1.0 / math.sqrt(sigma**2 + data**2)
        c_noise = torch.tensor([math.log(sigma) / 4.0])
        shown = c_in * x[i : i + 1]
        noise = denoiser.head.embed(c_noise)
        film = [layer(noise) for layer in denoiser.head.film]
        network = denoiser.head.decoder(shown, denoiser.encoder.forward_features(shown), film)
        torch.testing.assert_close(found[i : i + 1], c_skip * x[i : i + 1] + c_out * network, rtol=1e-4, atol=1e-4)


def test_the_score_is_the_way_to_the_denoised_scan() -> None:
    denoiser = build("resenc_t")
    x = normal(torch.arange(4), 1, 8, 8, 8)
    expected = (denoiser.denoise(x, LEVELS) - x) / LEVELS[:, None, None, None, None] ** 2
    torch.testing.assert_close(denoiser.score(x, LEVELS), expected)


def test_the_noise_level_reaches_every_level_of_the_decoder() -> None:
    denoiser = build("resenc_t")
    for layer in denoiser.head.film:
        torch.nn.init.normal_(layer.weight)
    x, sigma = normal(torch.arange(2), 1, 8, 8, 8), torch.tensor([0.3, 2.0])
    features = denoiser.encoder.forward_features(x)
    denoiser.head.residual(x, sigma, features).square().sum().backward()
    assert all(layer.weight.grad.abs().max() > 0 for layer in denoiser.head.film)
    far, near = (denoiser.head.residual(x, level * torch.ones(2), features) for level in (0.1, 10.0))
    assert not torch.allclose(far, near, rtol=0.1, atol=0.1)


def test_noise_levels_are_told_apart() -> None:
    embed = build("resenc_t").head.embed
    levels = torch.logspace(-2, 2, 40).log() / 4.0
    angles = 2.0 * math.pi * levels[:, None] * embed.frequencies
    features = torch.cat((angles.cos(), angles.sin()), dim=1)
    apart = torch.cdist(features, features) + 1e6 * torch.eye(40)
    assert apart.min() > 0.5


def test_film_scales_and_shifts_after_the_convolution() -> None:
    info = [FeatureInfo(4, (1, 1, 1)), FeatureInfo(8, (2, 2, 2))]
    decoder = DenoisingHead(info, 1).decoder
    image = normal(torch.arange(2), 1, 8, 8, 8)
    features = [normal(torch.arange(2), 4, 8, 8, 8), normal(torch.arange(2), 8, 4, 4, 4)]
    plain = decoder(image, features)
    torch.testing.assert_close(decoder(image, features, [torch.zeros(2, 8)]), plain)
    film = torch.cat((torch.ones(2, 4), torch.zeros(2, 4)), dim=1)
    bias = decoder.predict.bias
    torch.testing.assert_close(decoder(image, features, [film]) - bias[:, None, None, None], 2.0 * (plain - bias))
    shift = normal(torch.arange(2), 4)
    moved = decoder(image, features, [torch.cat((torch.zeros(2, 4), shift), dim=1)]) - plain
    expected = (shift @ decoder.predict.weight[0, :, 0, 0, 0])[:, None, None, None, None].expand_as(moved)
    torch.testing.assert_close(moved, expected, rtol=1e-4, atol=1e-5)
