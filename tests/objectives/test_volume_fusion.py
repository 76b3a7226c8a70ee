from collections.abc import Callable

import pytest
import torch

from fomo_ssl.core.errors import ConfigError
from fomo_ssl.core.seeding import fold, uniform
from fomo_ssl.core.types import Views
from fomo_ssl.encoders import Encoder
from fomo_ssl.objectives import create_objective
from fomo_ssl.objectives.volume_fusion import fusion_classes, soft_dice_loss

MakeViews = Callable[..., Views]


def test_classes_are_those_of_the_last_box_over_a_voxel() -> None:
    keys, size = torch.arange(3), torch.Size((10, 8, 12))
    found = fusion_classes(keys, size, 4, 6, (0.2, 0.6))
    draws = uniform(keys, 6, 7)
    counts = 1 + (uniform(fold(keys, "count")) * 6).long()
    for sample in range(3):
        expected = torch.zeros(size, dtype=torch.int64)
        for box in range(int(counts[sample])):
            values = draws[sample, box]
            for voxel in torch.cartesian_prod(*(torch.arange(n) for n in size)).tolist():
                inside = True
                for axis in range(3):
                    length = 0.2 + 0.4 * values[axis]
                    start = values[3 + axis] * (1.0 - length)
                    inside &= bool(start <= (voxel[axis] + 0.5) / size[axis] < start + length)
                if inside:
                    expected[tuple(voxel)] = 1 + int(values[6] * 4)
        assert torch.equal(found[sample], expected)
    assert found.max() <= 4


def test_each_view_is_the_foreground_of_one_blend(vit: Encoder, make_views: MakeViews) -> None:
    objective, views = create_objective("volume_fusion", vit, steps=2), make_views(n=2)
    first, second = objective.inputs(views, 0)
    a, b = views.images
    classes = objective._classes(views, 0)[:, None]
    for step, expected in ((0, b), (1, (a + b) / 2), (2, a)):
        assert (classes == step).any()
        torch.testing.assert_close(first[classes == step], expected[classes == step])
    classes = objective._classes(views, 1)[:, None]
    torch.testing.assert_close(second[classes == 2], b[classes == 2])


def test_dice_of_the_truth_is_nothing_and_of_the_opposite_one() -> None:
    truth = torch.randint(0, 3, (2, 8, 8, 8))
    right = torch.nn.functional.one_hot(truth, 3).movedim(-1, 1).float()
    wrong = torch.nn.functional.one_hot((truth + 1) % 3, 3).movedim(-1, 1).float()
    assert soft_dice_loss(right, truth) < 1e-6
    assert soft_dice_loss(wrong, truth) > 0.99


def test_settings_out_of_range_are_refused(vit: Encoder) -> None:
    with pytest.raises(ConfigError, match="out of range"):
        create_objective("volume_fusion", vit, edge_min=0.6, edge_max=0.5)
