"""The metrics over cases of `metrics`, for many weightings of the cases at once: what the bootstrap asks for.

`weights` is (r, n): how often each of n cases counts in each of r resamples. A result is (r,), the metric of the cases
repeated so often; nan where that is not defined.
"""

from collections.abc import Callable

import numpy as np
from jaxtyping import Float, Num

from fomo_ssl.downstream.metrics import ECE_BINS, Labels, brier_terms, calibration_pairs, confidence_bins, most_likely

Weights = Float[np.ndarray, "r n"]
Values = Float[np.ndarray, " r"]
_LEAST_SPREAD = 1e-12
"""A variance below this share of the largest squared deviation is rounding: the numbers are equal."""


def mean(weights: Weights, values: Num[np.ndarray, " n"]) -> Values:
    """Weighted mean."""
    result: Values = weights @ values / weights.sum(axis=1)
    return result


def auroc(weights: Weights, scores: Num[np.ndarray, " n"], labels: Labels) -> Values:
    """Area under the ROC curve, ties half."""
    positive, negative = _by_threshold(weights, scores, labels)
    # Negatives below a threshold count whole, those at it half.
    below = np.cumsum(negative[:, ::-1], axis=1)[:, ::-1] - negative
    return _ratio((positive * (below + negative / 2.0)).sum(axis=1), positive.sum(axis=1) * negative.sum(axis=1))


def average_precision(weights: Weights, scores: Num[np.ndarray, " n"], labels: Labels) -> Values:
    """Precision at every threshold, weighted by the recall gained there."""
    positive, negative = _by_threshold(weights, scores, labels)
    hits = np.cumsum(positive, axis=1)
    # A threshold that no drawn case reaches adds nothing.
    taken = np.maximum(hits + np.cumsum(negative, axis=1), 1e-300)
    area = (positive * hits / taken).sum(axis=1)
    total, others = positive.sum(axis=1), negative.sum(axis=1)
    return _ratio(np.where(others > 0, area, np.nan), total)


def macro_auroc(weights: Weights, probabilities: Float[np.ndarray, "n k"], labels: Labels) -> Values:
    """Mean over classes of the one-against-the-rest AUROC."""
    return _macro(auroc, weights, probabilities, labels)


def macro_average_precision(weights: Weights, probabilities: Float[np.ndarray, "n k"], labels: Labels) -> Values:
    """Mean over classes of the one-against-the-rest average precision."""
    return _macro(average_precision, weights, probabilities, labels)


def balanced_accuracy(weights: Weights, probabilities: Float[np.ndarray, "n k"], labels: Labels) -> Values:
    """Mean over classes of the share of their cases that is recognised."""
    right = (most_likely(probabilities) == labels).astype(np.float64)
    shares = []
    for k in range(probabilities.shape[1]):
        of_class = weights[:, labels == k]
        shares.append(_ratio(of_class @ right[labels == k], of_class.sum(axis=1)))
    result: Values = np.mean(shares, axis=0)
    return result


def brier(weights: Weights, probabilities: Float[np.ndarray, "n k"], labels: Labels) -> Values:
    """Mean squared distance of probabilities from the truth."""
    return mean(weights, brier_terms(probabilities, labels))


def ece(weights: Weights, probabilities: Float[np.ndarray, "n k"], labels: Labels) -> Values:
    """Mean gap of confidence and truth over bins of confidence."""
    confidence, truth = calibration_pairs(probabilities, labels)
    in_bin = confidence_bins(confidence)[:, None] == np.arange(ECE_BINS)
    gaps = np.abs(weights @ ((confidence - truth)[:, None] * in_bin)).sum(axis=1)
    result: Values = gaps / weights.sum(axis=1)
    return result


def mae(weights: Weights, prediction: Num[np.ndarray, " n"], target: Num[np.ndarray, " n"]) -> Values:
    """Mean absolute error."""
    return mean(weights, np.abs(prediction - target))


def bias(weights: Weights, prediction: Num[np.ndarray, " n"], target: Num[np.ndarray, " n"]) -> Values:
    """Mean of prediction minus target."""
    return mean(weights, prediction - target)


def pearson(weights: Weights, prediction: Num[np.ndarray, " n"], target: Num[np.ndarray, " n"]) -> Values:
    """Pearson's correlation."""
    total = weights.sum(axis=1)
    # About the mean of all, since the moments of large numbers far from zero cancel badly.
    a, b = prediction - np.mean(prediction), target - np.mean(target)
    mean_a, mean_b = weights @ a / total, weights @ b / total
    variances = []
    for values, centre in ((a, mean_a), (b, mean_b)):
        variance = weights @ values**2 / total - centre**2
        variances.append(np.where(variance > _LEAST_SPREAD * np.max(values**2, initial=0.0), variance, 0.0))
    covariance = weights @ (a * b) / total - mean_a * mean_b
    r: Values = np.clip(_ratio(covariance, np.sqrt(variances[0] * variances[1])), -1.0, 1.0)
    return r


def _macro(
    statistic: Callable[[np.ndarray, np.ndarray, np.ndarray], Values],
    weights: Weights,
    probabilities: np.ndarray,
    labels: np.ndarray,
) -> Values:
    classes = range(probabilities.shape[1])
    result: Values = np.mean([statistic(weights, probabilities[:, k], labels == k) for k in classes], axis=0)
    return result


def _by_threshold(
    weights: Weights, scores: Num[np.ndarray, " n"], labels: Labels
) -> tuple[Float[np.ndarray, "r t"], Float[np.ndarray, "r t"]]:
    """Weight of positives and of negatives at each different score, from the greatest down."""
    order = np.argsort(-np.asarray(scores, np.float64), kind="stable")
    starts = np.flatnonzero(np.append(True, np.diff(np.asarray(scores)[order]) != 0))
    positive = np.asarray(labels).astype(bool)[order]
    sorted_weights = weights[:, order]
    return (
        np.add.reduceat(sorted_weights * positive, starts, axis=1),
        np.add.reduceat(sorted_weights * ~positive, starts, axis=1),
    )


def _ratio(above: Values, below: Values) -> Values:
    """`above / below`; nan where `below` is 0."""
    ratio: Values = np.divide(above, below, out=np.full(np.shape(below), np.nan), where=below > 0)
    return ratio
