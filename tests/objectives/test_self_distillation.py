import math
from collections.abc import Callable
from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F

from fomo_ssl.core.errors import ConfigError
from fomo_ssl.core.types import Views
from fomo_ssl.encoders import Encoder
from fomo_ssl.objectives import create_objective
from fomo_ssl.objectives.base import mask_to_voxels
from fomo_ssl.objectives.self_distillation import koleo

MakeViews = Callable[..., Views]
SMALL = {"prototypes": 12, "hidden": 16, "bottleneck": 8}


def test_koleo_is_the_log_distance_to_the_nearest() -> None:
    x = torch.randn(6, 4, dtype=torch.float64)
    unit = [row / row.norm() for row in x]
    nearest = [min(float((a - b).norm()) for j, b in enumerate(unit) if j != i) for i, a in enumerate(unit)]
    assert koleo(x.float()).item() == pytest.approx(-sum(map(math.log, nearest)) / 6, abs=1e-4)
    assert koleo(torch.ones(4, 3)).isfinite()
    assert koleo(x[:1].float()) == 0.0


@pytest.mark.parametrize("local_crops", [0, 1, 5])
def test_terms_equal_the_plain_sums(encoder: Encoder, make_views: MakeViews, local_crops: int) -> None:
    objective = create_objective("self_distillation", encoder, mask_ratio=0.5, local_crops=local_crops, **SMALL).eval()
    objective.center.normal_(std=0.1)
    objective.patch_center.normal_(std=0.1)
    views = make_views(n=2)
    shown = objective.inputs(views, 0)

    def say(network, heads, image):
        features = network.forward_features(image)
        places = features[-1].flatten(2).transpose(1, 2)
        scan = heads["scan"](network.pool(features))
        return scan.detach().double(), torch.stack([heads["patch"](rows) for rows in places]).detach().double()

    student = [say(objective.encoder, objective.heads, image) for image in shown]
    teacher = [say(objective.teacher, objective.slow_heads, image) for image in views.images]
    dino, ibot = [], 0.0
    for view in (0, 1):
        for i in range(4):
            taught = F.softmax((teacher[1 - view][0][i] - objective.center.double()) / 0.05, dim=0)
            crops = [shown[view][i]]
            for x, y, z in objective._corners(views, view)[0][i].tolist():
                e, f, g = objective._corners(views, view)[1]
                crops.append(views.images[view][i, :, x : x + e, y : y + f, z : z + g])
            for crop in crops:
                said = say(objective.encoder, objective.heads, crop[None])[0][0]
                dino.append(-(taught * F.log_softmax(said / 0.1, dim=0)).sum().item())
        mask = objective._mask(views, view).flatten(1)
        errors = []
        for i, j in mask.nonzero().tolist():
            taught = F.softmax((teacher[view][1][i, j] - objective.patch_center.double()) / 0.05, dim=0)
            errors.append(-(taught * F.log_softmax(student[view][1][i, j] / 0.1, dim=0)).sum().item())
        ibot += sum(errors) / len(errors) / 2
    terms = objective(views, 0).terms
    assert terms["self_distillation/dino"].item() == pytest.approx(sum(dino) / len(dino), rel=1e-3)
    assert len(dino) == 4 * (2 + local_crops)
    assert terms["self_distillation/ibot"].item() == pytest.approx(ibot, rel=1e-3)
    expected = sum(w * terms[f"self_distillation/{name}"] for name, w in objective.weights.items())
    torch.testing.assert_close(terms["self_distillation/loss"], expected)


def test_the_student_does_not_see_what_is_hidden_and_the_teacher_does(vit: Encoder, make_views: MakeViews) -> None:
    objective, views = create_objective("self_distillation", vit, **SMALL).eval(), make_views(n=2)
    hidden = mask_to_voxels(objective._mask(views, 0), objective.mask_unit, (24, 24, 24))
    noisy = torch.where(hidden, torch.randn_like(views.images[0]), views.images[0])
    changed = replace(views, images=[noisy, views.images[1]])
    for a, b in zip(objective.inputs(views, 0), objective.inputs(changed, 0), strict=True):
        assert torch.equal(a, b)
    seen, otherwise = (objective._teach(objective.encode_views(v, 0))[0][0] for v in (views, changed))
    assert not torch.equal(seen, otherwise)


def test_teacher_and_centres_move_after_the_step(encoder: Encoder, make_views: MakeViews) -> None:
    objective = create_objective("self_distillation", encoder, momentum=0.75, center_momentum=0.5, **SMALL)
    before = [p.clone() for p in objective.slow_heads.parameters()]
    views = make_views(n=2)
    objective(views, 0).loss.backward()
    outputs, _ = objective._teach(objective.encode_views(views, 0))
    assert all(p.grad is None for p in objective.teacher.parameters())
    with torch.no_grad():
        for p in objective.heads.parameters():
            p.add_(1.0)
    objective.after_step(0)
    for old, new in zip(before, objective.slow_heads.parameters(), strict=True):
        torch.testing.assert_close(new, old + 0.25, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(objective.center, 0.5 * torch.cat(outputs).mean(0), rtol=1e-4, atol=1e-5)


def test_a_mask_of_nothing_is_refused(vit: Encoder, make_views: MakeViews) -> None:
    with pytest.raises(ConfigError, match="hides 0 of the 27 units"):
        create_objective("self_distillation", vit, mask_ratio=0.01, **SMALL)(make_views(n=2), 0)


def test_local_crops_lie_anywhere_in_their_view_by_the_sample_s_key(vit: Encoder, make_views: MakeViews) -> None:
    views = make_views(n=2, size=(24, 32, 40))
    objective = create_objective("self_distillation", vit, local_crops=401, local_share=0.4, **SMALL)
    (first, edge), (second, _) = (objective._corners(views, view) for view in (0, 1))
    assert edge == (8, 16, 16)
    assert first.shape == (4, 201, 3)
    assert second.shape == (4, 200, 3)
    assert first.amin((0, 1)).tolist() == [0, 0, 0]
    assert first.amax((0, 1)).tolist() == [16, 16, 24]
    assert not torch.equal(first[:, :200], second)
    alone = make_views(n=2, batch=1, size=(24, 32, 40), first_key=2)
    assert torch.equal(objective._corners(alone, 0)[0], first[2:3])


def test_a_local_crop_as_large_as_the_view_is_refused(vit: Encoder, make_views: MakeViews) -> None:
    objective = create_objective("self_distillation", vit, local_crops=8, local_share=0.9, **SMALL)
    with pytest.raises(ConfigError, match="is all of it"):
        objective(make_views(n=2), 0)
    for wrong in ({"local_crops": -1}, {"local_share": 1.0}):
        with pytest.raises(ConfigError, match="out of range"):
            create_objective("self_distillation", vit, **wrong)
