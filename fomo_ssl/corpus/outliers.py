"""Scans unlike their siblings, by a rule that a few strange scans cannot bend.

Every measure is taken as a logarithm, so that half and double are equally far. A scan is an outlier where it lies more
than `LIMIT` robust deviations from the median of its group. The robust deviation is 1.4826 times the median absolute
deviation, which is the standard deviation of a normal distribution. The group is the scans of the same dataset and
class of sequence, or, where these are fewer than `ENOUGH`, those of the same class in all datasets; smaller groups are
not judged. A deviation counts as 5 % at least, or the first scan that is a voxel smaller than its equal siblings would
be flagged; across datasets as 25 %, since datasets differ by design and one large one can fill the middle of a group.
"""

from dataclasses import dataclass

import numpy as np
import pyarrow as pa
from jaxtyping import Bool, Float64, Int64

from fomo_ssl.corpus.measurements import Measurements

LIMIT = 6.0
ENOUGH = 10
_MAD_TO_DEVIATION = 1.4826
_LEAST_ACROSS, _LEAST_WITHIN = 0.25, 0.05


@dataclass(frozen=True)
class Measure:
    """One number of every scan.

    Attributes:
        kind: what sort of outlier it makes: shape, spacing, intensity or foreground.
        name: for people, with the unit.
        values: NaN where it is not known.
    """

    kind: str
    name: str
    values: Float64[np.ndarray, "n"]


@dataclass(frozen=True)
class Judged:
    """The rule's verdict on one measure.

    Attributes:
        centre: median of each scan's group, in the measure's own unit; NaN where it was not judged.
        deviations: signed robust deviations from it; NaN where it was not judged.
    """

    measure: Measure
    centre: Float64[np.ndarray, "n"]
    deviations: Float64[np.ndarray, "n"]

    @property
    def outlying(self) -> Bool[np.ndarray, "n"]:
        return np.asarray(np.abs(np.nan_to_num(self.deviations)) > LIMIT)


def judge(measure: Measure, dataset: Int64[np.ndarray, "n"], sequence: Int64[np.ndarray, "n"]) -> Judged:
    """Compare every scan with its group; `dataset` and `sequence` are codes."""
    known = np.isfinite(measure.values) & (measure.values > 0)
    logs = np.log(np.where(known, measure.values, 1.0))
    centre, deviations = np.full(len(logs), np.nan), np.full(len(logs), np.nan)
    siblings = dataset * (int(sequence.max(initial=0)) + 1) + sequence
    # The wider group first, the narrower one over it where it is large enough.
    for group, least in ((sequence, _LEAST_ACROSS), (siblings, _LEAST_WITHIN)):
        order = np.argsort(group[known], kind="stable")
        rows = np.flatnonzero(known)[order]
        starts = np.flatnonzero(np.diff(group[rows])) + 1
        for members in np.split(rows, starts):
            if len(members) >= ENOUGH:
                middle = float(np.median(logs[members]))
                spread = _MAD_TO_DEVIATION * float(np.median(np.abs(logs[members] - middle)))
                centre[members] = np.exp(middle)
                deviations[members] = (logs[members] - middle) / max(spread, least)
    return Judged(measure, centre, deviations)


def measures(index: pa.Table, measured: Measurements) -> list[Measure]:
    """What is compared: extent, the source's spacing, contrast, foreground."""
    extent = _triple(index, "shape") * _triple(index, "spacing")
    spacing = source_spacing(index)
    low, high, mean, std = (_column(index, name) for name in ("low", "high", "mean", "std"))
    with np.errstate(divide="ignore", invalid="ignore"):
        contrast, range_ = std / (mean - low), (high - low) / std
    return [
        *(Measure("shape", f"extent {axis}, mm", extent[:, i]) for i, axis in enumerate("xyz")),
        Measure("spacing", "finest spacing of the source, mm", spacing[:, 0]),
        Measure("spacing", "coarsest spacing of the source, mm", spacing[:, 2]),
        Measure("intensity", "deviation / mean", contrast),
        Measure("intensity", "range / deviation", range_),
        Measure("foreground", "foreground share", measured.foreground_share),
        Measure("foreground", "foreground volume, ml", measured.foreground_ml),
    ]


def source_spacing(index: pa.Table) -> Float64[np.ndarray, "n 3"]:
    """Voxel edges of the source files in mm, finest first; NaN where the store does not know them."""
    rows = index.column("source_affine").to_pylist()
    affines = np.array([row if row is not None else [np.nan] * 12 for row in rows], np.float64).reshape(-1, 3, 4)
    return np.sort(np.linalg.norm(affines[:, :, :3], axis=1), axis=1)


def _triple(index: pa.Table, name: str) -> Float64[np.ndarray, "n 3"]:
    return np.stack([_column(index, f"{name}_{axis}") for axis in "xyz"], axis=1)


def _column(index: pa.Table, name: str) -> Float64[np.ndarray, "n"]:
    return np.asarray(index.column(name).to_numpy(), np.float64)
