import math

import numpy as np
import pytest

from fomo_ssl.training import probing
from fomo_ssl.training.probing import NEIGHBOURS, Kind, nearest_neighbours, probe

GENERATOR = np.random.default_rng(0)


def plain_neighbours(fit: np.ndarray, labels: np.ndarray, point: np.ndarray, kind: Kind) -> float:
    """The prediction for one point, neighbour by neighbour."""
    mean = fit.mean(axis=0)
    cosines = []
    for row, label in zip(fit - mean, labels, strict=True):
        cosine = float(row @ (point - mean)) / (np.linalg.norm(row) * np.linalg.norm(point - mean))
        cosines.append((float(cosine), float(label)))
    nearest = sorted(cosines, reverse=True)[:NEIGHBOURS]
    if kind == "regression":
        total = sum(math.exp(cosine / 0.07) for cosine, _ in nearest)
        return sum(math.exp(cosine / 0.07) * label for cosine, label in nearest) / total
    votes = {}
    for cosine, label in nearest:
        votes[label] = votes.get(label, 0.0) + math.exp(cosine / 0.07) / np.sum(labels == label)
    return max(votes, key=votes.__getitem__)


@pytest.mark.parametrize("kind", ["classification", "regression"])
def test_neighbours_equal_the_plain_loop(kind: Kind) -> None:
    fit, test = GENERATOR.normal(size=(40, 5)) + 3.0, GENERATOR.normal(size=(15, 5)) + 3.0
    labels = GENERATOR.integers(0, 3, 40).astype(float) if kind == "classification" else GENERATOR.normal(size=40)
    found = nearest_neighbours(fit, labels, test, kind)
    assert found == pytest.approx([plain_neighbours(fit, labels, point, kind) for point in test])


def test_neighbours_are_the_same_in_blocks_and_need_no_matrix_of_all(monkeypatch: pytest.MonkeyPatch) -> None:
    fit, test, labels = GENERATOR.normal(size=(40, 5)), GENERATOR.normal(size=(15, 5)), GENERATOR.normal(size=40)
    whole, sizes, original = nearest_neighbours(fit, labels, test, "regression"), [], probing._nearest

    def watched(asked: np.ndarray, known: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        found = original(asked, known)
        assert all(part.base is None and part.size <= NEIGHBOURS * len(asked) for part in found)
        sizes.append(len(asked) * len(known))
        return found

    monkeypatch.setattr(probing, "_BLOCK", 200)
    monkeypatch.setattr(probing, "_nearest", watched)
    np.testing.assert_allclose(nearest_neighbours(fit, labels, test, "regression"), whole)
    assert (len(sizes), max(sizes)) == (3, 200)


def test_what_the_embeddings_hold_is_found_beside_a_baseline() -> None:
    fit, test = GENERATOR.normal(size=(300, 8)), GENERATOR.normal(size=(200, 8))
    scores = probe(fit, 50 + 10 * fit[:, 0], test, 50 + 10 * test[:, 0], "regression")
    assert scores["linear"] < 0.1 * scores["baseline"]
    assert scores["knn"] < 0.9 * scores["baseline"]
    assert scores["baseline"] == pytest.approx(10 * np.abs(test[:, 0]).mean(), rel=0.1)
    assert scores["linear_r2"] > 0.95
    # One scan in ten is of the second class: accuracy would be 0.9 by always saying the first.
    rare = [(rows[:, 0] > np.quantile(rows[:, 0], 0.9)).astype(float) for rows in (fit, test)]
    scores = probe(fit, rare[0], test, rare[1], "classification")
    assert scores["baseline"] == 0.5
    assert min(scores["linear"], scores["knn"]) > 0.8


def test_noise_is_not_found() -> None:
    fit, test = GENERATOR.normal(size=(300, 8)), GENERATOR.normal(size=(300, 8))
    labels = GENERATOR.normal(size=600)
    scores = probe(fit, labels[:300], test, labels[300:], "regression")
    assert scores["linear_r2"] < 0.05
    assert scores["linear"] > 0.95 * scores["baseline"]
    classes = (labels > 0).astype(float)
    scores = probe(fit, classes[:300], test, classes[300:], "classification")
    assert abs(scores["linear"] - 0.5) < 0.1
    assert abs(scores["knn"] - 0.5) < 0.1


@pytest.mark.parametrize("kind", ["classification", "regression"])
def test_collapsed_embeddings_hold_nothing(kind: Kind) -> None:
    labels = np.arange(20.0) % 2
    scores = probe(np.ones((20, 4)), labels, np.ones((20, 4)), labels, kind)
    assert scores["linear"] == pytest.approx(0.5)
    assert scores["knn"] == pytest.approx(0.5)
