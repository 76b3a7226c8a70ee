"""Predictions per case and what is computed from them: metrics with intervals, by group, and against the twin."""

import csv
import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from fomo_ssl.core.errors import RunError
from fomo_ssl.downstream import metrics, permutation, weighted
from fomo_ssl.downstream.metrics import FURTHER, METRICS
from fomo_ssl.downstream.permutation import Contrast
from fomo_ssl.downstream.statistics import Interval, Statistic, bootstrap_interval, paired_difference

_TEXT = ("case", "subject", "dataset")
_OF_PROBABILITIES = ("balanced_accuracy", "brier", "ece")


@dataclass(frozen=True)
class Predictions:
    """One row a test case.

    Attributes:
        kind: of the task.
        cases, subjects, datasets: ids, one a row; `datasets` are empty strings where the task has none.
        columns: numbers, one a row. Segmentation: `dice`, `surface_dice`, `volume_error` (which old tables lack),
            `dice_1` …; classification: `target` and `prediction` (probability of class 1), with three and more classes
            the most likely class and `probability_0` …; regression: `target` and `prediction`, in the label's unit.
    """

    kind: str
    cases: tuple[str, ...]
    subjects: tuple[str, ...]
    datasets: tuple[str, ...]
    columns: Mapping[str, np.ndarray]

    def __len__(self) -> int:
        return len(self.cases)

    @property
    def metrics(self) -> tuple[str, ...]:
        """What can be computed from these columns, the metrics of the kind first."""
        names = (*METRICS[self.kind], *FURTHER[self.kind])
        return tuple(name for name in names if self.kind != "segmentation" or name in self.columns)

    @property
    def probabilities(self) -> np.ndarray:
        """Of a classification: (cases, classes)."""
        classes = sum(key.startswith("probability_") for key in self.columns)
        if classes:
            return np.stack([self.columns[f"probability_{k}"] for k in range(classes)], axis=1)
        return np.stack([1.0 - self.columns["prediction"], self.columns["prediction"]], axis=1)

    @property
    def errors(self) -> np.ndarray:
        """How far each case is from right: 1 - Dice, 1 - probability of the true class, or the absolute error."""
        errors: np.ndarray
        if self.kind == "regression":
            errors = np.abs(self.columns["prediction"] - self.columns["target"])
        elif self.kind == "segmentation":
            errors = 1.0 - self.columns["dice"]
        else:
            errors = 1.0 - self.probabilities[np.arange(len(self)), self.columns["target"].astype(np.int64)]
        return errors

    def metric(self, name: str) -> float:
        """A metric over all rows; nan where it is not defined, or a row holds no number."""
        if name in self.columns:
            return float(self.columns[name].mean())
        function, outputs = self._form(name)
        if not np.isfinite(outputs).all():
            return float("nan")
        return float(getattr(metrics, function)(outputs, self.columns["target"]))

    def statistic(self, name: str) -> Statistic:
        """The metric for many weightings of the rows at once: what the bootstrap wants."""
        if name in self.columns:
            values = self.columns[name]
            return lambda weights: weighted.mean(weights, values)
        function, outputs = self._form(name)
        if not np.isfinite(outputs).all():
            return lambda weights: np.full(len(weights), np.nan)
        of_weights, target = getattr(weighted, function), self.columns["target"]
        return lambda weights: of_weights(weights, outputs, target)

    def _form(self, name: str) -> tuple[str, np.ndarray]:
        """The function of a metric, of the same name in `metrics` and `weighted`, and what it is given."""
        if self.kind == "regression":
            return name, self.columns["prediction"]
        probabilities = self.probabilities
        if name in _OF_PROBABILITIES:
            return name, probabilities
        return (name, probabilities[:, 1]) if probabilities.shape[1] == 2 else (f"macro_{name}", probabilities)

    def contrast(self, other: "Predictions", name: str) -> Contrast:
        """A metric of `METRICS` minus that of another table of the same cases, under swaps of their predictions."""
        if name in self.columns:
            return permutation.mean_contrast(self.columns[name], other.columns[name])
        target = self.columns["target"]
        if self.kind == "regression":
            first, second = self.columns["prediction"], other.columns["prediction"]
            if name == "pearson":
                return permutation.pearson_contrast(first, second, target)
            return permutation.mean_contrast(np.abs(first - target), np.abs(second - target))
        own, others = self.probabilities, other.probabilities
        # Of two classes one says it all: the area of the other is the same.
        classes = range(own.shape[1]) if own.shape[1] > 2 else range(1, 2)
        return permutation.mean_of([permutation.auroc_contrast(own[:, k], others[:, k], target == k) for k in classes])

    def take(self, rows: Sequence[int]) -> "Predictions":
        """The given rows, in that order."""
        picked = np.asarray(rows, dtype=np.int64)
        cases, subjects, datasets = (tuple(f[i] for i in rows) for f in (self.cases, self.subjects, self.datasets))
        return Predictions(
            self.kind, cases, subjects, datasets, {name: column[picked] for name, column in self.columns.items()}
        )

    def strata(self) -> list[float] | None:
        """What resampling keeps fixed: the class of each row for classification."""
        return self.columns["target"].tolist() if self.kind == "classification" else None


def to_csv(predictions: Predictions) -> str:
    """The text of `predictions.csv`; numbers survive the way back exactly."""
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    writer.writerow([*_TEXT, *predictions.columns])
    ids = zip(predictions.cases, predictions.subjects, predictions.datasets, strict=True)
    for i, names in enumerate(ids):
        writer.writerow([*names, *(repr(float(column[i])) for column in predictions.columns.values())])
    return out.getvalue()


def read_csv(path: Path, kind: str) -> Predictions:
    """Read `predictions.csv`.

    Raises:
        RunError: the file is missing or not such a table.
    """
    try:
        with path.open(newline="", encoding="utf-8") as file:
            rows = list(csv.DictReader(file))
        columns = {name: np.array([float(row[name]) for row in rows]) for name in rows[0] if name not in _TEXT}
        cases, subjects, datasets = (tuple(row[name] for row in rows) for name in _TEXT)
    except (OSError, KeyError, ValueError, IndexError, TypeError) as error:
        raise RunError(f"no table of predictions ({error})", where=path, way_out="Run the unit again") from error
    return Predictions(kind, cases, subjects, datasets, columns)


def concatenate(parts: Sequence[Predictions]) -> Predictions:
    """The rows of several folds as one table, sorted by case."""
    cases = [case for part in parts for case in part.cases]
    subjects = [subject for part in parts for subject in part.subjects]
    datasets = [dataset for part in parts for dataset in part.datasets]
    columns = {name: np.concatenate([part.columns[name] for part in parts]) for name in parts[0].columns}
    whole = Predictions(parts[0].kind, tuple(cases), tuple(subjects), tuple(datasets), columns)
    return whole.take(sorted(range(len(cases)), key=cases.__getitem__))


def ensemble(seeds: Sequence[Predictions]) -> Predictions:
    """What several models say together: the mean of their probabilities or values, as `predict` takes it.

    Raises:
        RunError: they were not tested on the same cases.
        ValueError: of segmentations, whose tables hold scores and no probabilities.
    """
    table = _same_cases(seeds, ())
    if table.kind == "segmentation":
        raise ValueError("the scores of masks are not those of their ensemble")
    columns = {name: np.mean([seed.columns[name] for seed in seeds], axis=0) for name in table.columns}
    several = table.kind == "classification" and "probability_0" in columns
    if several:
        columns["prediction"] = replace(table, columns=columns).probabilities.argmax(axis=1).astype(np.float64)
    return replace(table, columns=columns)


def intervals(seeds: Sequence[Predictions], names: Sequence[str] | None = None) -> dict[str, Interval]:
    """Each metric as the mean over `seeds` (tables with the same cases), with its interval over subjects.

    Args:
        names: of metrics; None takes `METRICS`.
    """
    first = seeds[0]
    return {
        name: bootstrap_interval(mean_statistic(seeds, name), first.subjects, strata=first.strata())
        for name in names or METRICS[first.kind]
    }


def by_dataset(seeds: Sequence[Predictions]) -> dict[str, dict[str, Interval]]:
    """The metrics within each dataset; empty where there is one dataset only."""
    names = sorted(set(seeds[0].datasets))
    if len(names) < 2:
        return {}
    return {name: intervals([of_dataset(table, name) for table in seeds]) for name in names}


def of_dataset(table: Predictions, dataset: str) -> Predictions:
    """The rows of one dataset."""
    return table.take([i for i, name in enumerate(table.datasets) if name == dataset])


def differences(
    first: Sequence[Predictions], second: Sequence[Predictions], names: Sequence[str] | None = None
) -> dict[str, Interval]:
    """Metric of `first` minus metric of `second`, both means over seeds, paired over the same subjects.

    Args:
        names: of metrics; None takes `METRICS`.

    Raises:
        RunError: the two were not tested on the same cases.
    """
    table = _same_cases(first, second)
    return {
        name: paired_difference(
            mean_statistic(first, name), mean_statistic(second, name), table.subjects, strata=table.strata()
        )
        for name in names or METRICS[table.kind]
    }


def p_values(first: Sequence[Predictions], second: Sequence[Predictions]) -> dict[str, float]:
    """Two-sided p of each of `METRICS` that `first` and `second`, seed by seed, differ by chance.

    Raises:
        RunError: the two were not tested on the same cases.
    """
    table = _same_cases(first, second)
    contrasts = {
        name: permutation.mean_of([own.contrast(other, name) for own, other in zip(first, second, strict=True)])
        for name in METRICS[table.kind]
    }
    return permutation.sign_flip_tests(contrasts, table.subjects)


def mean_statistic(seeds: Sequence[Predictions], name: str) -> Statistic:
    """The mean of a metric over tables with the same cases."""
    statistics = [table.statistic(name) for table in seeds]
    return lambda weights: np.mean([statistic(weights) for statistic in statistics], axis=0)


def _same_cases(first: Sequence[Predictions], second: Sequence[Predictions]) -> Predictions:
    table = first[0]
    if any(other.cases != table.cases for other in (*first, *second)):
        raise RunError("the two arms were tested on different cases", way_out="Finetune both in one run")
    return table
