"""Intensity normalisation by name: what of a scan sets its zero and its unit.

`zscore_foreground` is ours: a robust range, and mean and deviation of the foreground in it. `zscore_volume` is that of
nnU-Net and nnssl: mean and deviation of all voxels of the box, air included, and nothing clipped. `unit_range_p99` is
that of the FOMO25 baselines: 0 to 1.
"""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from fomo_ssl.core.errors import UnknownNameError

# Vessels, fat and spikes lie above, ringing below; tissue does not.
LOW_QUANTILE, _HIGH_QUANTILE = 0.001, 0.999


@dataclass(frozen=True)
class IntensityStats:
    """The range that is kept and the foreground's mean and standard deviation inside it, in the scan's own units."""

    low: float
    high: float
    mean: float
    std: float


def intensity_stats(data: np.ndarray, foreground_mask: np.ndarray) -> IntensityStats:
    """Measure a scan: `low` over all voxels, so that empty space is kept; `high`, `mean` and `std` over the foreground.

    A flat foreground gets std 0; `normalise` then returns zeros.
    """
    inside = data[foreground_mask] if foreground_mask.any() else data.ravel()
    low = float(np.quantile(data, LOW_QUANTILE))
    high = max(low, float(np.quantile(inside, _HIGH_QUANTILE)))
    clipped = np.clip(inside, low, high)
    return IntensityStats(low, high, float(clipped.mean(dtype=np.float64)), float(clipped.std(dtype=np.float64)))


def volume_stats(data: np.ndarray, foreground_mask: np.ndarray) -> IntensityStats:
    """Measure all voxels, whatever the mask says; the range is that of the data, so that nothing is clipped."""
    low, high = float(data.min()), float(data.max())
    return IntensityStats(low, high, float(data.mean(dtype=np.float64)), float(data.std(dtype=np.float64)))


def unit_range_stats(data: np.ndarray, foreground_mask: np.ndarray) -> IntensityStats:
    """Measure for a range of 0 to 1: from the least voxel to the 99th percentile of those above it.

    As the FOMO25 baselines (yucca's "volume_wise_znorm"); background is there what equals the least voxel, not a mask.
    """
    low = float(data.min())
    above = data[data > low]
    high = float(np.quantile(above, 0.99)) if above.size else low
    return IntensityStats(low, high, low, high - low)


NORMALISATIONS: dict[str, Callable[[np.ndarray, np.ndarray], IntensityStats]] = {
    "zscore_foreground": intensity_stats,
    "zscore_volume": volume_stats,
    "unit_range_p99": unit_range_stats,
}


def measure(data: np.ndarray, foreground_mask: np.ndarray, normalisation: str) -> IntensityStats:
    """The statistics that `normalise` needs for the normalisation of this name.

    Raises:
        UnknownNameError: there is no such normalisation.
    """
    if normalisation not in NORMALISATIONS:
        known = f"known: {', '.join(NORMALISATIONS)}"
        raise UnknownNameError(f"unknown normalisation {normalisation!r}", way_out=known)
    return NORMALISATIONS[normalisation](data, foreground_mask)


def normalise(data: np.ndarray, stats: IntensityStats) -> np.ndarray:
    """Clip to [low, high], subtract the mean, divide by the standard deviation; float32."""
    if stats.std <= 0:
        return np.zeros(data.shape, np.float32)
    clipped = np.clip(data.astype(np.float32, copy=False), np.float32(stats.low), np.float32(stats.high))
    return (clipped - np.float32(stats.mean)) / np.float32(stats.std)
