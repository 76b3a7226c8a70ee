"""Methods as they may be compared: each with its finished units, beside those that were tested on the same cases."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from fomo_ssl.downstream import scores
from fomo_ssl.downstream.scores import Predictions
from fomo_ssl.report.names import method_names
from fomo_ssl.report.runs import INITS, Ensemble, Run, Unit
from fomo_ssl.report.tasks import task_names


@dataclass(frozen=True)
class Arm:
    """One method in one setting: its finished units and, by seed, its predictions of every test case.

    A seed of a cross-validation whose folds are not all finished has units here and no table.
    """

    run: Run
    method: str
    init: str
    units: Sequence[Unit]
    tables: Mapping[int, Predictions]

    @property
    def seeds(self) -> list[Predictions]:
        return list(self.tables.values())

    @cached_property
    def ensemble(self) -> Ensemble | None:
        """All seeds as one model; None of one seed, of seeds with other test cases, and of masks not tested so."""
        first = self.seeds[0]
        if len(self.tables) < 2 or any(table.cases != first.cases for table in self.seeds):
            return None
        if first.kind != "segmentation":
            return Ensemble(list(self.tables), scores.ensemble(self.seeds))
        shots = 0 if self.run.folds else int(self.units[0].result["shots"])
        tested = self.run.ensembles.get((shots, self.init))
        return tested if tested is not None and tested.predictions.cases == first.cases else None

    @property
    def tested_on(self) -> set[str]:
        """Datasets of the test cases; empty where they have no names."""
        return set(self.seeds[0].datasets) - {""}

    @property
    def in_domain(self) -> bool:
        """Whether some training cases are of a dataset that is tested."""
        return bool(self.tested_on & set(self.run.trained_on))

    @property
    def out_of_domain(self) -> bool:
        """Whether all training cases are of other datasets than those that are tested."""
        return bool(self.tested_on and self.run.trained_on) and not self.in_domain


@dataclass(frozen=True)
class Setting:
    """A task with an amount of training data, and every method that was tested there on the same cases.

    Attributes:
        task: its name, see `task_names`.
        shots: training subjects; 0 for cross-validation.
        label: `5 shots` or `5-fold cross-validation`.
    """

    task: str
    kind: str
    shots: int
    label: str
    arms: Sequence[Arm]

    def twin(self, arm: Arm) -> Arm | None:
        """The from-scratch arm of the same run, else of one that differs in the bundle alone, of equal splits first."""
        if arm.init == "scratch":
            return None
        scratch = [other for other in self.arms if other.init == "scratch" and arm.run.same_but_bundle(other.run)]
        own = list(arm.run.splits)
        return min(scratch, key=lambda o: (o.run is not arm.run, list(o.run.splits) != own), default=None)

    def controls(self, arm: Arm) -> list[Arm]:
        """For a pretrained arm that saw no label of the tested datasets: from-scratch arms that were trained there.

        They were trained with the same values and tested on the same cases; one for each choice of training datasets.
        """
        if arm.init == "scratch" or not arm.out_of_domain:
            return []
        found: dict[tuple[str, ...], Arm] = {}
        for other in self.arms:
            seeds = arm.tables.keys() & other.tables.keys()
            if other.init == "scratch" and other.in_domain and seeds and not arm.run.other_values(other.run):
                found.setdefault(other.run.trained_on, other)
        return list(found.values())


def settings(runs: Sequence[Run]) -> list[Setting]:
    """All settings of the runs, by task, then few-shot by shots, then cross-validation.

    Runs with the same test cases and labels share a setting; those with others are kept apart.
    """
    names, tasks = method_names(runs), task_names(runs)
    groups: dict[tuple[str, str, bool, int, str, tuple[str, ...], tuple[float, ...]], list[Arm]] = {}
    for run in runs:
        for (shots, init), units in _arms(run).items():
            tables = _tables(units, run.folds)
            if not tables:
                continue
            first = units[0].result
            label = f"{shots} shot{'s' if shots > 1 else ''}" if shots else f"{run.folds}-fold cross-validation"
            table = next(iter(tables.values()))
            labels = tuple(table.columns.get("target", np.empty(0)).tolist())
            key = (tasks[str(run.path)], first["kind"], not shots, shots, label, table.cases, labels)
            groups.setdefault(key, []).append(Arm(run, names[str(run.path), init], init, units, tables))
    return [
        Setting(task, kind, shots, label, arms)
        for (task, kind, _, shots, label, _, _), arms in sorted(groups.items(), key=lambda item: item[0])
    ]


def _arms(run: Run) -> dict[tuple[int, str], list[Unit]]:
    """Finished units by (shots, init), pretrained first; 0 shots stands for cross-validation."""
    arms: dict[tuple[int, str], list[Unit]] = {}
    for init in INITS:
        for unit in run.units:
            if unit.init == init:
                shots = int(unit.result["shots"]) if unit.result["fold"] is None else 0
                arms.setdefault((shots, init), []).append(unit)
    return arms


def _tables(units: Sequence[Unit], folds: int) -> dict[int, Predictions]:
    """Predictions by seed, the folds of a seed joined; seeds that lack folds are left out."""
    parts: dict[int, list[Predictions]] = {}
    for unit in units:
        parts.setdefault(int(unit.result["seed"]), []).append(unit.predictions)
    return {seed: scores.concatenate(of) for seed, of in sorted(parts.items()) if len(of) == max(folds, 1)}
