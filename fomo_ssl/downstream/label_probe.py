"""How well the embeddings of a table tell one of its columns: nearest neighbours and a linear model beside a guess."""

from collections import Counter
from dataclasses import dataclass

import numpy as np
import pyarrow as pa

from fomo_ssl.core.errors import TaskError
from fomo_ssl.downstream.embeddings import COLUMNS, vectors
from fomo_ssl.downstream.given_labels import GivenLabels
from fomo_ssl.downstream.probe import Outputs, ProbeResult, cross_validate
from fomo_ssl.downstream.scores import Predictions, intervals
from fomo_ssl.training.probing import Kind, linear_model, nearest_neighbours

# A class with fewer subjects would be missing from a fold.
_MIN_SUBJECTS = 5
LABELS = tuple(name for name in COLUMNS if name not in ("path", "subject", "session"))
"""Columns that can be probed: `age` is a number, the others are classes."""


@dataclass(frozen=True)
class LabelProbe:
    """Scores by name of the predictor; `left_out` are classes of too few subjects with their numbers of scans."""

    label: str
    classes: tuple[str, ...]
    scans: int
    scores: dict[str, ProbeResult]
    left_out: dict[str, int]

    def text(self) -> str:
        """The table for a terminal."""
        first = next(iter(self.scores.values()))
        lines = [f"{self.label}: {self.scans} scans of {first.n} subjects, cross-validated over subjects"]
        if self.classes:
            lines.append(f"classes: {', '.join(self.classes)}")
        if self.left_out:
            few = ", ".join(f"{name} ({count} scans)" for name, count in self.left_out.items())
            lines.append(f"left out, fewer than {_MIN_SUBJECTS} subjects: {few}")
        unit = {"balanced_accuracy": "balanced accuracy", "mae": "mean absolute error"}[first.metric]
        lines.append(f"{'':<20} {unit} [95 % interval over subjects]")
        for name, score in self.scores.items():
            lines.append(f"{name:<20} {score.value:.3f} [{score.low:.3f}, {score.high:.3f}]")
        return "\n".join(lines)


def check_label(label: str, given: GivenLabels | None = None) -> None:
    """Refuse what is no column to probe.

    Raises:
        TaskError: it is none.
    """
    choice = (*LABELS, *(given.columns if given else ()))
    if label not in choice:
        raise TaskError(f"no label {label!r}", way_out=f"Choose one of {', '.join(choice)}")


def probe_label(table: pa.Table, label: str, given: GivenLabels | None = None) -> LabelProbe:
    """Cross-validate over subjects: every scan is predicted by what was fitted on other subjects.

    Classes: balanced accuracy; a class needs 5 subjects. Age or a number of yours: mean absolute error in its unit.

    Args:
        table: embeddings with what is known of their scans.
        label: a column of `LABELS`, or of `given`, which goes first.
        given: labels of your own.

    Raises:
        TaskError: an unknown column, or too few subjects or classes that are known.
    """
    check_label(label, given)
    dataset, subject = (table.column(name).to_pylist() for name in ("dataset", "subject"))
    subjects = np.array([f"{d}/{s}" for d, s in zip(dataset, subject, strict=True)])
    own = given is not None and label in given.columns
    values = given.values(table, label) if given and own else table.column(label).to_pylist()
    known = np.array([value is not None for value in values])
    classes: list[str] = []
    left_out: dict[str, int] = {}
    is_number = any(isinstance(value, float) for value in values) if own else label == "age"
    kind: Kind = "regression" if is_number else "classification"
    labels = np.array([value if kind == "regression" and value is not None else 0.0 for value in values])
    if kind == "classification":
        names = np.array([_name(value) for value in values])
        left_out = dict(Counter(names[known].tolist()))
        classes = sorted(name for name in left_out if len(set(subjects[known & (names == name)])) >= _MIN_SUBJECTS)
        left_out = {name: count for name, count in sorted(left_out.items()) if name not in classes}
        if len(classes) < 2:
            what = f"{label}: {len(classes)} classes are known of {_MIN_SUBJECTS} subjects or more, a probe needs 2"
            raise TaskError(what, way_out=f"Choose another of {', '.join(LABELS)}")
        known &= np.isin(names, classes)
        labels = np.searchsorted(classes, names).astype(np.float64)
    rows = np.flatnonzero(known)
    features, chosen = vectors(table)[rows].astype(np.float64), tuple(subjects[rows].tolist())
    predictors = {"linear probe": _linear, "nearest neighbours": _neighbours, "guess": _guess}
    scores = {
        name: _score(label, features, labels[rows], chosen, kind, predictor) for name, predictor in predictors.items()
    }
    return LabelProbe(label, tuple(classes), len(rows), scores, left_out)


def _score(
    label: str, features: np.ndarray, labels: np.ndarray, subjects: tuple[str, ...], kind: Kind, outputs_of: Outputs
) -> ProbeResult:
    columns = cross_validate(features, labels, subjects, kind, outputs_of)
    metric = "mae" if kind == "regression" else "balanced_accuracy"
    cases = tuple(map(str, range(len(labels))))
    found = intervals([Predictions(kind, cases, subjects, ("",) * len(labels), columns)], [metric])[metric]
    return ProbeResult(label, metric, found.value, found.low, found.high, found.n)


def _linear(fit: np.ndarray, labels: np.ndarray, test: np.ndarray, kind: Kind, classes: int) -> np.ndarray:
    """Classes count alike whatever their frequency, as they do in the score."""
    return _outputs(linear_model(kind, balanced=True).fit(fit, labels).predict(test), kind, classes)


def _neighbours(fit: np.ndarray, labels: np.ndarray, test: np.ndarray, kind: Kind, classes: int) -> np.ndarray:
    return _outputs(nearest_neighbours(fit, labels, test, kind), kind, classes)


def _guess(fit: np.ndarray, labels: np.ndarray, test: np.ndarray, kind: Kind, classes: int) -> np.ndarray:
    """Without a look at the features: the mean, or the same class always, which scores 1 / classes whichever it is."""
    guess = labels.mean() if kind == "regression" else 0.0
    return _outputs(np.full(len(test), guess), kind, classes)


def _outputs(predicted: np.ndarray, kind: Kind, classes: int) -> np.ndarray:
    """Values in a column, or certain probabilities of class indices."""
    if kind == "regression":
        return predicted[:, None]
    certain: np.ndarray = np.eye(classes)[predicted.astype(int)]
    return certain


def _name(value: object) -> str:
    return f"{value:g}" if isinstance(value, float) else str(value)
