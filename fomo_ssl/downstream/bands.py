"""Bands of a number that is predicted, such as age, for the error within each."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

MAX_BANDS = 8
_WIDTHS = (1.0, 2.0, 5.0)


@dataclass(frozen=True)
class Band:
    """Targets from `low` (within) to `high` (beyond)."""

    low: float
    high: float

    @property
    def label(self) -> str:
        """`60–70`."""
        return f"{self.low:g}–{self.high:g}"

    def rows(self, target: np.ndarray) -> list[int]:
        """Positions of the cases in the band."""
        return [int(row) for row in np.flatnonzero((target >= self.low) & (target < self.high))]


def bands(target: np.ndarray) -> Sequence[Band]:
    """Bands that hold a case, of one round width (1, 2 or 5 times a power of ten), at most eight over the range.

    Ages from 18 to 90 fall into decades. Equal targets have no bands.
    """
    low, high = float(np.min(target)), float(np.max(target))
    if not np.isfinite([low, high]).all() or low == high:
        return []
    power = int(np.floor(np.log10((high - low) / MAX_BANDS)))
    for width in (base * 10.0**exponent for exponent in (power, power + 1) for base in _WIDTHS):
        first, last = int(np.floor(low / width)), int(np.floor(high / width))
        if last - first < MAX_BANDS:
            found = [Band(_round(k * width), _round((k + 1) * width)) for k in range(first, last + 1)]
            return [band for band in found if band.rows(target)]
    raise AssertionError("a width of ten times the range holds everything")


def _round(value: float) -> float:
    """Without the last bits that multiples of 0.1 carry."""
    return float(f"{value:.12g}")
