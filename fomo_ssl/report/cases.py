"""Which test cases of a segmentation the report shows, and their pictures."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from fomo_ssl.core.errors import RejectedScan
from fomo_ssl.imaging.nifti import Volume, read
from fomo_ssl.imaging.orientation import to_ras
from fomo_ssl.report import pictures
from fomo_ssl.report.results import Arm, Setting
from fomo_ssl.report.runs import Unit

RANKS = ("worst", "median", "best")
PICTURED = 3
"""Cases shown of each."""


@dataclass(frozen=True)
class CasePicture:
    """A test case with outlines, and its Dice with both starts."""

    rank: str
    case: str
    method: str
    dice: float
    twin_dice: float | None
    address: str


def draw_cases(setting: Setting) -> tuple[list[CasePicture], int]:
    """The worst, median and best cases of the first arm's first seed, and how many could not be drawn."""
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
    """The worst, the median and the best cases of an arm's first seed, each case once.

    Each fold kept masks of its own cases; those at the extremes and nearest the median of all folds are shown. Runs
    from before kept none of the median.
    """
    first = min(unit.result["seed"] for unit in arm.units)
    units = [unit for unit in arm.units if unit.result["seed"] == first]
    all_dice = np.concatenate([unit.predictions.columns["dice"] for unit in units])
    distance = {"worst": lambda d: d, "best": lambda d: -d, "median": lambda d: abs(d - float(np.median(all_dice)))}
    count = max(1, min(PICTURED, len(all_dice) // len(RANKS)))
    found: dict[str, list[tuple[Unit, Mapping[str, Any]]]] = {rank: [] for rank in RANKS}
    shown: set[str] = set()
    for rank in ("worst", "best", "median"):
        entries = [(unit, entry) for unit in units for entry in unit.result["pictures"].get(rank, ())]
        fresh = [pair for pair in entries if pair[1]["case"] not in shown]
        found[rank] = sorted(fresh, key=lambda pair: distance[rank](pair[1]["dice"]))[:count]
        shown |= {entry["case"] for _, entry in found[rank]}
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
