"""Voxels that do not count are left out of losses: against a plain loop, and nothing changes where all count."""

from collections.abc import Callable
from dataclasses import replace

import pytest
import torch

from fomo_ssl.core.types import Views
from fomo_ssl.encoders import Encoder
from fomo_ssl.objectives import create_objective
from fomo_ssl.objectives.base import encode, mask_to_voxels
from fomo_ssl.objectives.losses import explained, reconstruction_loss

MakeViews = Callable[..., Views]
# Those whose aim is not what the encoder is shown: another aim, and the same prediction.
APART = ("mae", "simmim", "genesis", "cross_sequence")
NAMES = (*APART, "denoising")


def with_face(views: Views, share: float = 0.4) -> Views:
    """The same views with a front that does not count, cut through mask units; another one in every sample."""
    valid = [torch.ones_like(target, dtype=torch.bool) for target in views.targets]
    for view in valid:
        for sample in range(1, len(view)):
            view[sample, :, :, int((1 - share) * view.shape[3]) - sample :, : view.shape[4] // 2 + 3] = False
    return replace(views, valid=valid)


@pytest.mark.parametrize("kind", ["mse", "smooth_l1", "l1"])
def test_loss_and_explained_equal_the_plain_loop(kind: str) -> None:
    generator = torch.Generator().manual_seed(0)
    prediction, target = (2 * torch.randn(2, 3, 5, generator=generator) for _ in range(2))
    hidden = torch.tensor([[True, False, True], [False, True, True]])
    valid = torch.rand(2, 3, 5, generator=generator) < 0.6
    for only_hidden in (True, False):
        errors, pairs = [], []
        for at in torch.cartesian_prod(torch.arange(2), torch.arange(3), torch.arange(5)).tolist():
            b, n, p = at
            if valid[b, n, p] and (hidden[b, n] or not only_hidden):
                d = abs(prediction[b, n, p].item() - target[b, n, p].item())
                errors.append({"mse": d * d, "l1": d, "smooth_l1": 0.5 * d * d if d < 1 else d - 0.5}[kind])
                pairs.append((d, target[b, n, p].item()))
        loss = reconstruction_loss(prediction, target, hidden if only_hidden else None, kind, valid)
        assert loss.item() == pytest.approx(sum(errors) / len(errors), rel=1e-5)
        if only_hidden:
            mean = sum(t for _, t in pairs) / len(pairs)
            variance = sum((t - mean) ** 2 for _, t in pairs)
            share = 1 - sum(d * d for d, _ in pairs) / variance
            assert explained(prediction, target, hidden, valid).item() == pytest.approx(share, rel=1e-4)


def test_where_nothing_counts_the_loss_is_zero_and_has_a_gradient() -> None:
    prediction, target = torch.ones(1, 2, 3, requires_grad=True), torch.zeros(1, 2, 3)
    nothing, hidden = torch.zeros(1, 2, 3, dtype=torch.bool), torch.ones(1, 2, dtype=torch.bool)
    loss = reconstruction_loss(prediction, target, hidden, "mse", nothing)
    loss.backward()
    assert loss.item() == 0.0
    assert torch.equal(prediction.grad, torch.zeros(1, 2, 3))
    assert explained(prediction, target, hidden, nothing).isfinite()


@pytest.mark.parametrize("loss_on", ["masked", "all"])
@pytest.mark.parametrize("size", [(24, 24, 24), (20, 27, 24)])
def test_mae_equals_the_mean_over_hidden_voxels_that_count(
    encoder: Encoder, make_views: MakeViews, size: tuple[int, int, int], loss_on: str
) -> None:
    """On sizes that are no multiple of the unit too, where edge voxels are repeated with what is said of them."""
    objective, views = create_objective("mae", encoder, loss_on=loss_on).eval(), with_face(make_views(size=size))
    (mask,) = objective.masks(views, 0)
    predicted = objective._predict(encode(encoder, views.images[0], mask, objective.mask_unit), views.images[0])
    truth, counts = objective._patches(views.targets[0]), objective._patches(views.valid[0].float()) > 0.5
    total, count = 0.0, 0
    for sample, unit in torch.cartesian_prod(torch.arange(4), torch.arange(truth.shape[1])).tolist():
        if loss_on == "all" or mask.flatten(1)[sample, unit]:
            kept = counts[sample, unit]
            total += (predicted - truth)[sample, unit][kept].double().square().sum().item()
            count += int(kept.sum())
    assert objective(views, 0).loss.item() == pytest.approx(total / count, rel=1e-4)


@pytest.mark.parametrize("name", APART)
def test_what_does_not_count_does_not_move_the_loss(encoder: Encoder, make_views: MakeViews, name: str) -> None:
    objective = create_objective(name, encoder).eval()
    views = with_face(make_views(n=objective.views.n))
    before = objective(views, 0)
    changed = [
        replace(views, targets=[target + 3.0 * where for target, where in zip(views.targets, place, strict=True)])
        for place in ([~valid for valid in views.valid], views.valid)
    ]
    after, other = (objective(each, 0) for each in changed)
    assert torch.equal(after.loss, before.loss)
    assert all(torch.equal(after.health[key], value) for key, value in before.health.items())
    assert not torch.equal(other.loss, before.loss)


@pytest.mark.parametrize("name", NAMES)
def test_where_all_count_the_loss_is_that_without_a_mask(encoder: Encoder, make_views: MakeViews, name: str) -> None:
    objective = create_objective(name, encoder).eval()
    views = make_views(n=objective.views.n)
    everything = replace(views, valid=[torch.ones_like(target, dtype=torch.bool) for target in views.targets])
    first, second = objective(views, 0), objective(everything, 0)
    torch.testing.assert_close(first.loss, second.loss)
    for key, value in first.health.items():
        torch.testing.assert_close(second.health[key], value)


@pytest.mark.parametrize("name", NAMES)
def test_it_can_be_switched_off(encoder: Encoder, make_views: MakeViews, name: str) -> None:
    objective = create_objective(name, encoder, loss_mask=False).eval()
    views = make_views(n=objective.views.n)
    assert not objective.views.valid
    assert torch.equal(objective(with_face(views), 0).loss, objective(views, 0).loss)


def test_denoising_equals_the_plain_loop_over_voxels_that_count(encoder: Encoder, make_views: MakeViews) -> None:
    """The noisy scan is shown whole, and scored where it counts."""
    objective, views = create_objective("denoising", encoder).eval(), with_face(make_views())
    noisy, sigma = objective._noisy(views, 0)
    error = (objective.denoiser.denoise(noisy, sigma) - views.targets[0]).square().double()
    weighted, plain, count = 0.0, 0.0, 0
    for sample in range(4):
        counted = error[sample][views.valid[0][sample]]
        plain += counted.sum().item()
        weighted += counted.sum().item() * (1.0 + 1.0 / sigma[sample].item() ** 2)  # 1 / c_out²
        count += len(counted)
    assert count < error.numel()
    output = objective(views, 0)
    assert output.loss.item() == pytest.approx(weighted / count, rel=1e-3)
    assert output.terms["denoising/error"].item() == pytest.approx(plain / count, rel=1e-3)
    assert torch.equal(objective.inputs(views, 0)[0], objective.inputs(replace(views, valid=None), 0)[0])


def test_across_sequences_each_sample_is_scored_where_its_aim_counts(encoder: Encoder, make_views: MakeViews) -> None:
    objective, views = create_objective("cross_sequence", encoder).eval(), with_face(make_views(n=2))
    valid = [views.valid[0], views.valid[1].flip(2)]
    valid[1][3] = False  # a crop of nothing but a removed face
    views = replace(views, valid=valid)
    encoded = objective.encode_views(views, 0)
    subject, sequence, _, _ = objective._latents(encoded, views, (24, 24, 24))
    total = 0.0
    for own, other in ((0, 1), (1, 0)):
        made = objective._decode(subject[own], sequence[other], encoded[own], (24, 24, 24))
        for sample in range(4):
            kept = valid[other][sample]
            if kept.any():
                total += (made - views.targets[other])[sample][kept].square().mean().item() / 8
    assert objective(views, 0).terms["cross_sequence/cross"].item() == pytest.approx(total, rel=1e-4)


def test_a_hybrid_asks_for_what_its_members_ask_for(resenc: Encoder, make_views: MakeViews) -> None:
    assert not create_objective("contrastive", resenc).views.valid
    hybrid = create_objective("hybrid", resenc)
    assert hybrid.views.valid
    views = with_face(make_views(n=2))
    hidden = [mask_to_voxels(mask, hybrid.mask_unit, (24, 24, 24)) for mask in hybrid.masks(views, 0)]
    where = [mask & ~valid for mask, valid in zip(hidden, views.valid, strict=True)]
    assert all(place.any() for place in where)
    changed = replace(views, targets=[t + 3.0 * w for t, w in zip(views.targets, where, strict=True)])
    assert torch.equal(hybrid.eval()(changed, 0).terms["mae/loss"], hybrid(views, 0).terms["mae/loss"])
