"""Which test cases the report shows, and their pictures: outlines of masks, or the middle of a scan and its numbers."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from fomo_ssl.core.errors import RejectedScan
from fomo_ssl.downstream.scores import Predictions
from fomo_ssl.imaging.nifti import Volume, read
from fomo_ssl.imaging.orientation import to_ras
from fomo_ssl.report import pictures
from fomo_ssl.report.planes import three_planes
from fomo_ssl.report.results import Arm, Setting
from fomo_ssl.report.runs import Unit

RANKS = ("worst", "median", "best")
PICTURED = 3
"""Cases shown of each."""


@dataclass(frozen=True)
class CasePicture:
    """A test case as a picture, and what was predicted with both starts.

    Attributes:
        truth: class or number; None for segmentation.
        value: Dice, the probability of the true class, or the number that was predicted.
        twin_value: that of the from-scratch twin, where there is one.
    """

    rank: str
    case: str
    method: str
    truth: float | None
    value: float
    twin_value: float | None
    address: str


def draw_cases(setting: Setting) -> tuple[list[CasePicture], int]:
    """The worst, median and best cases of the first arm's first seed, and how many could not be drawn."""
    arm, drawn, lost = setting.arms[0], list[CasePicture](), 0
    twin = setting.twin(arm)
    for rank, entries in pictured(arm).items():
        for unit, entry in entries:
            address = _outlined(unit.folder, entry) if "prediction" in entry else _middle(entry)
            if address is None:
                lost += 1
                continue
            case, table = entry["case"], unit.predictions
            truth = None if "target" not in table.columns else float(table.columns["target"][table.cases.index(case)])
            other = None if twin is None else _value_in(twin, unit, case)
            drawn.append(CasePicture(rank, case, arm.method, truth, _value(table, case), other, address))
    return drawn, lost


def pictured(arm: Arm) -> dict[str, list[tuple[Unit, Mapping[str, Any]]]]:
    """The worst, the median and the best cases of an arm's first seed, each case once.

    Each fold kept some of its own cases; those at the extremes and nearest the median of all folds are shown. Runs from
    before kept none of the median, or of classes and numbers none at all.
    """
    first = min(unit.result["seed"] for unit in arm.units)
    units = [unit for unit in arm.units if unit.result["seed"] == first]
    all_errors = np.concatenate([unit.predictions.errors for unit in units])
    middle = float(np.median(all_errors))
    distance = {"worst": lambda e: -e, "best": lambda e: e, "median": lambda e: abs(e - middle)}
    count = max(1, min(PICTURED, len(all_errors) // len(RANKS)))
    found: dict[str, list[tuple[Unit, Mapping[str, Any]]]] = {rank: [] for rank in RANKS}
    shown: set[str] = set()
    for rank in ("worst", "best", "median"):
        entries = [(unit, entry) for unit in units for entry in unit.result["pictures"].get(rank, ())]
        # A case that has lost its row is listed as missing.
        kept = [(unit, entry) for unit, entry in entries if entry["case"] in unit.predictions.cases]
        fresh = [pair for pair in kept if pair[1]["case"] not in shown]
        found[rank] = sorted(fresh, key=lambda pair: distance[rank](_error(*pair)))[:count]
        shown |= {entry["case"] for _, entry in found[rank]}
    return found


def _outlined(folder: Path, entry: Mapping[str, Any]) -> str | None:
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


def _middle(entry: Mapping[str, Any]) -> str | None:
    """The middle slices of a case's first scan; None where the file has moved since."""
    try:
        image = to_ras(read(Path(entry["image"])))
    except RejectedScan:
        return None
    x, y, z = (size // 2 for size in image.data.shape)
    return three_planes(image.data, image.spacing, (x, y, z))


def _error(unit: Unit, entry: Mapping[str, Any]) -> float:
    return float(unit.predictions.errors[unit.predictions.cases.index(entry["case"])])


def _value(table: Predictions, case: str) -> float:
    """What a caption says of a case, see `CasePicture`."""
    row = table.cases.index(case)
    if table.kind == "segmentation":
        return float(table.columns["dice"][row])
    if table.kind == "regression":
        return float(table.columns["prediction"][row])
    return 1.0 - float(table.errors[row])


def _value_in(arm: Arm, unit: Unit, case: str) -> float | None:
    """That of a case in the unit of another arm with the same split."""
    same = ("shots", "seed", "fold")
    for other in arm.units:
        if all(other.result[key] == unit.result[key] for key in same) and case in other.predictions.cases:
            return _value(other.predictions, case)
    return None
