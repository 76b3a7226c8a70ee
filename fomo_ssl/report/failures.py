"""What a report does not hold and why: units, cases and twins that are missing."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from fomo_ssl.downstream.checks import some
from fomo_ssl.report.results import Setting
from fomo_ssl.report.runs import INITS, Run, Unit


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
    return [failure for run in runs for failure in _of_run(run, alone.get(str(run.path), []))]


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
