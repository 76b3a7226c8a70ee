"""What a report does not hold and why: units, cases and twins that are missing."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from fomo_ssl.downstream.checks import some
from fomo_ssl.report.results import Arm, Setting
from fomo_ssl.report.runs import INITS, Run, Unit
from fomo_ssl.report.tasks import task_names


@dataclass(frozen=True)
class Failure:
    """Something that is missing: what, in which run, and which ones or why."""

    what: str
    run: str
    detail: str


def failures(runs: Sequence[Run], found: Sequence[Setting]) -> list[Failure]:
    """Everything that the runs planned and that no score knows of.

    Args:
        runs: all runs of the report.
        found: their settings.
    """
    alone: dict[str, list[str]] = {}
    for setting in found:
        for arm in setting.arms:
            if arm.init == "pretrained" and setting.twin(arm) is None:
                alone.setdefault(str(arm.run.path), []).append(setting.label)
    tasks = task_names(runs)
    of_task: dict[tuple[object, object], list[Run]] = {}
    for run in runs:
        of_task.setdefault((tasks[str(run.path)], run.recipe.get("task_kind")), []).append(run)
    others = {str(run.path): group for group in of_task.values() for run in group}
    return [
        failure
        for run in runs
        for failure in (
            *_of_run(run, alone.get(str(run.path), [])),
            *_not_compared(run, others[str(run.path)], found),
        )
    ]


def _of_run(run: Run, without_twin: Sequence[str]) -> Iterator[Failure]:
    path = str(run.path)
    inits = [init for init in INITS if any(unit.init == init for unit in run.units)]
    if without_twin:
        detail = "nothing says what the same model reaches from scratch"
        yield Failure("no twin", path, f"{', '.join(without_twin)}: {detail}")
    if run.unfinished:
        detail = f"{run.unfinished} of {len(run.units) + run.unfinished}"
        yield Failure("units not finished", path, f"{detail}: {some(_missing_units(run))}")
    if run.folds:
        for init in inits:
            seeds = _incomplete_seeds(run, init)
            if seeds:
                detail = f"{init}, seed {', '.join(map(str, seeds))}: not every fold is finished"
                yield Failure("seeds left out", path, detail)
    lacking = {case: None for unit in run.units for case in _unpredicted(run, unit)}
    if lacking:
        yield Failure("cases without a prediction", path, f"{len(lacking)}: {some(list(lacking))}")


def _not_compared(run: Run, runs: Sequence[Run], found: Sequence[Setting]) -> Iterator[Failure]:
    """Of a run that was not trained on the tested datasets: those of its task that were and are no control; and why."""
    reasons: dict[str, list[str]] = {}
    for setting in found:
        for arm in setting.arms:
            if arm.run is not run or arm.init == "scratch" or not arm.out_of_domain:
                continue
            compared = {control.run.trained_on for control in setting.controls(arm)}
            for other in runs:
                if other.trained_on not in compared and _saw(other, arm):
                    reason = f"not with {other.path}, {_why_not(setting, arm, other, found)}"
                    reasons.setdefault(reason, []).append(setting.label)
    for reason, labels in reasons.items():
        yield Failure("no in-domain control", str(run.path), f"{', '.join(labels)}: {reason}")
    if "trained_on" not in run.record and any(_other_training(run, other) for other in runs):
        detail = "which datasets it was trained on is not recorded; the same finetuning with resume=auto records it"
        yield Failure("no in-domain control", str(run.path), detail)


def _why_not(setting: Setting, arm: Arm, other: Run, found: Sequence[Setting]) -> str:
    there = [
        (place, control)
        for place in found
        for control in place.arms
        if control.run is other and control.init == "scratch" and place.shots == setting.shots
    ]
    of_setting = [control for place, control in there if place is setting]
    if not there:
        return "which has no from-scratch units finished there"
    if not of_setting:
        return "which was tested on other cases: give both runs the same test_on and n_test"
    if different := arm.run.other_values(other):
        return f"which has other values of {', '.join(different)}"
    return "with which it has no seed in common"


def _saw(run: Run, arm: Arm) -> bool:
    """Whether a run was trained on datasets that an arm is tested on."""
    return bool(arm.tested_on & set(run.trained_on))


def _other_training(run: Run, other: Run) -> bool:
    """Whether two runs of one task, whose cases have named datasets, had other training cases in a split."""
    if not any(name for unit in run.units for name in unit.predictions.datasets):
        return False
    mine, theirs = ({_split_name(split): split.get("train") for split in r.splits} for r in (run, other))
    return any(mine[name] != theirs[name] for name in mine.keys() & theirs.keys())


def _missing_units(run: Run) -> list[str]:
    done = {unit.folder.name for unit in run.units}
    planned = [f"{_split_name(split)}_{init}" for split in run.splits for init in INITS if init in run.inits]
    return [name for name in planned if name not in done]


def _split_name(split: Mapping[str, Any]) -> str:
    part = f"shots{split['shots']}" if split.get("fold") is None else f"fold{split['fold']}"
    return f"{part}_seed{split['seed']}"


def _incomplete_seeds(run: Run, init: str) -> list[int]:
    folds: dict[int, int] = {}
    for unit in run.units:
        if unit.init == init:
            folds[int(unit.result["seed"])] = folds.get(int(unit.result["seed"]), 0) + 1
    return sorted(seed for seed, count in folds.items() if count < run.folds)


def _unpredicted(run: Run, unit: Unit) -> list[str]:
    """Test cases of a unit's split without a row, and rows without a number."""
    keys = ("shots", "seed", "fold")
    planned = next(
        (split.get("test", ()) for split in run.splits if all(split.get(k) == unit.result[k] for k in keys)), ()
    )
    table = unit.predictions
    known = np.all([np.isfinite(column) for column in table.columns.values()], axis=0)
    predicted = {case for case, fine in zip(table.cases, known, strict=True) if fine}
    return [case for case in dict.fromkeys((*planned, *table.cases)) if case not in predicted]
