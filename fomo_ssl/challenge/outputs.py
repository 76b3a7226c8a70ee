"""What a prediction has to look like: the rules of the organisers' validator, and stricter ones of our own."""

import math
from collections.abc import Mapping
from pathlib import Path

import numpy as np

from fomo_ssl.challenge.contract import ChallengeTask
from fomo_ssl.core.errors import RejectedScan
from fomo_ssl.imaging.nifti import read

_OLDEST = 130.0


def judge(task: ChallengeTask, output: Path, scans: Mapping[str, Path]) -> tuple[str, list[str]]:
    """What was found, for people, and what is wrong with it.

    The validator asks for text that is one number, or a mask of the first scan's shape with exactly the values 0 and 1,
    so not an empty one. We also ask for a finite probability or age that can be one, and for the scan's affine.
    """
    if not output.is_file():
        return "nothing", ["no output"]
    if task.kind == "segmentation":
        return _mask(output, next(scans[name] for name in task.flags if name in scans))
    return _number(task, output)


def _number(task: ChallengeTask, output: Path) -> tuple[str, list[str]]:
    text = output.read_text(errors="replace").strip()
    try:
        value = float(text)
    except ValueError:
        return repr(text[:20]), ["not one number"]
    most = 1.0 if task.kind == "classification" else _OLDEST
    if not math.isfinite(value):
        return text, ["not finite"]
    return f"{value:.4g}", [] if 0.0 <= value <= most else [f"not between 0 and {most:g}"]


def _mask(output: Path, reference: Path) -> tuple[str, list[str]]:
    try:
        mask, scan = read(output), read(reference)
    except RejectedScan as verdict:
        return "unreadable", [str(verdict)]
    wrong = []
    if mask.data.shape != scan.data.shape:
        wrong.append(f"shape {mask.data.shape}, {reference.name} has {scan.data.shape}")
    if not np.allclose(mask.affine, scan.affine, atol=1e-3):
        wrong.append(f"another affine than {reference.name}")
    values = np.unique(mask.data)
    if not set(values.tolist()) <= {0.0, 1.0}:
        wrong.append(f"values {', '.join(f'{v:g}' for v in values[:4])}{' …' if len(values) > 4 else ''}")
    elif len(values) < 2:
        wrong.append("the same value everywhere, which the validator refuses")
    return f"{int((mask.data > 0).sum())} voxels", wrong
