from collections.abc import Callable

import numpy as np
import pytest
import torch

from fomo_ssl.core.errors import ConfigError
from fomo_ssl.core.types import Views, ViewSpec
from fomo_ssl.encoders import Encoder
from fomo_ssl.objectives import create_objective
from fomo_ssl.objectives.vicreg import redundancy, spread_loss

MakeViews = Callable[..., Views]


def test_asks_for_two_views_of_its_pairing(vit: Encoder) -> None:
    assert create_objective("vicreg", vit, pairing="subject").views == ViewSpec(2, "subject", 0.4)


def test_loss_equals_the_plain_sums(encoder: Encoder, make_views: MakeViews) -> None:
    objective = create_objective("vicreg", encoder, projector_dim=6, variance=20.0, covariance=2.0).eval()
    views = make_views(n=2)
    a, b = (objective.projector(encoder(image)).detach().double().numpy() for image in views.images)
    invariance = np.mean((a - b) ** 2)
    variance = covariance = 0.0
    for z in (a, b):
        for j in range(6):
            variance += max(0.0, 1.0 - np.sqrt(np.var(z[:, j], ddof=1) + 1e-4)) / 6 / 2
            for k in range(6):
                if j != k:
                    covariance += np.cov(z[:, j], z[:, k])[0, 1] ** 2 / 6
    expected = 25.0 * invariance + 20.0 * variance + 2.0 * covariance
    assert objective(views, 0).loss.item() == pytest.approx(expected, rel=1e-4)


def test_collapse_costs_and_independence_does_not() -> None:
    torch.manual_seed(0)
    spread = torch.randn(4000, 5)
    assert spread_loss(torch.zeros(8, 5)) > 0.98
    assert spread_loss(2.0 * spread) == 0.0
    assert redundancy(spread) < 0.01
    assert redundancy(spread[:, :1].repeat(1, 5)) > 3.5


def test_one_sample_has_no_spread(vit: Encoder, make_views: MakeViews) -> None:
    with pytest.raises(ConfigError, match="raise the batch size"):
        create_objective("vicreg", vit)(make_views(n=2, batch=1), 0)
