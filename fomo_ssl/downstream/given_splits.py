"""Splits of somebody else's: nnU-Net's `splits_final.json`, a published list, or the `splits.json` of another run."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from fomo_ssl.core.errors import TaskError
from fomo_ssl.downstream.splits import Split, read_splits
from fomo_ssl.downstream.tasks import Task


def given_splits(file: Path, task: Task) -> list[Split]:
    """Read splits that name the task's cases or subjects.

    Args:
        file: a JSON list. Entries with `train` and `val`, as nnU-Net writes them, or `train` and `test`, are the folds
            of a cross-validation: trained on the first, tested on the second. Those of a `splits.json` are kept.
        task: whose cases they are.

    Raises:
        TaskError: no such list, a name that the task does not have, or a subject that is both trained and tested on.
    """
    try:
        entries = json.loads(file.read_text())
    except (OSError, ValueError) as error:
        raise TaskError(f"cannot be read: {error}", where=file, way_out="Give a JSON list of splits") from error
    if not isinstance(entries, list) or not entries or not all(isinstance(entry, dict) for entry in entries):
        raise TaskError("is no list of splits", where=file, way_out='Give [{"train": [...], "val": [...]}, ...]')
    if "shots" in entries[0]:
        splits = read_splits(file)
    else:
        splits = [_fold(number, entry, task, file) for number, entry in enumerate(entries)]
    for split in splits:
        _check(split, task, file)
    return splits


def _fold(number: int, entry: Mapping[str, Any], task: Task, file: Path) -> Split:
    tested = entry.get("test", entry.get("val"))
    if not isinstance(entry.get("train"), list) or not isinstance(tested, list):
        raise TaskError(f"split {number} has no lists train and val", where=file, way_out="Name cases or subjects")
    train, test = (_cases(names, task, file) for names in (entry["train"], tested))
    subjects = {task[name].subject for name in train}
    return Split(len(subjects), 0, train, (), test, fold=number)


def _cases(names: Sequence[Any], task: Task, file: Path) -> tuple[str, ...]:
    of_subject: dict[str, list[str]] = {}
    for case in task.cases:
        of_subject.setdefault(case.subject, []).append(case.name)
    known = {case.name: [case.name] for case in task.cases}
    unknown = [str(name) for name in names if str(name) not in known and str(name) not in of_subject]
    if unknown:
        what = f"{len(unknown)} names are no cases of {task.name}, such as {unknown[0]}"
        raise TaskError(what, where=file, way_out=f"Its cases are called like {task.cases[0].name}")
    return tuple(dict.fromkeys(case for name in names for case in known.get(str(name)) or of_subject[str(name)]))


def _check(split: Split, task: Task, file: Path) -> None:
    names = (*split.train, *split.validation, *split.test)
    present = {case.name for case in task.cases}
    unknown = [name for name in names if name not in present]
    if unknown:
        raise TaskError(f"{unknown[0]} is no case of {task.name}", where=file, way_out="Are they of another task?")
    if not split.train or not split.test:
        raise TaskError(f"{split.name} trains or tests on nobody", where=file, way_out="Name at least one of each")
    trained = {task[name].subject for name in (*split.train, *split.validation)}
    both = sorted(trained & {task[name].subject for name in split.test})
    if both:
        raise TaskError(f"{both[0]} is trained and tested on in {split.name}", where=file, way_out="Split by subject")
