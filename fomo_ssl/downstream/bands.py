"""Bands of a number that is predicted, such as age, for the error within each."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

MAX_BANDS = 8
_CASES_EACH = 5
"""With fewer cases than this times the bands, bands are wider."""
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
    """Bands that hold a case, of one round width (1, 2 or 5 times a power of ten).

    At most eight over the range, and with few cases fewer: ages from 18 to 90 of 40 cases and more fall into decades.
    Targets that one band holds have none.
    """
    low, high = float(np.min(target)), float(np.max(target))
    if not np.isfinite([low, high]).all() or low == high:
        return []
    limit = max(3, min(MAX_BANDS, len(target) // _CASES_EACH))
    power = int(np.floor(np.log10((high - low) / limit)))
    widths = (base * 10.0**exponent for exponent in (power, power + 1) for base in _WIDTHS)
    # The greatest width is more than five times the range over the limit, so that one is found.
    width = next(w for w in widths if _place(high, w) - _place(low, w) < limit)
    first, last = _place(low, width), _place(high, width)
    found = [Band(_round(k * width), _round((k + 1) * width)) for k in range(first, last + 1)]
    held = [band for band in found if band.rows(target)]
    return held if len(held) > 1 else []


def _place(value: float, width: float) -> int:
    """Number of the band that holds a value."""
    return int(np.floor(_round(value / width)))


def _round(value: float) -> float:
    """Without the last bits that multiples of 0.1 carry, or their quotients lack."""
    return float(f"{value:.12g}")
