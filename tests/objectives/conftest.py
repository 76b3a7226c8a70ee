from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from plain_placement import as_cut

from fomo_ssl.core.seeding import fold, normal
from fomo_ssl.core.types import Views
from fomo_ssl.encoders import Encoder, create_encoder


def _smooth(keys: torch.Tensor, stream: str, size: tuple[int, int, int]) -> torch.Tensor:
    return F.interpolate(normal(fold(keys, stream), 1, 4, 4, 4), size=size, mode="trilinear")


@pytest.fixture
def make_views() -> Callable[..., Views]:
    """Smooth volumes; a sample's views share structure and lie a voxel apart; images have other grey than targets."""

    def make(n: int = 1, batch: int = 4, size: tuple[int, int, int] = (24, 24, 24), first_key: int = 0) -> Views:
        keys = torch.arange(first_key, first_key + batch)
        shared = _smooth(keys, "shared", size)
        targets = [shared + 0.3 * _smooth(keys, f"view {view}", size) for view in range(n)]
        return Views(
            images=[1.1 * target + 0.1 for target in targets],
            targets=targets,
            keys=keys,
            spacing=torch.ones(batch, 3),
            sequences=1 + torch.arange(batch).expand(n, -1) % 3,
            paired=torch.ones(batch, dtype=torch.bool),
            placement=as_cut(torch.arange(n).view(n, 1, 1).repeat(1, batch, 3), size),
        )

    return make


def _small_vit() -> Encoder:
    return create_encoder("vit_t_p8", dim=48, depth=4, heads=2)


def _small_resenc() -> Encoder:
    return create_encoder("resenc_t", channels=(8, 16, 32), blocks=(1, 1, 1))


@pytest.fixture(params=[_small_vit, _small_resenc], ids=["vit", "resenc"])
def encoder(request: pytest.FixtureRequest) -> Encoder:
    """A small encoder of each family, the same weights every time."""
    torch.manual_seed(0)
    return request.param()


@pytest.fixture
def vit() -> Encoder:
    torch.manual_seed(0)
    return _small_vit()


@pytest.fixture
def resenc() -> Encoder:
    torch.manual_seed(0)
    return _small_resenc()
