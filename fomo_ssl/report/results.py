"""From finished units to scores that may be compared: methods, settings, intervals and verdicts."""

import csv
import io
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from fomo_ssl.downstream import scores
from fomo_ssl.downstream.metrics import HIGHER_IS_BETTER, METRICS
from fomo_ssl.downstream.scores import Predictions
from fomo_ssl.downstream.statistics import Interval
from fomo_ssl.report.runs import INITS, Run, Unit

BETTER, WORSE, UNCLEAR = "better", "worse", "no clear difference"
ALL = "all"


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
        """The from-scratch arm of the same run."""
        if arm.init == "scratch":
            return None
        return next((a for a in self.arms if a.run is arm.run and a.init == "scratch"), None)


@dataclass(frozen=True)
class Row:
    """A line of `results.csv`: one metric of one method, as the mean over seeds.

    Attributes:
        dataset: `all`, or one dataset of several.
        difference: to the from-scratch twin, paired over subjects and on the seeds that both finished.
    """

    setting: Setting
    arm: Arm
    dataset: str
    metric: str
    score: Interval
    difference: Interval | None

    @property
    def verdict(self) -> str:
        """What the difference says in words; empty where there is no twin."""
        return "" if self.difference is None else verdict(self.difference, self.metric)


def verdict(difference: Interval, metric: str) -> str:
    """`better` or `worse` where the whole interval lies on one side of zero, else `no clear difference`."""
    sign = 1 if HIGHER_IS_BETTER[metric] else -1
    least, most = sorted((sign * difference.low, sign * difference.high))
    return BETTER if least > 0 else WORSE if most < 0 else UNCLEAR


def settings(runs: Sequence[Run]) -> list[Setting]:
    """All settings of the runs, by task, then few-shot by shots, then cross-validation.

    Runs with the same test cases share a setting; those with others are kept apart.
    """
    names = method_names(runs)
    groups: dict[tuple[str, str, bool, int, str, tuple[str, ...]], list[Arm]] = {}
    for run in runs:
        for (shots, init), units in _arms(run).items():
            tables = _tables(units, run.folds)
            if not tables:
                continue
            first = units[0].result
            label = f"{shots} shot{'s' if shots > 1 else ''}" if shots else f"{run.folds}-fold cross-validation"
            key = (first["task"], first["kind"], not shots, shots, label, next(iter(tables.values())).cases)
            groups.setdefault(key, []).append(Arm(run, names[str(run.path), init], init, units, tables))
    return [
        Setting(task, kind, shots, label, arms)
        for (task, kind, _, shots, label, _), arms in sorted(groups.items(), key=lambda item: item[0])
    ]


def method_names(runs: Sequence[Run]) -> dict[tuple[str, str], str]:
    """What to call each arm of each run (path, init): as short as it can be with different things named differently."""
    encoders = {_encoder(run) for run in runs}
    bundles = {str(run.bundle) for run in runs if run.bundle}
    names: dict[tuple[str, str], str] = {}
    called: Counter[tuple[object, ...]] = Counter()
    for run in runs:
        for init in {unit.init for unit in run.units}:
            detail = bundle_name(run) if init == "pretrained" else _encoder(run)
            alike = len(bundles if init == "pretrained" else encoders) < 2
            names[str(run.path), init] = init if alike else f"{init} {detail}"
            called[_same_task(run), names[str(run.path), init]] += 1
    for run in runs:
        for init in INITS:
            key = (str(run.path), init)
            if called[_same_task(run), names.get(key)] > 1:  # same start, other values of training
                names[key] += f" ({run.path.name})"
    return names


def _encoder(run: Run) -> str:
    return str(run.recipe.get("encoder", {}).get("name", "?"))


def _same_task(run: Run) -> tuple[str, int]:
    return str(run.recipe.get("task")), run.folds


def bundle_name(run: Run) -> str:
    """The pretraining run that made the bundle: `runs/x_mae_vit_s/bundle` -> `x_mae_vit_s`."""
    assert run.bundle is not None
    return run.bundle.parent.name if run.bundle.name == "bundle" else run.bundle.name


def rows(found: Sequence[Setting]) -> list[Row]:
    """Every metric of every method, over all cases and within each dataset where there are several."""
    result = []
    for setting in found:
        for arm in setting.arms:
            twin = setting.twin(arm)
            for dataset in _datasets(arm):
                own = _of(arm, dataset)
                both = [seed for seed in own if twin is not None and seed in twin.tables]
                other = _of(twin, dataset) if twin is not None else {}
                apart = scores.differences([own[s] for s in both], [other[s] for s in both]) if both else {}
                values = scores.intervals(list(own.values()))
                result += [Row(setting, arm, dataset, name, values[name], apart.get(name)) for name in values]
    return result


def to_csv(table: Sequence[Row]) -> str:
    """The text of `results.csv`; empty fields where there is no twin."""
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    head = "task kind training shots dataset metric method init run mean low high subjects seeds"
    writer.writerow([*head.split(), "difference", "difference_low", "difference_high", "verdict"])
    for row in table:
        s, a, d = row.setting, row.arm, row.difference
        apart = ["", "", ""] if d is None else [f"{x:.6g}" for x in (d.value, d.low, d.high)]
        ids = [s.task, s.kind, s.label, s.shots or "", row.dataset, row.metric, a.method, a.init, str(a.run.path)]
        numbers = [f"{x:.6g}" for x in (row.score.value, row.score.low, row.score.high)]
        writer.writerow([*ids, *numbers, row.score.n, len(a.tables), *apart, row.verdict])
    return out.getvalue()


def ranking(found: Sequence[Setting], table: Sequence[Row]) -> list[tuple[str, float, dict[str, float]]]:
    """Mean rank of each method as in FOMO25, best first: (method, overall, rank by setting).

    In a setting methods are ranked by each metric (equal scores share the mean of their places), and the ranks of the
    metrics are averaged; overall is the mean over settings. A method that is missing in a setting gets the number of
    methods there + 1. Scores that are not defined come last.
    """
    methods = list(dict.fromkeys(arm.method for setting in found for arm in setting.arms))
    ranks: dict[str, dict[str, float]] = {method: {} for method in methods}
    for setting in found:
        present = [arm.method for arm in setting.arms]
        per_metric = []
        for metric in METRICS[setting.kind]:
            of = {
                r.arm.method: r.score.value
                for r in table
                if r.setting is setting and (r.dataset, r.metric) == (ALL, metric)
            }
            sign = -1.0 if HIGHER_IS_BETTER[metric] else 1.0
            per_metric.append(mean_places(np.nan_to_num([sign * of[name] for name in present], nan=np.inf)))
        mean = np.mean(per_metric, axis=0)
        for method in methods:
            here = float(mean[present.index(method)]) if method in present else len(present) + 1.0
            ranks[method][f"{setting.task}, {setting.label}"] = here
    overall = [(method, float(np.mean(list(of.values()))), of) for method, of in ranks.items()]
    return sorted(overall, key=lambda item: item[1])


def mean_places(values: np.ndarray) -> np.ndarray:
    """Places from 1 for the smallest; equal values share the mean of their places."""
    smaller = (values[None] < values[:, None]).sum(axis=1)
    equal = (values[None] == values[:, None]).sum(axis=1)
    places: np.ndarray = smaller + (equal + 1) / 2
    return places


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
