"""From finished units to scores that may be compared: methods, settings, intervals and verdicts."""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from fomo_ssl.downstream import scores
from fomo_ssl.downstream.bands import bands
from fomo_ssl.downstream.metrics import HIGHER_IS_BETTER
from fomo_ssl.downstream.permutation import holm
from fomo_ssl.downstream.scores import Predictions
from fomo_ssl.downstream.statistics import Interval
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


@dataclass(frozen=True)
class Row:
    """A line of `results.csv`: one metric of one method, as the mean over seeds.

    Attributes:
        dataset: `all`, or one dataset of several.
        difference: to the from-scratch twin, paired over subjects and on the seeds that both finished.
        band: of the target, such as `60-70`; empty for all of it.
        p, p_holm: of the paired permutation test, alone and in the family of all tested rows: those over all cases of
            the metrics by which methods are compared. None where nothing was tested.
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

    @property
    def overall(self) -> bool:
        """Whether the row is over all cases."""
        return self.dataset == ALL and not self.band

    @property
    def holds(self) -> bool:
        """Whether the difference holds after Holm's correction."""
        return self.p_holm is not None and self.p_holm <= LEVEL

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


def method_names(runs: Sequence[Run]) -> dict[tuple[str, str], str]:
    """What to call each arm of each run (path, init): as short as it can be with different things named differently."""
    encoders, bundles = _encoders(runs), _bundles(runs)
    names: dict[tuple[str, str], str] = {}
    called: Counter[tuple[object, ...]] = Counter()
    folders = Counter(run.path.name for run in runs)
    for run in runs:
        for init in {unit.init for unit in run.units}:
            detail = bundles[str(run.bundle)] if init == "pretrained" else encoders[str(run.path)]
            alike = len(bundles if init == "pretrained" else set(encoders.values())) < 2
            names[str(run.path), init] = init if alike else f"{init} {detail}"
            called[_same_task(run), names[str(run.path), init]] += 1
    for run in runs:
        for init in INITS:
            key = (str(run.path), init)
            if called[_same_task(run), names.get(key)] > 1:  # same start, other values of training
                names[key] += f" ({run.path.name if folders[run.path.name] == 1 else run.path})"
    return names


def _encoders(runs: Sequence[Run]) -> dict[str, str]:
    """The encoder of each run (path): its name, and the arguments in which encoders of that name differ."""
    of = {str(run.path): {"name": "?", **run.recipe.get("encoder", {})} for run in runs}
    labels = {}
    for path, encoder in of.items():
        alike = [other for other in of.values() if other["name"] == encoder["name"]]
        differing = [key for key in encoder if any(other.get(key) != encoder[key] for other in alike)]
        labels[path] = " ".join([str(encoder["name"]), *(f"{key}={_plain(encoder[key])}" for key in differing)])
    return labels


def _bundles(runs: Sequence[Run]) -> dict[str, str]:
    """The name of each bundle (path); of those that are called alike, with the folders that tell them apart."""
    of = {str(run.bundle): run for run in runs if run.bundle}
    names = {path: bundle_name(run) for path, run in of.items()}
    parts = {path: Path(path.removesuffix("/bundle")).parts for path in of}
    for depth in range(2, 1 + max(map(len, parts.values()), default=0)):
        alike = Counter(names.values())
        names |= {path: "/".join(parts[path][-depth:]) for path, name in names.items() if alike[name] > 1}
    return names


def _plain(value: object) -> str:
    return "-".join(map(str, value)) if isinstance(value, list | tuple) else str(value)


def _same_task(run: Run) -> tuple[str, str, int]:
    return str(run.recipe.get("task")), str(run.recipe.get("task_kind")), run.folds


def bundle_name(run: Run) -> str:
    """The pretraining run that made the bundle: `runs/x_mae_vit_s/bundle` -> `x_mae_vit_s`.

    Of several lengths, `runs/x_mae/samples_10000/bundle`, the length alone would name many: `x_mae samples_10000`.
    """
    assert run.bundle is not None
    if run.bundle.name != "bundle":
        return run.bundle.name
    folder = run.bundle.parent
    return f"{folder.parent.name} {folder.name}" if folder.name.startswith("samples_") else folder.name


def rows(found: Sequence[Setting]) -> list[Row]:
    """Every metric of every method: over all cases, within each dataset where there are several, and by band."""
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
                    Row(setting, arm, dataset, name, values[name], apart.get(name), p=tested.get(name))
                    for name in values
                ]
            result += _banded(setting, arm, twin)
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
        result += [Row(setting, arm, ALL, name, values[name], apart.get(name), band=band.label) for name in values]
    return result


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
