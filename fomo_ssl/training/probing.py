"""What frozen embeddings hold: a linear model and the nearest neighbours, fitted on some subjects, scored on others."""

from typing import Any, Literal

import numpy as np
from jaxtyping import Float, Float64, Int

Kind = Literal["classification", "regression"]

NEIGHBOURS = 10
_BLOCK = 2**24
"""Similarities that are held at a time."""
_TEMPERATURE = 0.07  # of the neighbours' votes, as in Wu et al. 2018 (arXiv 1805.01978)


def linear_model(kind: Kind, balanced: bool = False) -> Any:
    """An unfitted linear model on standardised embeddings.

    Ridge, which chooses its strength by leave-one-out on what it is fitted on, for a number; logistic regression for
    classes, which count alike whatever their frequency where `balanced`.
    """
    from sklearn.linear_model import LogisticRegression, RidgeCV
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    if kind == "regression":
        model = RidgeCV(alphas=np.logspace(-1, 5, 13))
    else:
        model = LogisticRegression(C=0.1, max_iter=5000, class_weight="balanced" if balanced else None)
    return make_pipeline(StandardScaler(), model)


def nearest_neighbours(
    fit: Float[np.ndarray, "n e"], labels: Float64[np.ndarray, "n"], test: Float[np.ndarray, "m e"], kind: Kind
) -> Float64[np.ndarray, "m"]:
    """Predictions from the nearest embeddings by cosine around the mean of `fit`, weighted by exp(cosine / 0.07).

    A number is the weighted mean. A class wins by its votes divided by its frequency in `fit`, so that a rare class can
    win. Without the centring, the mean that all embeddings share would leave the cosines no room.
    """
    mean = fit.mean(axis=0)
    known, asked = _unit(fit - mean), _unit(test - mean)
    # In blocks: the similarities of a corpus with itself do not fit into memory.
    rows = max(1, _BLOCK // len(fit))
    found = [_nearest(asked[start : start + rows], known) for start in range(0, len(asked), rows)]
    nearest, similarity = (np.concatenate(parts) for parts in zip(*found, strict=True))
    weights = np.exp((similarity - 1.0) / _TEMPERATURE)
    weights /= weights.sum(axis=1, keepdims=True)
    voted = labels[nearest]
    if kind == "regression":
        mean_of_neighbours: Float64[np.ndarray, "m"] = (weights * voted).sum(axis=1)
        return mean_of_neighbours
    classes, counts = np.unique(labels, return_counts=True)
    votes = np.stack([(weights * (voted == c)).sum(axis=1) for c in classes], axis=1) / counts
    winners: Float64[np.ndarray, "m"] = classes[votes.argmax(axis=1)]
    return winners


def _nearest(
    asked: Float64[np.ndarray, "m e"], known: Float64[np.ndarray, "n e"]
) -> tuple[Int[np.ndarray, "m k"], Float64[np.ndarray, "m k"]]:
    """The most similar rows of `known` for each row of `asked`, and how similar they are."""
    similarity = asked @ known.T
    # A copy, since a view would keep the order of all of them.
    nearest = np.argsort(-similarity, axis=1, kind="stable")[:, :NEIGHBOURS].copy()
    return nearest, np.take_along_axis(similarity, nearest, axis=1)


def probe(
    fit: Float[np.ndarray, "n e"],
    fit_labels: Float64[np.ndarray, "n"],
    test: Float[np.ndarray, "m e"],
    test_labels: Float64[np.ndarray, "m"],
    kind: Kind,
) -> dict[str, float]:
    """Scores on `test` of models fitted on `fit`, which must hold no subject of it.

    Classes: balanced accuracy under `linear` and `knn`, and under `baseline` that of a guess, 1 / classes. A number:
    mean absolute error in its unit under the same names, `baseline` always saying the mean of `fit_labels`; and under
    `linear_r2` and `knn_r2` the coefficient of determination (1 = perfect, 0 = no better than the mean).
    """
    from sklearn.metrics import balanced_accuracy_score, mean_absolute_error, r2_score

    predictions = {
        "linear": linear_model(kind, balanced=True).fit(fit, fit_labels).predict(test),
        "knn": nearest_neighbours(fit, fit_labels, test, kind),
    }
    if kind == "classification":
        scores = {name: float(balanced_accuracy_score(test_labels, found)) for name, found in predictions.items()}
        return scores | {"baseline": 1.0 / len(np.unique(test_labels))}
    guess = np.full_like(test_labels, fit_labels.mean())
    errors = {
        name: float(mean_absolute_error(test_labels, found))
        for name, found in (predictions | {"baseline": guess}).items()
    }
    return errors | {f"{name}_r2": float(r2_score(test_labels, found)) for name, found in predictions.items()}


def _unit(rows: Float[np.ndarray, "n e"]) -> Float64[np.ndarray, "n e"]:
    rows = rows.astype(np.float64)
    unit: Float64[np.ndarray, "n e"] = rows / np.maximum(np.linalg.norm(rows, axis=1, keepdims=True), 1e-12)
    return unit
