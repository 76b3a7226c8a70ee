import math
from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F

from fomo_ssl.core.errors import ConfigError
from fomo_ssl.core.types import Views
from fomo_ssl.encoders import Encoder
from fomo_ssl.objectives import create_objective
from fomo_ssl.objectives.voco import overlap

MakeViews = Callable[..., Views]
SMALL = {"projector_hidden": 16, "projector_dim": 8}


def test_overlaps_are_counts_of_shared_voxels() -> None:
    generator = torch.Generator().manual_seed(0)
    edge = (3, 4, 5)
    first, second = (torch.randint(0, 6, (2, n, 3), generator=generator) for n in (4, 6))
    found = overlap(first, second, edge)
    for b in range(2):
        for i, one in enumerate(first[b].tolist()):
            for j, other in enumerate(second[b].tolist()):
                space = torch.zeros(2, 12, 12, 12)
                for layer, (x, y, z) in enumerate((one, other)):
                    space[layer, x : x + 3, y : y + 4, z : z + 5] = 1
                assert found[b, i, j] == pytest.approx(float(space.prod(0).sum()) / 60)


def test_base_crops_tile_the_crop_and_targets_stay_inside(vit: Encoder, make_views: MakeViews) -> None:
    objective, views = create_objective("voco", vit, grid=3, targets=50, **SMALL), make_views(size=(24, 27, 32))
    edge = objective._edge(views.images[0])
    assert edge == (8, 9, 10)
    corners = objective._corners(views.images[0], views.keys, 0)
    covered = torch.zeros(24, 27, 32)
    for x, y, z in corners[0, :27].tolist():
        covered[x : x + 8, y : y + 9, z : z + 10] += 1
    assert (covered[:24, :27, :30] == 1).all()
    assert not covered[:, :, 30:].any()
    targets = corners[:, 27:]
    assert targets.amin() == 0
    assert targets.amax((0, 1)).tolist() == [16, 18, 22]
    assert not torch.equal(targets[0], targets[1])


@torch.no_grad()
def test_the_loss_is_that_of_the_paper(encoder: Encoder, make_views: MakeViews) -> None:
    objective, views = create_objective("voco", encoder, regularisation=0.5, **SMALL), make_views(batch=2)
    corners = objective._corners(views.images[0], views.keys, 0)
    placed, likeness = [], []
    for b in range(2):
        crops = [views.images[0][b : b + 1, :, x : x + 12, y : y + 12, z : z + 12] for x, y, z in corners[b].tolist()]
        rows = [F.normalize(objective.projector(encoder(crop)), dim=1)[0] for crop in crops]
        for t in range(8, 12):
            for q in range(8):
                shared = math.prod(max(0, 12 - abs(int(d))) / 12 for d in corners[b, t] - corners[b, q])
                distance = abs(shared - max(0.0, float(rows[t] @ rows[q])))
                placed.append(-math.log(1.0 - distance))
        likeness += [abs(float(rows[i] @ rows[j])) for i in range(8) for j in range(i)]
    expected = sum(placed) / len(placed) + 0.5 * sum(likeness) / len(likeness)
    assert float(objective(views, 0).loss) == pytest.approx(expected, rel=1e-3)


def test_a_base_crop_is_not_drawn_to_its_targets(vit: Encoder, make_views: MakeViews) -> None:
    objective, views = create_objective("voco", vit, regularisation=0.0, **SMALL), make_views()
    (shown,) = objective.inputs(views, 0)
    shown.requires_grad_()
    objective.inputs = lambda *_: [shown]
    objective(views, 0).loss.backward()
    base, target = shown.grad.unflatten(0, (4, -1)).split([8, 4], dim=1)
    assert not base.any()
    assert target.any()


def test_it_is_no_member_of_a_hybrid(vit: Encoder) -> None:
    with pytest.raises(ConfigError, match="cuts crops of its own"):
        create_objective("hybrid", vit, members={"voco": {}}, weights={"voco": 1.0})


def test_settings_out_of_range_are_refused(vit: Encoder) -> None:
    with pytest.raises(ConfigError, match="grid of at least 2"):
        create_objective("voco", vit, grid=1)
