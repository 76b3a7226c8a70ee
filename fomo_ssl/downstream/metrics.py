"""Metrics of the three kinds of task, on NumPy arrays."""

from collections.abc import Sequence

import numpy as np

from fomo_ssl.core.types import Spacing

HIGHER_IS_BETTER = {"dice": True, "surface_dice": True, "auroc": True, "mae": False, "pearson": True}
"""The metrics by name and their direction; `dice_2` is the Dice of class 2 and points the way `dice` does."""

METRICS: dict[str, tuple[str, ...]] = {
    "segmentation": ("dice", "surface_dice"),
    "classification": ("auroc",),
    "regression": ("mae", "pearson"),
}
"""What is reported for each kind of task, the leading metric first."""


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


def segmentation_metrics(
    prediction: np.ndarray, target: np.ndarray, classes: int, spacing: Spacing, tolerance: float
) -> dict[str, float]:
    """Dice and surface Dice of every foreground class (`dice_1`, …) and their means (`dice`, `surface_dice`).

    Args:
        prediction, target: integer masks (x, y, z), 0 is background.
        classes: number of classes with the background.
        spacing: voxel edges in mm.
        tolerance: of surface Dice, mm.
    """
    values: dict[str, float] = {}
    for label in range(1, classes):
        values[f"dice_{label}"] = dice(prediction == label, target == label)
        values[f"surface_dice_{label}"] = surface_dice(prediction == label, target == label, spacing, tolerance)
    means = {
        name: float(np.mean([values[f"{name}_{k}"] for k in range(1, classes)])) for name in METRICS["segmentation"]
    }
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


def mae(prediction: np.ndarray, target: np.ndarray) -> float:
    """Mean absolute error, in the unit of the target."""
    return float(np.mean(np.abs(prediction - target)))


def pearson(prediction: np.ndarray, target: np.ndarray) -> float:
    """Pearson's correlation; nan where either side is constant."""
    a, b = prediction - np.mean(prediction), target - np.mean(target)
    norm = float(np.sqrt((a @ a) * (b @ b)))
    return float(a @ b) / norm if norm > 0 else float("nan")


def _bounding_box(mask: np.ndarray) -> tuple[slice, ...]:
    axes: Sequence[int] = range(mask.ndim)
    spans = [np.flatnonzero(mask.any(axis=tuple(a for a in axes if a != axis))) for axis in axes]
    return tuple(slice(int(span[0]), int(span[-1]) + 1) for span in spans)
