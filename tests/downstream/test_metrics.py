import itertools
import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from fomo_ssl.downstream.metrics import (
    FURTHER,
    HIGHER_IS_BETTER,
    METRICS,
    auroc,
    average_precision,
    balanced_accuracy,
    bias,
    brier,
    dice,
    ece,
    macro_auroc,
    macro_average_precision,
    mae,
    pearson,
    segmentation_metrics,
    surface_dice,
    volume_error,
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


def test_every_reported_metric_has_a_direction_but_bias():
    named = {name for group in (METRICS, FURTHER) for names in group.values() for name in names}
    assert named == {*HIGHER_IS_BETTER, "bias"}


def test_pearson_of_equal_numbers_is_undefined_in_spite_of_rounding():
    assert np.mean([0.1, 0.1, 0.1]) != 0.1
    assert math.isnan(pearson(np.array([0.1, 0.1, 0.1]), np.arange(3.0)))


def test_bias_has_the_sign_of_the_prediction():
    assert bias(np.array([1.0, 5.0]), np.array([2.0, 2.0])) == 1.0


# The same numbers from independent implementations.


def blobs(seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Two masks of two classes that mostly agree, and touch the border here and there."""
    generator = np.random.default_rng(seed)
    grid = np.indices((18, 20, 16)).transpose(1, 2, 3, 0)
    pair = []
    centre = generator.uniform(2, 14, (2, 3))
    for _ in range(2):
        mask = np.zeros(grid.shape[:3], np.uint8)
        for label in (1, 2):
            away = np.linalg.norm(grid - centre[label - 1] - generator.normal(0, 1.0, 3), axis=-1)
            mask[away < generator.uniform(3, 6)] = label
        pair.append(mask)
    return pair[0], pair[1]


@pytest.mark.parametrize("seed", range(6))
def test_dice_and_surface_dice_agree_with_monai(seed):
    import torch
    from monai.metrics import compute_surface_dice
    from monai.metrics.meandice import compute_dice

    spacing, tolerance = (0.9, 1.4, 2.0), 1.5
    prediction, target = blobs(seed)
    hot = [torch.stack([torch.from_numpy(mask == k) for k in range(3)])[None] for mask in (prediction, target)]
    values = segmentation_metrics(prediction, target, 3, spacing, tolerance)
    monai_dice = compute_dice(hot[0], hot[1], include_background=False)[0]
    monai_surface = compute_surface_dice(hot[0], hot[1], [tolerance] * 2, spacing=spacing)[0]
    for k in (1, 2):
        assert values[f"dice_{k}"] == pytest.approx(monai_dice[k - 1].item(), abs=1e-6)
        assert values[f"surface_dice_{k}"] == pytest.approx(monai_surface[k - 1].item(), abs=1e-6)


def test_volume_error_agrees_with_nibabel():
    import nibabel
    from nibabel.imagestats import mask_volume

    spacing = (0.9, 1.4, 2.0)
    for seed in range(4):
        masks = [mask == 1 for mask in blobs(seed)]
        images = [nibabel.Nifti1Image(mask.astype(np.uint8), np.diag([*spacing, 1.0])) for mask in masks]
        first, second = (mask_volume(image) for image in images)
        # nibabel keeps voxel sizes in single precision.
        assert volume_error(*masks, spacing) == pytest.approx(abs(first - second) / 1000.0, rel=1e-6)


def test_empty_masks_follow_the_stated_rule():
    empty, full = np.zeros((4, 4, 4), np.uint8), np.ones((4, 4, 4), np.uint8)
    both, missed, invented = (
        segmentation_metrics(*pair, 2, (1.0, 1.0, 2.0), 1.0) for pair in ((empty, empty), (empty, full), (full, empty))
    )
    assert (both["dice"], both["surface_dice"], both["volume_error"]) == (1.0, 1.0, 0.0)
    for values in (missed, invented):
        assert (values["dice"], values["surface_dice"], values["volume_error"]) == (0.0, 0.0, 0.128)


tables = st.integers(2, 4).flatmap(
    lambda k: st.lists(
        st.tuples(st.lists(st.sampled_from([0.1, 0.2, 0.5, 0.9]), min_size=k, max_size=k), st.integers(0, k - 1)),
        min_size=2 * k,
        max_size=25,
    ).filter(lambda rows: len({label for _, label in rows}) == k)
)


@settings(deadline=None, max_examples=60)
@given(tables)
def test_metrics_of_classes_agree_with_scikit_learn(rows):
    from sklearn import metrics as sk

    labels = np.array([float(label) for _, label in rows])
    outputs = np.array([row for row, _ in rows])
    probabilities = outputs / outputs.sum(axis=1, keepdims=True)
    hot = np.eye(outputs.shape[1])[labels.astype(int)]
    if outputs.shape[1] == 2:
        of_second = probabilities[:, 1]
        assert auroc(of_second, labels) == pytest.approx(sk.roc_auc_score(labels, of_second))
        assert average_precision(of_second, labels) == pytest.approx(sk.average_precision_score(labels, of_second))
        given_class = of_second >= 0.5
        assert brier(probabilities, labels) == pytest.approx(sk.brier_score_loss(labels, of_second))
    else:
        given_class = probabilities.argmax(axis=1)
        assert brier(probabilities, labels) == pytest.approx(sk.brier_score_loss(labels, probabilities))
    assert macro_auroc(probabilities, labels) == pytest.approx(sk.roc_auc_score(hot, probabilities, average="macro"))
    assert macro_average_precision(probabilities, labels) == pytest.approx(
        sk.average_precision_score(hot, probabilities, average="macro")
    )
    assert balanced_accuracy(probabilities, labels) == pytest.approx(sk.balanced_accuracy_score(labels, given_class))


@pytest.mark.parametrize("classes", [2, 3])
def test_calibration_error_agrees_with_torchmetrics(classes):
    import torch
    from torchmetrics.functional.classification import binary_calibration_error, multiclass_calibration_error

    for seed in range(5):
        generator = np.random.default_rng(seed)
        probabilities = generator.dirichlet([0.7] * classes, size=60)
        labels = generator.integers(0, classes, 60)
        outputs, truth = torch.from_numpy(probabilities), torch.from_numpy(labels)
        of_second = outputs[:, 1].contiguous()
        if classes == 2:
            other = binary_calibration_error(of_second, truth, n_bins=10)
        else:
            other = multiclass_calibration_error(outputs, truth, num_classes=classes, n_bins=10)
        assert ece(probabilities, labels) == pytest.approx(other.item(), abs=1e-6)


def test_calibration_error_of_honest_and_of_certain_probabilities():
    honest = np.array([[0.75, 0.25]] * 4)
    assert ece(honest, np.array([0, 0, 0, 1])) == 0.0
    assert ece(np.array([[0.0, 1.0]] * 2), np.array([0, 0])) == 1.0


@pytest.mark.parametrize("label", [0, 1])
def test_one_class_only_leaves_ranking_undefined_and_calibration_defined(label):
    probabilities, labels = np.array([[0.8, 0.2], [0.4, 0.6]]), np.full(2, label)
    assert math.isnan(auroc(probabilities[:, 1], labels))
    assert math.isnan(average_precision(probabilities[:, 1], labels))
    assert math.isnan(balanced_accuracy(probabilities, labels))
    assert math.isfinite(brier(probabilities, labels))
    assert math.isfinite(ece(probabilities, labels))


@settings(deadline=None, max_examples=40)
@given(hnp.arrays(float, (2, 9), elements=st.floats(-50, 90).map(lambda v: round(v, 2))))
def test_metrics_of_numbers_agree_with_scipy_and_scikit_learn(rows):
    from scipy.stats import pearsonr
    from sklearn.metrics import mean_absolute_error

    assert mae(*rows) == pytest.approx(mean_absolute_error(rows[1], rows[0]))
    if np.ptp(rows[0]) > 0.1 and np.ptp(rows[1]) > 0.1:
        assert pearson(*rows) == pytest.approx(pearsonr(*rows).statistic, abs=1e-9)
