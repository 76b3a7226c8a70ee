import math
from collections.abc import Callable
from dataclasses import replace

import pytest
import torch

from fomo_ssl.core.errors import ConfigError
from fomo_ssl.core.types import Views, ViewSpec
from fomo_ssl.encoders import Encoder
from fomo_ssl.objectives import create_objective

MakeViews = Callable[..., Views]


def test_asks_for_two_views_of_its_pairing(vit: Encoder) -> None:
    objective = create_objective("contrastive", vit, pairing="session", min_overlap=0.7)
    assert objective.views == ViewSpec(n=2, pairing="session", min_overlap=0.7)


def test_loss_equals_the_plain_loop(encoder: Encoder, make_views: MakeViews) -> None:
    objective, views = create_objective("contrastive", encoder, temperature=0.5).eval(), make_views(n=2)
    rows = [objective.projector(encoder(image)).detach().double() for image in views.images]
    z = torch.nn.functional.normalize(torch.cat(rows), dim=1).tolist()

    def weight(i: int, j: int) -> float:
        return math.exp(sum(a * b for a, b in zip(z[i], z[j], strict=True)) / 0.5)

    terms = [-math.log(weight(i, (i + 4) % 8) / sum(weight(i, k) for k in range(8) if k != i)) for i in range(8)]
    assert objective(views, 0).loss.item() == pytest.approx(sum(terms) / 8, rel=1e-4)


def test_the_order_of_views_does_not_matter(encoder: Encoder, make_views: MakeViews) -> None:
    objective, views = create_objective("contrastive", encoder).eval(), make_views(n=2)
    swapped = replace(views, images=views.images[::-1])
    assert torch.allclose(objective(views, 0).loss, objective(swapped, 0).loss, rtol=1e-5)


def test_identical_views_are_recognised(vit: Encoder, make_views: MakeViews) -> None:
    views = make_views(n=2)
    health = create_objective("contrastive", vit)(replace(views, images=[views.images[0]] * 2), 0).health
    assert health["contrastive/positive_similarity"].item() == pytest.approx(1.0, abs=1e-5)
    assert health["contrastive/accuracy"].item() == 1.0


def test_one_sample_has_no_negatives(vit: Encoder, make_views: MakeViews) -> None:
    with pytest.raises(ConfigError, match="raise the batch size"):
        create_objective("contrastive", vit)(make_views(n=2, batch=1), 0)


def test_a_temperature_of_zero_is_refused(vit: Encoder) -> None:
    with pytest.raises(ConfigError, match="temperature must be positive"):
        create_objective("contrastive", vit, temperature=0.0)
