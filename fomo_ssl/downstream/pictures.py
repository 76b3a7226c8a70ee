"""What a report needs to draw a unit's cases: masks of a few of them, and where the scans and labels are."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from fomo_ssl.downstream import scores
from fomo_ssl.downstream.cases import Example
from fomo_ssl.imaging import nifti

PICTURED = 3
"""Number of best, of median and of worst test cases whose masks are kept for the report."""


def write_pictures(
    folder: Path, predictions: scores.Predictions, examples: Sequence[Example], masks: Mapping[str, np.ndarray]
) -> dict[str, list[dict[str, Any]]]:
    """Masks of the best, the median and the worst cases as NIfTI, with the paths a report needs to draw them."""
    if not masks:
        return {}
    order = np.argsort(-predictions.columns["dice"], kind="stable")
    pictures: dict[str, list[dict[str, Any]]] = {}
    middle = max(0, (len(order) - PICTURED) // 2)
    chosen = {"best": order, "median": order[middle:], "worst": order[::-1]}
    for which, rows in ((which, rows[:PICTURED]) for which, rows in chosen.items()):
        pictures[which] = []
        for row in rows:
            example = examples[int(row)]
            name = example.case.name
            (folder / "masks").mkdir(exist_ok=True)
            # A subject may be called by a path, which must not lead out of the folder.
            stem = name if "/" not in name else f"{name.replace('/', '_')}_{row}"
            file = folder / "masks" / f"{stem}.nii.gz"
            nifti.write(file, masks[name], example.prepared.grid.affine)
            image, label = next(iter(example.case.images.values())), Path(str(example.case.label))
            paths = {
                "image": str(image.resolve()),
                "label": str(label.resolve()),
                "prediction": f"masks/{file.name}",
            }
            pictures[which].append({"case": name, "dice": float(predictions.columns["dice"][row]), **paths})
    return pictures
