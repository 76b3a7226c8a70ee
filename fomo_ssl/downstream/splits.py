"""Who is trained on and who is tested: by subject, seeded, nested over shots, saved."""

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from fomo_ssl.core.errors import TaskError
from fomo_ssl.core.files import write_json
from fomo_ssl.core.seeding import numpy_generator
from fomo_ssl.downstream.tasks import Case, Task


@dataclass(frozen=True)
class Split:
    """Names of cases for one unit of work.

    Attributes:
        shots: number of training subjects.
        fold: of cross-validation; None for few-shot splits.
    """

    shots: int
    seed: int
    train: tuple[str, ...]
    validation: tuple[str, ...]
    test: tuple[str, ...]
    fold: int | None = None

    @property
    def name(self) -> str:
        return f"shots{self.shots}_seed{self.seed}" if self.fold is None else f"fold{self.fold}_seed{self.seed}"


def used_cases(task: Task, splits: Sequence[Split]) -> list[Case]:
    """The cases that any of the splits trains, validates or tests on, by name."""
    names = {name for split in splits for name in (*split.train, *split.validation, *split.test)}
    return [task[name] for name in sorted(names)]


def few_shot_splits(
    task: Task,
    shots: Sequence[int],
    seeds: int,
    *,
    n_test: int | None = None,
    n_validation: int = 0,
    train_on: Sequence[str] | None = None,
    test_on: Sequence[str] | None = None,
) -> list[Split]:
    """One split for each number of shots and each seed.

    The test subjects are the same for all. Within a seed the training sets are nested: the one subject of the 1-shot
    set is in the 5-shot set. For classification every prefix of the order holds the classes in about equal shares.

    Args:
        shots: numbers of training subjects; one given twice counts once.
        seeds: number of seeds, 0 … seeds - 1.
        n_test: number of test subjects; None takes what the largest shot leaves, at most 50.
        n_validation: subjects per seed for the curve, from what is left of the pool.
        train_on, test_on: datasets whose subjects train and are tested; None takes all. The test subjects follow from
            `test_on` and `n_test` alone: training on another site and on the same one is tested on the same subjects.

    Raises:
        TaskError: fewer subjects than asked for, or a dataset that the task does not have.
    """
    cases_of = _cases_by_subject(task)
    trainable, testable = _of_datasets(task, cases_of, train_on), _of_datasets(task, cases_of, test_on)
    needed = max(shots) + n_validation
    if min(shots) < 1:
        raise TaskError(f"shots {min(shots)} is not a number of subjects", way_out="Use shots=1 or more")
    if n_test is None:
        n_test = min(50, len(testable) - max(0, needed - len(trainable.keys() - testable.keys())))
    test = _subject_order(task, testable, seed=0, stream="test")[: max(n_test, 0)]
    pool = {subject: names for subject, names in trainable.items() if subject not in test}
    if not 1 <= n_test <= len(testable) or needed > len(pool):
        raise TaskError(
            f"{task.name} has {len(trainable)} subjects to train and {len(testable)} to test on; "
            f"{needed} for training and {max(n_test, 1)} for testing do not fit",
            way_out="Lower shots or n_test, or use mode=cv",
        )
    splits = []
    for seed in range(seeds):
        order = _subject_order(task, pool, seed=seed, stream="train")
        validation = order[max(shots) : needed]
        rest = (_names(validation, trainable), _names(test, testable))
        splits += [Split(k, seed, _names(order[:k], trainable), *rest) for k in dict.fromkeys(shots)]
    return splits


def cross_validation(task: Task, folds: int, seeds: int = 1) -> list[Split]:
    """Folds such that every case is tested once a seed; the number of subjects as `folds` leaves one out.

    The folds are the same for all seeds, so that a case's predictions differ by the seed of training only. For
    classification each fold holds its share of every class, to the nearest subject.

    Raises:
        TaskError: fewer than 2 folds, or more folds than subjects.
    """
    cases_of = _cases_by_subject(task)
    if not 2 <= folds <= len(cases_of):
        raise TaskError(
            f"{folds} folds do not suit {len(cases_of)} subjects", way_out=f"Use folds=2 to folds={len(cases_of)}"
        )
    order = _subject_order(task, cases_of, seed=0, stream="folds")
    dealt = order
    if task.kind == "classification":
        # Class after class: where classes take turns, every turn would meet the same fold.
        dealt = sorted(order, key=lambda subject: str(task[cases_of[subject][0]].label))
    splits = []
    for seed in range(seeds):
        for fold in range(folds):
            test = set(dealt[fold::folds])
            train = [subject for subject in order if subject not in test]
            parts = (_names(train, cases_of), (), _names([s for s in order if s in test], cases_of))
            splits.append(Split(len(train), seed, *parts, fold=fold))
    return splits


def save_splits(path: Path, splits: Sequence[Split]) -> None:
    """Write the splits as JSON, whole or not at all."""
    write_json(path, [asdict(split) for split in splits])


def extend_splits(path: Path, splits: Sequence[Split]) -> None:
    """Add splits to a file of them: the units of a run that is taken up again stay, and none changes its cases.

    Raises:
        TaskError: the file is damaged, or holds a split of the same name with other cases.
    """
    known = {split.name: split for split in read_splits(path)} if path.exists() else {}
    for split in splits:
        if known.setdefault(split.name, split) != split:
            raise TaskError(
                f"{split.name} had other cases before", where=path, way_out="Use the values of then, or another run"
            )
    save_splits(path, list(known.values()))


def read_splits(path: Path) -> list[Split]:
    """Read what `save_splits` wrote.

    Raises:
        TaskError: the file is not such a list.
    """
    try:
        rows = json.loads(path.read_text())
        plain: list[dict[str, Any]] = [
            {key: tuple(value) if isinstance(value, list) else value for key, value in row.items()} for row in rows
        ]
        return [Split(**row) for row in plain]
    except (ValueError, TypeError, AttributeError) as error:
        raise TaskError(f"no list of splits ({error})", where=path, way_out="Delete it or use another run") from error


def _cases_by_subject(task: Task) -> dict[str, list[str]]:
    cases: dict[str, list[str]] = {}
    for case in task.cases:
        cases.setdefault(case.subject, []).append(case.name)
    return cases


def _of_datasets(task: Task, cases_of: dict[str, list[str]], datasets: Sequence[str] | None) -> dict[str, list[str]]:
    """The subjects of some datasets with their cases there; None takes all."""
    if datasets is None:
        return cases_of
    present = {case.dataset for case in task.cases}
    if unknown := set(datasets) - present:
        known = ", ".join(sorted(name for name in present if name))
        way_out = f"It has {known}" if known else "Name datasets in participants.tsv or in the table's column dataset"
        raise TaskError(f"{task.name} has no dataset {min(unknown)}", way_out=way_out)
    kept = {subject: [name for name in names if task[name].dataset in datasets] for subject, names in cases_of.items()}
    return {subject: names for subject, names in kept.items() if names}


def _names(subjects: Sequence[str], cases_of: dict[str, list[str]]) -> tuple[str, ...]:
    return tuple(name for subject in subjects for name in cases_of[subject])


def _subject_order(task: Task, cases_of: dict[str, list[str]], *, seed: int, stream: str) -> list[str]:
    """Subjects shuffled; for classification the classes take turns in proportion to their size."""
    subjects = sorted(cases_of)
    shuffled = [subjects[i] for i in numpy_generator(seed, stream=f"split.{stream}").permutation(len(subjects))]
    if task.kind != "classification":
        return shuffled
    label = {subject: task[cases_of[subject][0]].label for subject in shuffled}
    rank: dict[str, float] = {}
    for value in sorted(set(label.values()), key=str):
        members = [subject for subject in shuffled if label[subject] == value]
        # The k-th of n members stands at (k + 1/2) / n: every prefix holds the shares of the whole.
        rank |= {subject: float((k + 0.5) / len(members)) for k, subject in enumerate(members)}
    return [shuffled[i] for i in np.argsort([rank[subject] for subject in shuffled], kind="stable")]
