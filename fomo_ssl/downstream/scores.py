"""Predictions per case and what is computed from them: metrics with intervals, by group, and against the twin."""

import csv
import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from fomo_ssl.core.errors import RunError
from fomo_ssl.downstream.metrics import METRICS, auroc, macro_auroc, mae, pearson
from fomo_ssl.downstream.statistics import Interval, Statistic, bootstrap_interval, paired_difference

_TEXT = ("case", "subject", "dataset")
_OF_ALL_CASES = {"auroc": auroc, "mae": mae, "pearson": pearson}


@dataclass(frozen=True)
class Predictions:
    """One row a test case.

    Attributes:
        kind: of the task.
        cases, subjects, datasets: ids, one a row; `datasets` are empty strings where the task has none.
        columns: numbers, one a row. Segmentation: `dice`, `surface_dice`, `dice_1` …; classification: `target` and
            `prediction` (probability of class 1), with three and more classes the most likely class and
            `probability_0` …; regression: `target` and `prediction`, in the unit of the label.
    """

    kind: str
    cases: tuple[str, ...]
    subjects: tuple[str, ...]
    datasets: tuple[str, ...]
    columns: Mapping[str, np.ndarray]

    def __len__(self) -> int:
        return len(self.cases)

    def metric(self, name: str) -> float:
        """A metric over all rows."""
        return self.statistic(name)(np.arange(len(self)))

    def statistic(self, name: str) -> Statistic:
        """A metric as a function of row positions, which may repeat: what the bootstrap wants."""
        if name in self.columns:
            values = self.columns[name]
            return lambda rows: float(values[rows].mean())
        target = self.columns["target"]
        classes = sum(key.startswith("probability_") for key in self.columns)
        if name == "auroc" and classes:
            probabilities = np.stack([self.columns[f"probability_{k}"] for k in range(classes)], axis=1)
            return lambda rows: macro_auroc(probabilities[rows], target[rows])
        prediction, of_all_cases = self.columns["prediction"], _OF_ALL_CASES[name]
        return lambda rows: of_all_cases(prediction[rows], target[rows])

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
        rows = list(csv.DictReader(path.read_text().splitlines()))
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


def intervals(seeds: Sequence[Predictions], names: Sequence[str] | None = None) -> dict[str, Interval]:
    """Each metric as the mean over `seeds` (tables with the same cases), with its interval over subjects."""
    first = seeds[0]
    return {
        name: bootstrap_interval(_mean_metric(seeds, name), first.subjects, strata=first.strata())
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


def differences(first: Sequence[Predictions], second: Sequence[Predictions]) -> dict[str, Interval]:
    """Metric of `first` minus metric of `second`, both means over seeds, paired over the same subjects.

    Raises:
        RunError: the two were not tested on the same cases.
    """
    table = first[0]
    if any(other.cases != table.cases for other in (*first, *second)):
        raise RunError("the two arms were tested on different cases", way_out="Finetune both in one run")
    return {
        name: paired_difference(
            _mean_metric(first, name), _mean_metric(second, name), table.subjects, strata=table.strata()
        )
        for name in METRICS[table.kind]
    }


def _mean_metric(seeds: Sequence[Predictions], name: str) -> Statistic:
    statistics = [table.statistic(name) for table in seeds]
    return lambda rows: sum(statistic(rows) for statistic in statistics) / len(statistics)
