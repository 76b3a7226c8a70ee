"""Metrics of the three kinds of task, on NumPy arrays, each as its definition says.

`weighted` has those over cases again, for many resamples at once. What holds for empty masks and for one class only is
in docs/reference/metrics.md.
"""

from collections.abc import Sequence

import numpy as np
from jaxtyping import Bool, Float, Int, Num

from fomo_ssl.core.types import Spacing

METRICS: dict[str, tuple[str, ...]] = {
    "segmentation": ("dice", "surface_dice"),
    "classification": ("auroc",),
    "regression": ("mae", "pearson"),
}
"""What methods are compared, tested and ranked by for each kind of task (those of FOMO25), the leading metric first."""

FURTHER: dict[str, tuple[str, ...]] = {
    "segmentation": ("volume_error",),
    "classification": ("average_precision", "balanced_accuracy", "brier", "ece"),
    "regression": ("bias",),
}
"""What is described beside them."""

HIGHER_IS_BETTER = {
    "dice": True,
    "surface_dice": True,
    "volume_error": False,
    "auroc": True,
    "average_precision": True,
    "balanced_accuracy": True,
    "brier": False,
    "ece": False,
    "mae": False,
    "pearson": True,
}
"""The direction of the metrics by name; `dice_2` is the Dice of class 2 and points the way `dice` does. `bias` has
none: it is best at 0."""

ECE_BINS = 10

Labels = Num[np.ndarray, " n"] | Bool[np.ndarray, " n"]
"""Class indices, or whether a case is of the class in question."""


def dice(prediction: np.ndarray, target: np.ndarray) -> float:
    """Overlap 2|A and B| / (|A| + |B|) of two boolean masks; two empty masks agree: 1."""
    total = int(prediction.sum()) + int(target.sum())
    return 2.0 * int((prediction & target).sum()) / total if total else 1.0


def surface_dice(prediction: np.ndarray, target: np.ndarray, spacing: Spacing, tolerance: float) -> float:
    """Share of two surfaces that lies within `tolerance` mm of the other (Nikolov et al. 2018, arXiv 1809.04430).

    A surface is the set of mask voxels with a face neighbour outside the mask; distances join voxel centres. Two empty
    masks agree: 1; one empty mask: 0.
    """
    from scipy.ndimage import distance_transform_edt

    if not prediction.any() or not target.any():
        return float(prediction.any() == target.any())
    box = _bounding_box(prediction | target)
    a, b = surface(prediction[box]), surface(target[box])
    # A hair of slack, so that a distance equal to the tolerance counts in spite of rounding.
    limit = tolerance * (1.0 + 1e-6)
    near = np.count_nonzero(distance_transform_edt(~b, sampling=spacing)[a] <= limit)
    near += np.count_nonzero(distance_transform_edt(~a, sampling=spacing)[b] <= limit)
    return near / (np.count_nonzero(a) + np.count_nonzero(b))


def surface(mask: np.ndarray) -> np.ndarray:
    """Voxels of a boolean mask that have a face neighbour outside it; outside the array is outside the mask."""
    from scipy.ndimage import binary_erosion

    edge: np.ndarray = mask & ~binary_erosion(mask, border_value=0)
    return edge


def volume_error(prediction: np.ndarray, target: np.ndarray, spacing: Spacing) -> float:
    """Absolute difference of the volumes of two boolean masks, ml: defined for empty masks, too."""
    difference = int(prediction.sum()) - int(target.sum())
    return abs(difference) * float(np.prod(spacing)) / 1000.0


def segmentation_metrics(
    prediction: np.ndarray, target: np.ndarray, classes: int, spacing: Spacing, tolerance: float
) -> dict[str, float]:
    """Dice, surface Dice and volume error of every foreground class (`dice_1`, …) and their means (`dice`, …).

    Args:
        prediction, target: integer masks (x, y, z), 0 is background.
        classes: number of classes with the background.
        spacing: voxel edges in mm.
        tolerance: of surface Dice, mm.
    """
    values: dict[str, float] = {}
    for label in range(1, classes):
        pair = (prediction == label, target == label)
        values[f"dice_{label}"] = dice(*pair)
        values[f"surface_dice_{label}"] = surface_dice(*pair, spacing, tolerance)
        values[f"volume_error_{label}"] = volume_error(*pair, spacing)
    names = (*METRICS["segmentation"], *FURTHER["segmentation"])
    means = {name: float(np.mean([values[f"{name}_{k}"] for k in range(1, classes)])) for name in names}
    return means | values


def auroc(scores: np.ndarray, labels: np.ndarray) -> float:
    """Area under the ROC curve: how often a positive outranks a negative, ties half; nan with one class only."""
    positive = np.asarray(labels).astype(bool)
    n_positive, n_negative = int(positive.sum()), int((~positive).sum())
    if not n_positive or not n_negative:
        return float("nan")
    _, place, count = np.unique(scores, return_inverse=True, return_counts=True)
    # Equal scores share the middle of their ranks.
    rank = (np.cumsum(count) - (count - 1) / 2)[place]
    u = rank[positive].sum() - n_positive * (n_positive + 1) / 2
    return float(u / (n_positive * n_negative))


def macro_auroc(probabilities: np.ndarray, labels: np.ndarray) -> float:
    """Mean over classes of the one-against-the-rest AUROC; `probabilities` is (cases, classes)."""
    return float(np.mean([auroc(probabilities[:, k], labels == k) for k in range(probabilities.shape[1])]))


def average_precision(scores: np.ndarray, labels: np.ndarray) -> float:
    """Precision at every threshold, weighted by the recall gained there; nan with one class only."""
    positive = np.asarray(labels).astype(bool)
    if positive.all() or not positive.any():
        return float("nan")
    area, before = 0.0, 0
    for threshold in np.unique(scores)[::-1]:
        taken = scores >= threshold
        hits = int(positive[taken].sum())
        area += (hits - before) * hits / int(taken.sum())
        before = hits
    return area / int(positive.sum())


def macro_average_precision(probabilities: np.ndarray, labels: np.ndarray) -> float:
    """Mean over classes of the one-against-the-rest average precision; `probabilities` is (cases, classes)."""
    return float(np.mean([average_precision(probabilities[:, k], labels == k) for k in range(probabilities.shape[1])]))


def most_likely(probabilities: Float[np.ndarray, "n k"]) -> Int[np.ndarray, " n"]:
    """The class a case is given to; of two classes the second from a probability of one half on."""
    if probabilities.shape[1] == 2:
        return np.asarray(probabilities[:, 1] >= 0.5, np.int64)
    return np.asarray(probabilities.argmax(axis=1))


def balanced_accuracy(probabilities: Float[np.ndarray, "n k"], labels: Labels) -> float:
    """Mean over classes of the share of their cases that is recognised; nan where a class has no case."""
    given = most_likely(probabilities)
    classes = range(probabilities.shape[1])
    if any(not (labels == k).any() for k in classes):
        return float("nan")
    return float(np.mean([(given[labels == k] == k).mean() for k in classes]))


def brier(probabilities: Float[np.ndarray, "n k"], labels: Labels) -> float:
    """Mean squared distance of probabilities from the truth (Brier 1950): 0 best, 1 worst of two classes, else 2.

    Over three and more classes the squares are summed; of two classes one is counted, as the other is the same.
    """
    return float(np.mean(brier_terms(probabilities, labels)))


def brier_terms(probabilities: Float[np.ndarray, "n k"], labels: Labels) -> Float[np.ndarray, " n"]:
    """What each case adds to the Brier score."""
    truth = labels[:, None] == np.arange(probabilities.shape[1])
    squares: np.ndarray = ((probabilities - truth) ** 2).sum(axis=1)
    return squares / 2.0 if probabilities.shape[1] == 2 else squares


def ece(probabilities: Float[np.ndarray, "n k"], labels: Labels) -> float:
    """Expected calibration error (Naeini et al. 2015): mean gap of confidence and truth over ten bins of confidence.

    Of two classes confidence is the probability of the second one and truth whether it is that one; of more,
    confidence is the largest probability and truth whether that class is right.
    """
    confidence, truth = calibration_pairs(probabilities, labels)
    bins = confidence_bins(confidence)
    gaps = [abs((confidence - truth)[bins == k].sum()) for k in range(ECE_BINS)]
    return float(sum(gaps) / len(labels))


def calibration_pairs(
    probabilities: Float[np.ndarray, "n k"], labels: Labels
) -> tuple[Float[np.ndarray, " n"], Bool[np.ndarray, " n"]]:
    """Confidence and truth of each case, as `ece` compares them."""
    if probabilities.shape[1] == 2:
        return probabilities[:, 1], labels == 1
    return probabilities.max(axis=1), most_likely(probabilities) == labels


def confidence_bins(confidence: Float[np.ndarray, " n"]) -> Int[np.ndarray, " n"]:
    """Bin 0 … 9 of each case: tenths, each with its lower end."""
    return np.clip((confidence * ECE_BINS).astype(np.int64), 0, ECE_BINS - 1)


def mae(prediction: np.ndarray, target: np.ndarray) -> float:
    """Mean absolute error, in the unit of the target."""
    return float(np.mean(np.abs(prediction - target)))


def bias(prediction: np.ndarray, target: np.ndarray) -> float:
    """Mean of prediction minus target, in the unit of the target."""
    return float(np.mean(prediction - target))


def pearson(prediction: np.ndarray, target: np.ndarray) -> float:
    """Pearson's correlation; nan where either side is constant."""
    # Not by the norms below: rounding gives the deviations of equal numbers a length.
    if np.ptp(prediction) == 0 or np.ptp(target) == 0:
        return float("nan")
    a, b = prediction - np.mean(prediction), target - np.mean(target)
    return float(a @ b / (np.linalg.norm(a) * np.linalg.norm(b)))


def _bounding_box(mask: np.ndarray) -> tuple[slice, ...]:
    axes: Sequence[int] = range(mask.ndim)
    spans = [np.flatnonzero(mask.any(axis=tuple(a for a in axes if a != axis))) for axis in axes]
    return tuple(slice(int(span[0]), int(span[-1]) + 1) for span in spans)
