"""From finished units to scores that may be compared: methods, settings, intervals and verdicts."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np

from fomo_ssl.downstream import scores
from fomo_ssl.downstream.bands import bands
from fomo_ssl.downstream.metrics import HIGHER_IS_BETTER
from fomo_ssl.downstream.permutation import holm
from fomo_ssl.downstream.scores import Predictions
from fomo_ssl.downstream.statistics import Interval
from fomo_ssl.report.names import method_names
from fomo_ssl.report.runs import INITS, Run, Unit

BETTER, WORSE, UNCLEAR = "better", "worse", "no clear difference"
ALL = "all"
LEVEL = 0.05
"""Below it, p after Holm's correction says that a difference holds for the family of all comparisons."""


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
            if other.init == "scratch" and other.in_domain and seeds and arm.run.same_values(other.run):
                found.setdefault(other.run.trained_on, other)
        return list(found.values())


@dataclass(frozen=True)
class Row:
    """A line of `results.csv`: one metric of one method, as the mean over seeds.

    Attributes:
        dataset: `all`, or one dataset of several.
        difference: to `against`, paired over subjects and on the seeds that both finished.
        band: of the target, such as `60-70`; empty for all of it.
        p, p_holm: of the paired permutation test, alone and in the family of all tested rows: those over all cases of
            the metrics by which methods are compared. None where nothing was tested.
        against: the from-scratch twin, or an in-domain control; None where there is none.
        in_domain: whether it is such a control: the row then repeats the method's score for the sake of the difference.
    """

    setting: Setting
    arm: Arm
    dataset: str
    metric: str
    score: Interval
    difference: Interval | None
    band: str = ""
    p: float | None = None
    p_holm: float | None = None
    against: Arm | None = None
    in_domain: bool = False

    @property
    def overall(self) -> bool:
        """Whether the row is over all cases, and not there for an in-domain control."""
        return self.dataset == ALL and not self.band and not self.in_domain

    @property
    def holds(self) -> bool:
        """Whether the difference holds after Holm's correction."""
        return self.p_holm is not None and self.p_holm <= LEVEL

    @property
    def verdict(self) -> str:
        """What the difference says in words; empty where there is none."""
        return "" if self.difference is None else verdict(self.difference, self.metric)


def verdict(difference: Interval, metric: str) -> str:
    """`better` or `worse` where the whole interval lies on one side of zero, else `no clear difference`."""
    sign = 1 if HIGHER_IS_BETTER[metric] else -1
    least, most = sorted((sign * difference.low, sign * difference.high))
    return BETTER if least > 0 else WORSE if most < 0 else UNCLEAR


def settings(runs: Sequence[Run]) -> list[Setting]:
    """All settings of the runs, by task, then few-shot by shots, then cross-validation.

    Runs with the same test cases and labels share a setting; those with others are kept apart.
    """
    names = method_names(runs)
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
            key = (first["task"], first["kind"], not shots, shots, label, table.cases, labels)
            groups.setdefault(key, []).append(Arm(run, names[str(run.path), init], init, units, tables))
    return [
        Setting(task, kind, shots, label, arms)
        for (task, kind, _, shots, label, _, _), arms in sorted(groups.items(), key=lambda item: item[0])
    ]


def rows(found: Sequence[Setting]) -> list[Row]:
    """Every metric of every method: over all cases, within each dataset where there are several, by band, and once more
    beside each in-domain control."""
    result = []
    for setting in found:
        for arm in setting.arms:
            twin = setting.twin(arm)
            for dataset in _datasets(arm):
                own, other = _of(arm, dataset), _of(twin, dataset) if twin is not None else {}
                both = [seed for seed in own if seed in other]
                pairs = [own[seed] for seed in both], [other[seed] for seed in both]
                tested = scores.p_values(*pairs) if both and dataset == ALL else {}
                values, apart = _scores(list(own.values()), pairs)
                result += [
                    Row(
                        *(setting, arm, dataset, name, values[name], apart.get(name)),
                        p=tested.get(name),
                        against=twin if name in apart else None,
                    )
                    for name in values
                ]
            result += _banded(setting, arm, twin)
            result += [row for control in setting.controls(arm) for row in _in_domain(setting, arm, control)]
    adjusted = iter(holm([row.p for row in result if row.p is not None]))
    return [row if row.p is None else replace(row, p_holm=next(adjusted)) for row in result]


def _scores(
    own: Sequence[Predictions], pairs: tuple[Sequence[Predictions], Sequence[Predictions]]
) -> tuple[dict[str, Interval], dict[str, Interval]]:
    """Every metric that all tables have, and the differences of those that point somewhere."""
    shared = [name for name in own[0].metrics if all(name in table.metrics for table in (*own, *pairs[1]))]
    pointing = [name for name in shared if name in HIGHER_IS_BETTER]
    return scores.intervals(own, shared), scores.differences(*pairs, pointing) if pairs[0] else {}


def _banded(setting: Setting, arm: Arm, twin: Arm | None) -> list[Row]:
    """The error of a regression in each band of the target."""
    if setting.kind != "regression":
        return []
    result = []
    for band in bands(arm.seeds[0].columns["target"]):
        rows_of = band.rows(arm.seeds[0].columns["target"])
        own = {seed: table.take(rows_of) for seed, table in arm.tables.items()}
        other = {seed: table.take(rows_of) for seed, table in (twin.tables if twin is not None else {}).items()}
        both = [seed for seed in own if seed in other]
        apart = scores.differences([own[s] for s in both], [other[s] for s in both], ["mae"]) if both else {}
        values = scores.intervals(list(own.values()), ["mae", "bias"])
        result += [
            Row(
                *(setting, arm, ALL, name, values[name], apart.get(name), band.label),
                against=twin if name in apart else None,
            )
            for name in values
        ]
    return result


def _in_domain(setting: Setting, arm: Arm, control: Arm) -> list[Row]:
    """The difference to a model that was trained on the tested datasets themselves, by the metrics that are tested."""
    both = [seed for seed in arm.tables if seed in control.tables]
    pairs = [arm.tables[seed] for seed in both], [control.tables[seed] for seed in both]
    values, apart, tested = scores.intervals(arm.seeds), scores.differences(*pairs), scores.p_values(*pairs)
    return [
        Row(setting, arm, ALL, name, values[name], apart[name], p=tested[name], against=control, in_domain=True)
        for name in values
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


def _datasets(arm: Arm) -> list[str]:
    names = sorted(set(arm.seeds[0].datasets))
    return [ALL, *names] if len(names) > 1 else [ALL]


def _of(arm: Arm, dataset: str) -> dict[int, Predictions]:
    if dataset == ALL:
        return dict(arm.tables)
    return {seed: scores.of_dataset(table, dataset) for seed, table in arm.tables.items()}
