from collections.abc import Callable

import numpy as np
import pytest
import torch

from fomo_ssl.core.types import Views
from fomo_ssl.encoders import Encoder
from fomo_ssl.objectives import create_objective
from fomo_ssl.objectives.genesis import bend, boxes, shuffle

MakeViews = Callable[..., Views]
KEYS = torch.arange(40)


def test_shuffling_stays_within_its_cubes() -> None:
    x = torch.randn(40, 2, 9, 8, 13)
    out = shuffle(x, KEYS, 4, 0.5)
    moved = 0
    for i in range(0, 8, 4):
        for j in range(0, 8, 4):
            for k in range(0, 12, 4):
                before, after = (v[:, :, i : i + 4, j : j + 4, k : k + 4].flatten(2) for v in (x, out))
                assert torch.equal(before.sort(-1).values, after.sort(-1).values)
                moved += (before != after).any(-1).all(-1).sum().item()
    assert 0.4 < moved / (40 * 12) < 0.6
    assert torch.equal(out[:, :, 8:], x[:, :, 8:])
    assert torch.equal(out[..., 12:], x[..., 12:])
    # Channels are one scan: they move together.
    pairs = torch.stack((x[0, 0], x[0, 1])).flatten(1).T.tolist()
    assert sorted(pairs) == sorted(torch.stack((out[0, 0], out[0, 1])).flatten(1).T.tolist())


def test_mixed_precision_does_not_coarsen_the_grey_scale() -> None:
    x = torch.randn(8, 1, 6, 6, 6)
    with torch.autocast("cpu", torch.bfloat16):
        mixed = bend(x, KEYS[:8])
    assert torch.equal(mixed, bend(x, KEYS[:8]))


def test_the_grey_scale_is_bent_monotonely_within_its_range() -> None:
    x = torch.randn(40, 1, 6, 6, 6)
    out = bend(x, KEYS)
    order = np.argsort(x.flatten(1).numpy(), axis=1)
    steps = np.diff(np.take_along_axis(out.flatten(1).numpy(), order, axis=1), axis=1)
    rises, falls = (steps >= -1e-5).all(axis=1), (steps <= 1e-5).all(axis=1)
    assert (rises | falls).all()
    assert 10 < rises.sum() < 30
    assert torch.allclose(out.flatten(1).amax(1), x.flatten(1).amax(1), atol=1e-4)
    assert torch.allclose(out.flatten(1).amin(1), x.flatten(1).amin(1), atol=1e-4)
    assert bend(torch.ones(2, 1, 4, 4, 4), KEYS[:2]).isfinite().all()


def test_boxes_have_the_edges_they_should() -> None:
    one = boxes(KEYS, torch.Size((24, 30, 12)), 1, (1 / 6, 1 / 3))
    assert one.shape == (40, 1, 24, 30, 12)
    for axis, size in enumerate((24, 30, 12)):
        others = [2 + a for a in range(3) if a != axis]
        edges = one.amax(dim=[1, *others]).sum(1)
        assert ((edges >= size / 6 - 1) & (edges <= size / 3 + 1)).all()
    assert boxes(KEYS, torch.Size((24, 30, 12)), 5, (1 / 6, 1 / 3)).sum() > 1.5 * one.sum()


def test_without_deformation_the_views_are_shown(vit: Encoder, make_views: MakeViews) -> None:
    views = make_views()
    plain = create_objective("genesis", vit, p_intensity=0.0, p_shuffle=0.0, p_paint=0.0)
    assert torch.equal(plain.inputs(views, 0)[0], views.images[0])
    covered = create_objective("genesis", vit, p_intensity=0.0, p_shuffle=0.0, p_paint=1.0, p_inpaint=1.0)
    changed = (covered.inputs(views, 0)[0] != views.images[0]).float().mean()
    assert 0.0 < changed < 0.25
    outpainted = create_objective("genesis", vit, p_intensity=0.0, p_shuffle=0.0, p_paint=1.0, p_inpaint=0.0)
    assert (outpainted.inputs(views, 0)[0] != views.images[0]).float().mean() > 0.4


def test_loss_is_the_error_of_the_whole_crop(encoder: Encoder, make_views: MakeViews) -> None:
    objective, views = create_objective("genesis", encoder).eval(), make_views(size=(24, 16, 19))
    shown = objective.preview(views)
    expected = (shown.reconstruction - views.targets[0]).square().mean()
    assert objective(views, 0).loss.item() == pytest.approx(expected.item(), rel=1e-4)


def test_most_paintings_leave_a_few_boxes_as_in_the_paper(vit: Encoder, make_views: MakeViews) -> None:
    """The authors' code covers 0.06 of a crop by an in-painting and 0.67 by an out-painting, four of which it draws for
    one of the former: 0.55 on average.
    """
    views = make_views(batch=200)
    painted = create_objective("genesis", vit, p_intensity=0.0, p_shuffle=0.0, p_paint=1.0)
    covered = (painted.inputs(views, 0)[0] != views.images[0]).float().mean(dim=(1, 2, 3, 4))
    assert 0.7 < (covered > 0.4).float().mean() < 0.9
    assert covered.mean() == pytest.approx(0.55, abs=0.1)
