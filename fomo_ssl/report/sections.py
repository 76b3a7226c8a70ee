"""What the report shows of one task: figures, tables and cases, made from its settings."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from fomo_ssl.downstream.metrics import FURTHER, METRICS
from fomo_ssl.downstream.statistics import Interval
from fomo_ssl.report import figures
from fomo_ssl.report.cases import CasePicture, draw_cases
from fomo_ssl.report.results import ALL, Arm, Row, Setting
from fomo_ssl.report.runs import Unit

LABELS = {
    "dice": "Dice",
    "surface_dice": "surface Dice",
    "auroc": "AUROC",
    "mae": "mean absolute error",
    "pearson": "Pearson r",
    "volume_error": "volume error, ml",
    "average_precision": "average precision",
    "balanced_accuracy": "balanced accuracy",
    "brier": "Brier score",
    "ece": "calibration error",
    "bias": "bias",
}
_AXES = LABELS | {"mae": "MAE"}
_POINTS = 60
"""Points of a loss curve: the mean of each piece of the training, since single steps are noise."""


@dataclass(frozen=True)
class Section:
    """A task as the template shows it; figures are SVG text, empty where there is nothing to draw.

    Attributes:
        detail: label of the setting that agreement, ROC, bands and cases are shown for: the one with most training
            data.
        further: rows of the metrics that are described beside those that methods are compared by.
        bands: figures of the error in bands of the target.
        dataset_colours: of the points of a regression's agreement.
        ensembles: rows of the seeds as one model, each with the row of their mean.
        datasets: rows within each dataset.
        cases: pictures with captions, from the worst to the best.
    """

    task: str
    kind: str
    settings: Sequence[str]
    methods: Sequence[str]
    detail: str
    curves: Sequence[str]
    by_shots: Sequence[str]
    agreement: Sequence[str]
    dataset_colours: Mapping[str, str]
    further: Sequence[Row]
    bands: Sequence[str]
    ensembles: Sequence[tuple[Row, Row]]
    datasets: Sequence[Row]
    cases: Sequence[CasePicture]
    lost_cases: int


def section(found: Sequence[Setting], table: Sequence[Row], colours: Mapping[str, str]) -> Section:
    """The section of one task.

    Args:
        found: settings of the task, by amount of training data.
        table: rows of these settings.
        colours: by method.
    """
    last = found[-1]
    name = last.task
    cases, lost = draw_cases(last)
    return Section(
        task=name,
        kind=last.kind,
        settings=[setting.label for setting in found],
        methods=list(dict.fromkeys(arm.method for setting in found for arm in setting.arms)),
        detail=last.label,
        curves=_learning_curves(found, colours),
        by_shots=_by_shots(found, table, colours),
        agreement=_agreement(last, colours),
        dataset_colours=figures.dataset_colours(last.arms[0].seeds[0].datasets),
        further=_grouped([row for row in table if row.overall], found, FURTHER[last.kind]),
        bands=_by_band(last, table, colours),
        ensembles=_ensembles(table, found),
        datasets=_grouped([row for row in table if row.dataset != ALL], found, METRICS[last.kind]),
        cases=cases,
        lost_cases=lost,
    )


def _grouped(table: Sequence[Row], found: Sequence[Setting], metrics: Sequence[str]) -> list[Row]:
    """Rows of some metrics, by setting and dataset, the methods of one metric under each other."""
    order = {id(setting): i for i, setting in enumerate(found)}
    chosen = [row for row in table if row.metric in metrics]
    return sorted(chosen, key=lambda row: (order[id(row.setting)], row.dataset, metrics.index(row.metric)))


def _ensembles(table: Sequence[Row], found: Sequence[Setting]) -> list[tuple[Row, Row]]:
    """Rows of ensembles, each with that of the mean over seeds."""
    together = _grouped([row for row in table if row.members], found, METRICS[found[0].kind])
    mean = {(id(row.arm), row.metric): row for row in table if row.overall}
    return [(row, mean[id(row.arm), row.metric]) for row in together]


def _by_band(setting: Setting, table: Sequence[Row], colours: Mapping[str, str]) -> list[str]:
    """One figure a metric."""
    series: dict[str, dict[str, list[tuple[str, Interval]]]] = {}
    for row in table:
        if row.setting is setting and row.band:
            series.setdefault(row.metric, {}).setdefault(row.arm.method, []).append((row.band, row.score))
    return [
        figures.score_by_band(of_metric, colours, _AXES[metric], f"{setting.task} {metric} by band")
        for metric, of_metric in series.items()
    ]


def _learning_curves(found: Sequence[Setting], colours: Mapping[str, str]) -> list[str]:
    """The loss of each setting, and the validation score where there is one."""
    panels = []
    for setting in found:
        leading = METRICS[setting.kind][0]
        for column, label in (("loss", "loss"), ("validation", f"validation {_AXES[leading]}")):
            curves = [_curve(arm, column, colours[arm.method]) for arm in setting.arms]
            drawn = [curve for curve in curves if curve is not None]
            if drawn:
                panels.append(figures.Panel(setting.label, label, drawn, may_be_logarithmic=column == "loss"))
    return [
        figures.learning_curve(panel, f"{found[0].task} {found[0].kind} curve {i}") for i, panel in enumerate(panels)
    ]


def _curve(arm: Arm, column: str, colour: str) -> figures.Curve | None:
    """A column of the learning curves of an arm's units: their mean with the least and the greatest.

    In at most `_POINTS` pieces, up to the last step of the unit that stopped first.
    """
    pairs = [_known(unit, column) for unit in arm.units]
    pairs = [pair for pair in pairs if len(pair[0])]
    if not pairs:
        return None
    length = min(len(steps) for steps, _ in pairs)
    pieces = np.array_split(np.arange(length), min(_POINTS, length))
    steps = np.array([pairs[0][0][piece].mean() for piece in pieces])
    values = np.array([[of_unit[piece].mean() for piece in pieces] for _, of_unit in pairs])
    return figures.Curve(arm.method, colour, steps, values.mean(axis=0), values.min(axis=0), values.max(axis=0))


def _known(unit: Unit, column: str) -> tuple[np.ndarray, np.ndarray]:
    """Steps and values where the column has any."""
    rows = np.isfinite(unit.curve[column])
    return unit.curve["step"][rows], unit.curve[column][rows]


def _by_shots(found: Sequence[Setting], table: Sequence[Row], colours: Mapping[str, str]) -> list[str]:
    """One figure a metric, where there are several numbers of shots."""
    few_shot = [setting for setting in found if setting.shots]
    if len({setting.shots for setting in few_shot}) < 2:
        return []
    drawn = []
    for metric in METRICS[found[0].kind]:
        series: dict[str, list[Any]] = {}
        for row in table:
            if row.setting.shots and row.overall and row.metric == metric:
                series.setdefault(row.arm.method, []).append((row.setting.shots, row.score))
        drawn.append(figures.score_by_shots(series, colours, _AXES[metric], f"{found[0].task} {metric}"))
    return drawn


def _agreement(setting: Setting, colours: Mapping[str, str]) -> list[str]:
    """Predicted against true for regression, ROC for two classes."""
    name = f"{setting.task} {setting.kind} agreement"
    if setting.kind == "regression":
        panels = [
            figures.Points(
                arm.method,
                arm.seeds[0].columns["target"],
                np.mean([table.columns["prediction"] for table in arm.seeds], axis=0),
                arm.seeds[0].datasets,
            )
            for arm in setting.arms
        ]
        return figures.scatter(panels, "value", name)
    two_classes = not any(key.startswith("probability_") for key in setting.arms[0].seeds[0].columns)
    if setting.kind == "classification" and two_classes:
        curves = {
            arm.method: [(table.columns["prediction"], table.columns["target"]) for table in arm.seeds]
            for arm in setting.arms
        }
        return [figures.roc(curves, colours, name)]
    return []
