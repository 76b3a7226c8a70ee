import math
from collections.abc import Callable
from dataclasses import replace

import pytest
import torch

from fomo_ssl.core.errors import ConfigError
from fomo_ssl.core.seeding import fold, normal
from fomo_ssl.core.types import Views
from fomo_ssl.encoders import Encoder, create_encoder
from fomo_ssl.objectives import create_objective

MakeViews = Callable[..., Views]


def test_the_loss_is_the_weighted_error_of_the_denoised_scans(encoder: Encoder, make_views: MakeViews) -> None:
    objective, views = create_objective("denoising", encoder, sigma_data=0.8), make_views()
    errors = []
    for i in range(4):
        key = views.keys[i : i + 1]
        sigma = math.exp(-0.5 + 1.2 * float(normal(fold(key, "sigma/0"), 1)))
        y = views.targets[0][i : i + 1]
        x = y + sigma * normal(fold(key, "noise/0"), 1, 24, 24, 24)
        weight = (sigma**2 + 0.8**2) / (sigma * 0.8) ** 2
        errors.append(weight * (objective.denoiser.denoise(x, torch.tensor([sigma])) - y).square().mean())
    torch.testing.assert_close(objective(views, 0).loss, torch.stack(errors).mean(), rtol=1e-3, atol=1e-4)


def test_noise_levels_are_log_normal(vit: Encoder, make_views: MakeViews) -> None:
    objective = create_objective("denoising", vit, log_mean=-1.0, log_std=0.5)
    views = make_views(batch=2000, size=(2, 2, 2))
    noisy, sigma = objective._noisy(views, 0)
    assert sigma.log().mean() == pytest.approx(-1.0, abs=0.05)
    assert sigma.log().std() == pytest.approx(0.5, abs=0.03)
    unit = (noisy - views.targets[0]) / sigma[:, None, None, None, None]
    assert unit.std() == pytest.approx(1.0, abs=0.02)
    assert noisy.dtype == torch.float32


def test_the_encoder_is_shown_unit_variance(vit: Encoder, make_views: MakeViews) -> None:
    views = make_views(batch=8)
    views = replace(views, targets=[normal(views.keys, 1, 24, 24, 24)])
    for log_mean in (-3.0, 0.0, 3.0):
        (shown,) = create_objective("denoising", vit, log_mean=log_mean, log_std=0.0).inputs(views, 0)
        assert shown.std() == pytest.approx(1.0, abs=0.02)


def test_the_best_denoiser_of_gaussian_scans_is_found() -> None:
    """Of y ~ N(2, 0.5^2), each scan one number: the mean of y given x and sigma is known, and not what F = 0 says."""
    torch.manual_seed(0)
    objective = create_objective(
        "denoising", create_encoder("resenc_t", channels=(8, 16), blocks=(1, 1)), sigma_data=1.0, log_mean=0.0
    )
    optimizer = torch.optim.AdamW(objective.parameters(), lr=3e-3)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, 200)

    def scans(first: int, count: int) -> tuple[torch.Tensor, torch.Tensor]:
        keys = torch.arange(first, first + count)
        return keys, 2.0 + 0.5 * normal(fold(keys, "y"), 1, 8, 8, 8)

    for step in range(200):
        keys, y = scans(16 * step, 16)
        views = Views([y], [y], keys, torch.ones(16, 3), torch.zeros(1, 16, dtype=torch.int64), torch.ones(16) > 0)
        optimizer.zero_grad()
        objective(views, step).loss.backward()
        optimizer.step()
        schedule.step()

    _, y = scans(10**6, 32)
    for level in (0.3, 1.0, 3.0):
        sigma = torch.full((32,), level)
        x = y + level * torch.randn_like(y)
        best = (0.25 * x + level**2 * 2.0) / (0.25 + level**2)
        with torch.no_grad():
            found = objective.denoiser.denoise(x, sigma)
        # Beside the best: what is left of the noise, and what an untrained network (F = 0) leaves.
        untrained = x / (level**2 + 1.0)
        excess, before = (found - best).square().mean(), (untrained - best).square().mean()
        assert excess < 0.1 * before, (level, excess, before)


def test_previews_show_rising_noise(resenc: Encoder, make_views: MakeViews) -> None:
    objective, views = create_objective("denoising", resenc).eval(), make_views()
    preview = objective.preview(views)
    noise = (preview.visible - preview.target).flatten(1).std(1)
    assert (noise[1:] > noise[:-1]).all()
    # The standard normal's quintiles lie at -0.8416 and 0.8416 at the ends.
    assert noise[0].log() == pytest.approx(-0.5 - 1.2 * 0.8416, abs=0.03)


def test_settings_out_of_range_are_refused(vit: Encoder) -> None:
    with pytest.raises(ConfigError, match="must be positive"):
        create_objective("denoising", vit, sigma_data=0.0)
