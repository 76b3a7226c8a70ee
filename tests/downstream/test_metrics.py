import itertools
import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from fomo_ssl.downstream.metrics import (
    HIGHER_IS_BETTER,
    METRICS,
    auroc,
    dice,
    macro_auroc,
    mae,
    pearson,
    segmentation_metrics,
    surface_dice,
)

masks = hnp.arrays(bool, (4, 5, 3))
spacings = st.tuples(*[st.sampled_from([0.5, 1.0, 2.3])] * 3)


def slow_surface(mask: np.ndarray) -> list[tuple[int, ...]]:
    """Mask voxels with a face neighbour that is outside the mask or outside the array."""
    steps = [(a, s) for a in range(3) for s in (-1, 1)]

    def outside(voxel: tuple[int, ...], axis: int, step: int) -> bool:
        moved = list(voxel)
        moved[axis] += step
        return not 0 <= moved[axis] < mask.shape[axis] or not mask[tuple(moved)]

    voxels = [tuple(int(i) for i in v) for v in np.argwhere(mask)]
    return [v for v in voxels if any(outside(v, axis, step) for axis, step in steps)]


def slow_surface_dice(a: np.ndarray, b: np.ndarray, spacing: tuple[float, ...], tolerance: float) -> float:
    if not a.any() or not b.any():
        return float(a.any() == b.any())
    first, second = slow_surface(a), slow_surface(b)

    def near(points: list[tuple[int, ...]], others: list[tuple[int, ...]]) -> int:
        def gap(p: tuple[int, ...], q: tuple[int, ...]) -> float:
            return math.sqrt(sum(((i - j) * s) ** 2 for i, j, s in zip(p, q, spacing, strict=True)))

        return sum(min(gap(p, q) for q in others) <= tolerance * (1 + 1e-6) for p in points)

    return (near(first, second) + near(second, first)) / (len(first) + len(second))


@settings(deadline=None, max_examples=40)
@given(masks, masks, spacings, st.sampled_from([0.0, 0.5, 1.0, 2.0]))
def test_surface_dice_is_that_of_the_definition(a, b, spacing, tolerance):
    assert surface_dice(a, b, spacing, tolerance) == pytest.approx(slow_surface_dice(a, b, spacing, tolerance))


@settings(deadline=None, max_examples=40)
@given(masks, masks)
def test_dice_is_symmetric_bounded_and_one_for_equal_masks(a, b):
    assert dice(a, b) == dice(b, a)
    assert 0.0 <= dice(a, b) <= 1.0
    assert dice(a, a) == 1.0
    assert (dice(a, b) == 1.0) == bool((a == b).all())


@settings(deadline=None, max_examples=40)
@given(masks, masks, spacings)
def test_surface_dice_grows_with_the_tolerance(a, b, spacing):
    values = [surface_dice(a, b, spacing, t) for t in (0.0, 1.0, 2.0, 50.0)]
    assert values == sorted(values)
    assert values[-1] == 1.0 or not (a.any() and b.any())


def test_surface_dice_counts_mm_and_not_voxels():
    a, b = np.zeros((9, 9, 9), bool), np.zeros((9, 9, 9), bool)
    a[2:6, 2:6, 2:6] = True
    b[3:7, 2:6, 2:6] = True
    assert surface_dice(a, b, (1.0, 1.0, 1.0), 1.0) == 1.0
    assert surface_dice(a, b, (3.0, 1.0, 1.0), 1.0) < 1.0


def test_segmentation_metrics_average_the_foreground():
    target = np.zeros((6, 6, 6), np.uint8)
    target[:3], target[3:] = 1, 2
    prediction = np.where(target == 2, 0, target)
    values = segmentation_metrics(prediction, target, 3, (1.0, 1.0, 1.0), 1.0)
    assert values["dice_1"] == 1.0
    assert values["dice_2"] == 0.0
    assert values["dice"] == 0.5
    assert values["surface_dice"] == 0.5


@settings(deadline=None, max_examples=40)
@given(
    st.lists(st.tuples(st.sampled_from([0.0, 0.3, 0.5, 1.0]), st.booleans()), min_size=2, max_size=12).filter(
        lambda rows: len({label for _, label in rows}) == 2
    )
)
def test_auroc_is_the_share_of_ordered_pairs(rows):
    scores, labels = (np.array(column, float) for column in zip(*rows, strict=True))
    pairs = itertools.product(scores[labels == 1], scores[labels == 0])
    wins = [1.0 if p > n else 0.5 if p == n else 0.0 for p, n in pairs]
    assert auroc(scores, labels) == pytest.approx(np.mean(wins))
    assert auroc(-scores, labels) == pytest.approx(1.0 - np.mean(wins))


def test_auroc_of_one_class_is_undefined():
    assert math.isnan(auroc(np.array([0.1, 0.2]), np.array([1, 1])))


def test_macro_auroc_of_two_classes_is_auroc():
    probability, labels = np.array([0.2, 0.9, 0.6, 0.4]), np.array([0, 1, 0, 1])
    both = np.stack([1 - probability, probability], axis=1)
    assert macro_auroc(both, labels) == pytest.approx(auroc(probability, labels))


@settings(deadline=None, max_examples=40)
@given(hnp.arrays(float, 7, elements=st.floats(-1e3, 1e3).map(lambda v: round(v, 3))))
def test_pearson_agrees_with_numpy(target):
    prediction = np.arange(7.0) ** 2
    if np.ptp(target) == 0:
        assert math.isnan(pearson(prediction, target))
    else:
        assert pearson(prediction, target) == pytest.approx(np.corrcoef(prediction, target)[0, 1], abs=1e-6)


def test_mae_is_in_the_unit_of_the_target():
    assert mae(np.array([1.0, 5.0]), np.array([2.0, 2.0])) == 2.0


def test_every_reported_metric_has_a_direction():
    assert {name for names in METRICS.values() for name in names} == set(HIGHER_IS_BETTER)
