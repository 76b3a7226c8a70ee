"""The metrics under weights are the plain ones of the cases repeated, and scikit-learn's with sample weights."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fomo_ssl.downstream import metrics, weighted

CLASSES = ("balanced_accuracy", "brier", "ece", "macro_auroc", "macro_average_precision")
weightings = st.lists(st.lists(st.integers(0, 3), min_size=8, max_size=8).filter(any), min_size=1, max_size=4)


def plain(function: str, outputs: np.ndarray, target: np.ndarray, weights: np.ndarray) -> list[float]:
    """The slow way: repeat the cases, one resample after another."""
    repeated = [np.repeat(np.arange(len(target)), row) for row in weights]
    return [getattr(metrics, function)(outputs[rows], target[rows]) for rows in repeated]


@settings(deadline=None, max_examples=60)
@given(weightings, st.lists(st.sampled_from([0.0, 0.2, 0.5, 1.0]), min_size=8, max_size=8), st.integers(0, 255))
@pytest.mark.parametrize("function", ["auroc", "average_precision"])
def test_of_two_classes(function, weights, scores, bits):
    rows, labels = np.array(weights), (bits >> np.arange(8)) & 1
    found = getattr(weighted, function)(rows.astype(float), np.array(scores), labels)
    np.testing.assert_allclose(found, plain(function, np.array(scores), labels, rows), atol=1e-12)


@settings(deadline=None, max_examples=40)
@given(weightings, st.integers(2, 4), st.integers(0, 10**6))
@pytest.mark.parametrize("function", CLASSES)
def test_of_probabilities(function, weights, classes, seed):
    rows, generator = np.array(weights), np.random.default_rng(seed)
    probabilities = np.round(generator.dirichlet([1.0] * classes, size=8), 1)
    labels = generator.integers(0, classes, 8)
    found = getattr(weighted, function)(rows.astype(float), probabilities, labels)
    np.testing.assert_allclose(found, plain(function, probabilities, labels, rows), atol=1e-12)


@settings(deadline=None, max_examples=60)
@given(weightings, st.lists(st.floats(-90, 90).map(lambda v: round(v, 1)), min_size=16, max_size=16))
@pytest.mark.parametrize("function", ["mae", "bias", "pearson"])
@pytest.mark.parametrize("offset", [0.0, 1e6])
def test_of_numbers(function, offset, weights, numbers):
    rows, (prediction, target) = np.array(weights), np.array(numbers).reshape(2, 8) + offset
    found = getattr(weighted, function)(rows.astype(float), prediction, target)
    np.testing.assert_allclose(found, plain(function, prediction, target, rows), atol=1e-6)


def test_weights_mean_what_scikit_learn_means_by_them():
    from sklearn import metrics as sk

    generator = np.random.default_rng(0)
    weights = generator.integers(0, 4, (5, 40)).astype(float)
    scores, labels = np.round(generator.uniform(size=40), 1), generator.integers(0, 2, 40)
    both = np.stack([1 - scores, scores], axis=1)
    for row, area, precision, accuracy, distance in zip(
        weights,
        weighted.auroc(weights, scores, labels),
        weighted.average_precision(weights, scores, labels),
        weighted.balanced_accuracy(weights, both, labels),
        weighted.brier(weights, both, labels),
        strict=True,
    ):
        assert area == pytest.approx(sk.roc_auc_score(labels, scores, sample_weight=row))
        assert precision == pytest.approx(sk.average_precision_score(labels, scores, sample_weight=row))
        assert accuracy == pytest.approx(sk.balanced_accuracy_score(labels, scores >= 0.5, sample_weight=row))
        assert distance == pytest.approx(sk.brier_score_loss(labels, scores, sample_weight=row))
