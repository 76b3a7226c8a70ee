"""Who and what is in a store, counted; what is not known is counted too."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pyarrow as pa

from fomo_ssl.corpus.outliers import source_spacing
from fomo_ssl.corpus.quality import codes
from fomo_ssl.corpus.schema import METADATA_COLUMNS

UNKNOWN = "not known"
# A little above the labels, each of which holds the scans of its own number.
SPACING_BINS = (0.0, 0.775, 1.05, 1.55, 2.05, 3.05, 5.05, float("inf"))
SPACING_LABELS = ("up to 0.75", "0.75 to 1", "1 to 1.5", "1.5 to 2", "2 to 3", "3 to 5", "above 5")
_FOLD_AFTER = 40


@dataclass(frozen=True)
class Counts:
    """What the page counts.

    Attributes:
        dataset, sequence: scans by name, most first.
        spacing: (finest, coarsest) scans of the source by edge of `SPACING_LABELS`, and `UNKNOWN`.
        ages: of sessions by sex (M, F, other words, `UNKNOWN`), years.
        sex: sessions by sex.
        age_missing: sessions without an age.
        missing: scans without a metadata column, by column.
        cross: lines of the table of datasets by sequences; the last may stand for several datasets.
    """

    scans: int
    subjects: int
    sessions: int
    dataset: dict[str, int]
    sequence: dict[str, int]
    spacing: dict[str, tuple[int, int]]
    ages: dict[str, list[float]]
    sex: dict[str, int]
    age_missing: int
    missing: dict[str, int]
    cross: list[tuple[str, int, int, list[int]]]


def count(index: pa.Table) -> Counts:
    """Count the rows of a store's index."""
    datasets = [name or UNKNOWN for name in index.column("dataset").to_pylist()]
    sequences = index.column("sequence").to_pylist()
    subject, session = codes(index, "dataset", "subject"), codes(index, "dataset", "subject", "session")
    by_dataset, by_sequence = dict(Counter(datasets).most_common()), dict(Counter(sequences).most_common())
    # Age and sex belong to a session: a session of ten scans is not ten people.
    _, first = np.unique(session, return_index=True)
    people = index.select(["age", "sex"]).take(pa.array(first))
    ages: dict[str, list[float]] = {}
    sex: Counter[str] = Counter()
    for age, word in zip(people.column("age").to_pylist(), people.column("sex").to_pylist(), strict=True):
        sex[word or UNKNOWN] += 1
        if age is not None and np.isfinite(age):
            ages.setdefault(word or UNKNOWN, []).append(age)
    spacing = source_spacing(index)
    return Counts(
        scans=len(index),
        subjects=len(np.unique(subject)),
        sessions=len(first),
        dataset=by_dataset,
        sequence=by_sequence,
        spacing=_binned(spacing[:, 0], spacing[:, 2]),
        ages=dict(sorted(ages.items())),
        sex=dict(sex.most_common()),
        age_missing=len(first) - sum(map(len, ages.values())),
        missing={name: index.column(name).null_count for name in METADATA_COLUMNS},
        cross=_cross(datasets, sequences, subject.tolist(), list(by_dataset), list(by_sequence)),
    )


def _binned(finest: np.ndarray, coarsest: np.ndarray) -> dict[str, tuple[int, int]]:
    columns = []
    for values in (finest, coarsest):
        known = values[np.isfinite(values)]
        columns.append([*np.histogram(known, SPACING_BINS)[0].tolist(), len(values) - len(known)])
    rows = zip((*SPACING_LABELS, UNKNOWN), *columns, strict=True)
    return {label: (fine, coarse) for label, fine, coarse in rows if fine or coarse}


def _cross(
    datasets: Sequence[str], sequences: Sequence[str], subjects: Sequence[int], rows: list[str], columns: list[str]
) -> list[tuple[str, int, int, list[int]]]:
    """(dataset, subjects, scans, scans of each sequence); many datasets beyond the largest become one line."""
    shown = rows if len(rows) <= _FOLD_AFTER else rows[: _FOLD_AFTER - 1]
    rest = f"{len(rows) - len(shown)} smaller datasets"
    line_of = {name: name if name in set(shown) else rest for name in rows}
    cells: Counter[tuple[str, str]] = Counter()
    people: dict[str, set[int]] = {}
    for dataset, sequence, subject in zip(datasets, sequences, subjects, strict=True):
        cells[line_of[dataset], sequence] += 1
        people.setdefault(line_of[dataset], set()).add(subject)
    lines = [*shown, *([rest] if len(shown) < len(rows) else [])]
    table = [(name, len(people[name]), [cells[name, column] for column in columns]) for name in lines]
    return [(name, subjects_, sum(each), each) for name, subjects_, each in table]
