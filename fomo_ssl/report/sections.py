"""What the report shows of one task: figures, tables and cases, made from its settings."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from fomo_ssl.core.errors import RejectedScan
from fomo_ssl.downstream.metrics import METRICS
from fomo_ssl.imaging.nifti import Volume, read
from fomo_ssl.imaging.orientation import to_ras
from fomo_ssl.report import figures, pictures
from fomo_ssl.report.results import ALL, Arm, Row, Setting
from fomo_ssl.report.runs import Unit

LABELS = {
    "dice": "Dice",
    "surface_dice": "surface Dice",
    "auroc": "AUROC",
    "mae": "mean absolute error",
    "pearson": "Pearson r",
}
PICTURED = 3
"""Worst cases and best cases shown of a task."""

_AXES = LABELS | {"mae": "MAE"}
_POINTS = 60
"""Points of a loss curve: the mean of each piece of the training, since single steps are noise."""


@dataclass(frozen=True)
class Section:
    """A task as the template shows it; figures are SVG text, empty where there is nothing to draw.

    Attributes:
        detail: label of the setting that agreement, ROC and cases are shown for: the one with most training data.
        datasets: rows within each dataset.
        cases: pictures with captions, worst first.
    """

    task: str
    kind: str
    settings: Sequence[str]
    detail: str
    curves: str
    by_shots: Sequence[str]
    agreement: str
    datasets: Sequence[Row]
    cases: Sequence["CasePicture"]
    lost_cases: int


@dataclass(frozen=True)
class CasePicture:
    """A test case with outlines, and its Dice with both starts."""

    rank: str
    case: str
    method: str
    dice: float
    twin_dice: float | None
    address: str


def section(found: Sequence[Setting], table: Sequence[Row], colours: Mapping[str, str]) -> Section:
    """The section of one task.

    Args:
        found: settings of the task, by amount of training data.
        table: rows of these settings.
        colours: by method.
    """
    last = found[-1]
    name = last.task
    cases, lost = _cases(last)
    return Section(
        task=name,
        kind=last.kind,
        settings=[setting.label for setting in found],
        detail=last.label,
        curves=_learning_curves(found, colours),
        by_shots=_by_shots(found, table, colours),
        agreement=_agreement(last, colours),
        datasets=_by_dataset(found, table),
        cases=cases,
        lost_cases=lost,
    )


def _by_dataset(found: Sequence[Setting], table: Sequence[Row]) -> list[Row]:
    """Rows within each dataset, the methods of one metric under each other."""
    order = {id(setting): i for i, setting in enumerate(found)}
    metrics = METRICS[found[0].kind]
    inside = [row for row in table if row.dataset != ALL]
    return sorted(inside, key=lambda row: (order[id(row.setting)], row.dataset, metrics.index(row.metric)))


def _learning_curves(found: Sequence[Setting], colours: Mapping[str, str]) -> str:
    panels = []
    for setting in found:
        leading = METRICS[setting.kind][0]
        for column, label in (("loss", "loss"), ("validation", f"validation {_AXES[leading]}")):
            curves = [_curve(arm, column, colours[arm.method]) for arm in setting.arms]
            drawn = [curve for curve in curves if curve is not None]
            if drawn:
                panels.append(figures.Panel(setting.label, label, drawn))
    return figures.learning_curves(panels, f"{found[0].task} curves") if panels else ""


def _curve(arm: Arm, column: str, colour: str) -> figures.Curve | None:
    """A column of the learning curves of an arm's units: their mean with the least and the greatest."""
    reduced = [_reduced(unit, column) for unit in arm.units]
    reduced = [pair for pair in reduced if len(pair[0])]
    if not reduced:
        return None
    length = min(len(steps) for steps, _ in reduced)
    values = np.stack([values[:length] for _, values in reduced])
    steps = reduced[0][0][:length]
    return figures.Curve(arm.method, colour, steps, values.mean(axis=0), values.min(axis=0), values.max(axis=0))


def _reduced(unit: Unit, column: str) -> tuple[np.ndarray, np.ndarray]:
    """Steps and values where the column has any, in at most `_POINTS` pieces."""
    known = np.isfinite(unit.curve[column])
    steps, values = unit.curve["step"][known], unit.curve[column][known]
    pieces = np.array_split(np.arange(len(steps)), min(_POINTS, len(steps)) or 1)
    if not len(steps):
        return steps, values
    return np.array([steps[p].mean() for p in pieces]), np.array([values[p].mean() for p in pieces])


def _by_shots(found: Sequence[Setting], table: Sequence[Row], colours: Mapping[str, str]) -> list[str]:
    """One figure a metric, where there are several numbers of shots."""
    few_shot = [setting for setting in found if setting.shots]
    if len({setting.shots for setting in few_shot}) < 2:
        return []
    drawn = []
    for metric in METRICS[found[0].kind]:
        series: dict[str, list[Any]] = {}
        for row in table:
            if row.setting.shots and (row.dataset, row.metric) == (ALL, metric):
                series.setdefault(row.arm.method, []).append((row.setting.shots, row.score))
        drawn.append(figures.score_by_shots(series, colours, _AXES[metric], f"{found[0].task} {metric}"))
    return drawn


def _agreement(setting: Setting, colours: Mapping[str, str]) -> str:
    """Predicted against true for regression, ROC for two classes."""
    name = f"{setting.task} agreement"
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
        return figures.roc(curves, colours, name)
    return ""


def _cases(setting: Setting) -> tuple[list[CasePicture], int]:
    """The worst and the best cases of the first arm's first seed, and how many could not be drawn."""
    if setting.kind != "segmentation":
        return [], 0
    arm, drawn, lost = setting.arms[0], list[CasePicture](), 0
    twin = setting.twin(arm)
    for rank, entries in pictured(arm).items():
        for unit, entry in entries:
            address = _draw(unit.folder, entry)
            if address is None:
                lost += 1
                continue
            other = None if twin is None else _dice_in(twin, unit, entry["case"])
            drawn.append(CasePicture(rank, entry["case"], arm.method, entry["dice"], other, address))
    return drawn, lost


def pictured(arm: Arm) -> dict[str, list[tuple[Unit, Mapping[str, Any]]]]:
    """The worst and the best cases of an arm's first seed; each fold kept masks of its own, the extremes are shown."""
    first = min(unit.result["seed"] for unit in arm.units)
    units = [unit for unit in arm.units if unit.result["seed"] == first]
    found = {}
    for rank, sign in (("worst", 1), ("best", -1)):
        entries = [(unit, entry) for unit in units for entry in unit.result["pictures"].get(rank, ())]
        found[rank] = sorted(entries, key=lambda pair: sign * pair[1]["dice"])[:PICTURED]
    return found


def _draw(folder: Path, entry: Mapping[str, Any]) -> str | None:
    """The picture of a case; None where a file has moved since or does not fit the others."""
    try:
        image, truth, prediction = (
            to_ras(read(path)) for path in (entry["image"], entry["label"], folder / entry["prediction"])
        )
    except RejectedScan:
        return None
    if not image.data.shape == truth.data.shape == prediction.data.shape:
        return None
    return pictures.case_picture(image.data, _classes(truth), _classes(prediction), image.spacing)


def _classes(mask: Volume) -> np.ndarray:
    classes: np.ndarray = np.rint(mask.data).astype(np.int32)
    return classes


def _dice_in(arm: Arm, unit: Unit, case: str) -> float | None:
    """Dice of a case in the unit of another arm with the same split."""
    same = ("shots", "seed", "fold")
    for other in arm.units:
        if all(other.result[key] == unit.result[key] for key in same) and case in other.predictions.cases:
            return float(other.predictions.columns["dice"][other.predictions.cases.index(case)])
    return None
