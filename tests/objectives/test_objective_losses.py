import math
from collections.abc import Callable

import pytest
import torch

from fomo_ssl.objectives.losses import (
    contrast_logits,
    embedding_std,
    explained,
    masked_mean,
    normalise_patches,
    participation_ratio,
    rankme,
    reconstruction_error,
)


def plain_nt_xent(first: torch.Tensor, second: torch.Tensor, temperature: float) -> float:
    """Equation 1 of SimCLR, term by term in double precision."""
    z = torch.cat([first, second]).double()
    n = len(first)

    def similarity(i: int, j: int) -> float:
        return float(z[i] @ z[j] / (z[i].norm() * z[j].norm()))

    total = 0.0
    for i in range(2 * n):
        positive = math.exp(similarity(i, (i + n) % (2 * n)) / temperature)
        others = sum(math.exp(similarity(i, k) / temperature) for k in range(2 * n) if k != i)
        total -= math.log(positive / others)
    return total / (2 * n)


@pytest.mark.parametrize("temperature", [0.05, 0.1, 1.0])
def test_contrast_equals_the_plain_loop(temperature: float) -> None:
    generator = torch.Generator().manual_seed(0)
    first, second = (torch.randn(5, 7, generator=generator) for _ in range(2))
    rows, own = torch.cat([first, second]), torch.arange(10)
    loss = torch.nn.functional.cross_entropy(contrast_logits(rows, rows, own, temperature), own.roll(5))
    assert loss.item() == pytest.approx(plain_nt_xent(first, second, temperature), rel=1e-5)


def test_contrast_is_float32_under_autocast() -> None:
    generator = torch.Generator().manual_seed(0)
    rows, own = torch.randn(6, 16, generator=generator), torch.arange(6)
    exact = contrast_logits(rows, rows, own, 0.05)
    with torch.autocast("cpu", torch.bfloat16):
        autocast = contrast_logits(rows, rows, own, 0.05)
    assert torch.equal(exact, autocast)


@pytest.mark.parametrize("kind", ["mse", "smooth_l1"])
def test_reconstruction_error_equals_the_plain_loop(kind: str) -> None:
    generator = torch.Generator().manual_seed(0)
    prediction, target = (2 * torch.randn(2, 3, 5, generator=generator) for _ in range(2))
    error = reconstruction_error(prediction, target, kind)
    for b in range(2):
        for n in range(3):
            total = 0.0
            for p, t in zip(prediction[b, n].tolist(), target[b, n].tolist(), strict=True):
                d = abs(p - t)
                total += d * d if kind == "mse" else (0.5 * d * d if d < 1 else d - 0.5)
            assert error[b, n].item() == pytest.approx(total / 5, rel=1e-5)


def test_masked_mean_sees_only_the_mask() -> None:
    values = torch.tensor([[1.0, 100.0], [3.0, 100.0]])
    assert masked_mean(values, torch.tensor([[True, False], [True, False]])).item() == 2.0
    assert masked_mean(values, torch.tensor([[True], [False]])).item() == 50.5
    assert masked_mean(values, torch.zeros(2, 2, dtype=torch.bool)).item() == 0.0
    assert masked_mean(values, None).item() == 51.0


def test_normalised_patches_can_be_undone() -> None:
    patches = torch.randn(2, 3, 64, generator=torch.Generator().manual_seed(0)) * 4 + 7
    unit, mean, std = normalise_patches(patches)
    assert torch.allclose(unit.mean(dim=-1), torch.zeros(2, 3), atol=1e-5)
    assert torch.allclose(unit.std(dim=-1, unbiased=False), torch.ones(2, 3), atol=1e-4)
    assert torch.allclose(unit * std + mean, patches, atol=1e-4)


def test_a_constant_patch_normalises_to_zero() -> None:
    unit, _, _ = normalise_patches(torch.full((1, 1, 8), -1.5))
    assert torch.equal(unit, torch.zeros(1, 1, 8))


def test_explained_is_one_for_the_truth_and_zero_for_the_mean() -> None:
    target = torch.randn(2, 4, 8, generator=torch.Generator().manual_seed(0))
    mask = torch.tensor([[True, False, True, False], [False, True, True, False]])
    wrong_where_visible = torch.where(mask[..., None], target, 99.0)
    assert explained(wrong_where_visible, target, mask).item() == pytest.approx(1.0)
    mean = target[mask].mean().expand_as(target)
    assert explained(mean, target, mask).item() == pytest.approx(0.0, abs=1e-6)


def test_embedding_std_tells_spread_from_collapse() -> None:
    generator = torch.Generator().manual_seed(0)
    assert embedding_std(torch.randn(512, 32, generator=generator)).item() == pytest.approx(1.0, abs=0.05)
    assert embedding_std(torch.ones(8, 32)).item() == pytest.approx(0.0, abs=1e-6)


def test_rankme_equals_the_equation_of_its_paper() -> None:
    z = torch.randn(30, 12, generator=torch.Generator().manual_seed(0)) + 2.0
    total, entropy = sum(s.item() for s in torch.linalg.svdvals(z.double())), 0.0
    for singular in torch.linalg.svdvals(z.double()).tolist():
        p = singular / total + 1e-7
        entropy -= p * math.log(p)
    assert rankme(z).item() == pytest.approx(math.exp(entropy), rel=1e-5)


def test_participation_ratio_equals_that_of_the_covariance() -> None:
    z = torch.randn(30, 12, generator=torch.Generator().manual_seed(0)) * torch.linspace(0.1, 3.0, 12) + 5.0
    eigenvalues = torch.linalg.eigvalsh(torch.cov(z.double().T))
    expected = eigenvalues.sum() ** 2 / (eigenvalues**2).sum()
    assert participation_ratio(z).item() == pytest.approx(expected.item(), rel=1e-4)


@pytest.mark.parametrize("monitor", [rankme, participation_ratio])
def test_ranks_count_the_dimensions_in_use(monitor: Callable[[torch.Tensor], torch.Tensor]) -> None:
    generator = torch.Generator().manual_seed(0)
    directions = torch.linalg.qr(torch.randn(64, 4, generator=generator)).Q
    four = torch.randn(500, 4, generator=generator) @ directions.T
    assert monitor(four).item() == pytest.approx(4.0, abs=0.1)
    assert monitor(four + 1e-6 * torch.randn(500, 64, generator=generator)).item() == pytest.approx(4.0, abs=0.1)
    assert monitor(torch.ones(20, 64)).item() <= 1.0 + 1e-3
