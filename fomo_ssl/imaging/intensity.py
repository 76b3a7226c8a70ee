"""A robust intensity range and the z-score over the foreground ("zscore_foreground")."""

from dataclasses import dataclass

import numpy as np

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


def normalise(data: np.ndarray, stats: IntensityStats) -> np.ndarray:
    """Clip to [low, high], subtract the mean, divide by the standard deviation; float32."""
    if stats.std <= 0:
        return np.zeros(data.shape, np.float32)
    clipped = np.clip(data.astype(np.float32, copy=False), np.float32(stats.low), np.float32(stats.high))
    return (clipped - np.float32(stats.mean)) / np.float32(stats.std)


def unit_range_stats(data: np.ndarray, foreground_mask: np.ndarray) -> IntensityStats:
    """Measure for a range of 0 to 1: from the least voxel to the 99th percentile of those above it.

    As the FOMO25 baselines (yucca's "volume_wise_znorm"); background is there what equals the least voxel, not a mask.
    """
    low = float(data.min())
    above = data[data > low]
    high = float(np.quantile(above, 0.99)) if above.size else low
    return IntensityStats(low, high, low, high - low)
