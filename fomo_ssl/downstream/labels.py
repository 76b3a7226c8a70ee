"""Labels as the layouts give them, text or masks, and as each kind of task wants them."""

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Literal

import numpy as np

from fomo_ssl.core.errors import TaskError

Kind = Literal["segmentation", "classification", "regression"]
KINDS: tuple[Kind, ...] = ("segmentation", "classification", "regression")
Label = Path | float | int
"""The path of a mask, a number, or the index of a class."""


def infer_kind(labels: Sequence[Path | str]) -> Kind:
    """Masks mean segmentation; numbers that are exactly 0 … K-1 (K >= 2) classification; other numbers regression."""
    if all(isinstance(label, Path) for label in labels):
        return "segmentation"
    try:
        values = sorted({float(str(label)) for label in labels})
    except ValueError:
        return "classification"  # parse_label says which label it is that cannot be read
    return "classification" if len(values) > 1 and values == [float(k) for k in range(len(values))] else "regression"


def parse_label(label: Path | str, kind: Kind, root: Path) -> Label:
    """A layout's label as the kind of task wants it.

    Raises:
        TaskError: a mask where a number belongs, or the reverse; text that is no number; a class that is no index.
    """
    if kind == "segmentation":
        if isinstance(label, Path):
            return label
        raise TaskError(f"the label {label!r} is no mask", where=root, way_out="Check kind")
    try:
        value = float(str(label))
    except ValueError:
        value = math.nan
    if not math.isfinite(value):
        raise TaskError(
            f"the label {str(label)!r} is no number", where=root, way_out="Write numbers, classes as 0, 1 …"
        )
    if kind == "regression":
        return value
    if value < 0 or value != int(value):
        raise TaskError(f"the label {label!r} is no class index", where=root, way_out="Number the classes 0, 1 …")
    return int(value)


def count_classes(labels: Sequence[Label], kind: Kind) -> int:
    """Number of classes: largest class of the labels + 1; reads every mask.

    Raises:
        TaskError: all labels are 0, or a class is in no label: each case would agree on its absence, and score for it.
    """
    if kind == "regression":
        return 1
    from fomo_ssl.downstream.masks import read_mask

    first: dict[int, Label] = {}
    for label in labels:
        found = np.unique(read_mask(label)).tolist() if isinstance(label, Path) else [int(label)]
        first = dict.fromkeys(found, label) | first
    largest = max(first)
    if largest < 1:
        raise TaskError("all labels are 0: there is nothing to learn", where=str(labels[0]))
    lowest = 1 if kind == "segmentation" else 0
    lacking = next((k for k in range(lowest, largest) if k not in first), None)
    if lacking is not None:
        label, what = first[largest], f"class {largest} is there, class {lacking} is in no label"
        way_out = "Number the classes 0, 1, 2 …, or state classes in task.yaml"
        raise TaskError(what, where=label if isinstance(label, Path) else None, way_out=way_out)
    return largest + 1


def check_class(largest: int, classes: int, where: Path) -> None:
    """Refuse a label beyond the classes of its task.

    Raises:
        TaskError: it is.
    """
    if largest >= classes:
        what = f"label {largest} is no class of a task that states {classes} (0 to {classes - 1})"
        raise TaskError(what, where=where, way_out="Correct the label, or classes in task.yaml or dataset.json")
