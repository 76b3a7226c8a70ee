"""What a report needs to draw a few of a unit's cases: where scans and labels are, and masks of a segmentation."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from fomo_ssl.downstream import scores
from fomo_ssl.downstream.cases import Example
from fomo_ssl.imaging import nifti

PICTURED = 3
"""Number of best, of median and of worst test cases that are kept for the report."""


def write_pictures(
    folder: Path, predictions: scores.Predictions, examples: Sequence[Example], masks: Mapping[str, np.ndarray]
) -> dict[str, list[dict[str, Any]]]:
    """The best, the median and the worst cases with the paths a report needs to draw them; their masks as NIfTI."""
    order = np.argsort(predictions.errors, kind="stable")
    middle = max(0, (len(order) - PICTURED) // 2)
    chosen = {"best": order, "median": order[middle:], "worst": order[::-1]}
    pictures: dict[str, list[dict[str, Any]]] = {}
    for which, rows in ((which, rows[:PICTURED]) for which, rows in chosen.items()):
        pictures[which] = []
        for row in map(int, rows):
            case = examples[row].case
            entry: dict[str, Any] = {"case": case.name, "image": str(next(iter(case.images.values())).resolve())}
            if case.name in masks:
                entry |= _write_mask(folder, examples[row], row, masks[case.name])
                entry["dice"] = float(predictions.columns["dice"][row])
            pictures[which].append(entry)
    return pictures


def _write_mask(folder: Path, example: Example, row: int, mask: np.ndarray) -> dict[str, str]:
    name = example.case.name
    (folder / "masks").mkdir(exist_ok=True)
    # A subject may be called by a path, which must not lead out of the folder.
    stem = name if "/" not in name else f"{name.replace('/', '_')}_{row}"
    file = folder / "masks" / f"{stem}.nii.gz"
    nifti.write(file, mask, example.prepared.grid.affine)
    return {"label": str(Path(str(example.case.label)).resolve()), "prediction": f"masks/{file.name}"}
