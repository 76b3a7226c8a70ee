import numpy as np
import pytest

from fomo_ssl.imaging.intensity import normalise, unit_range_stats


def test_the_range_is_0_to_1_and_background_does_not_move_it():
    rng = np.random.default_rng(0)
    brain = rng.normal(100, 10, (8, 9, 10)).astype(np.float32)
    padded = np.pad(brain, 6)
    whole, inside = (normalise(data, unit_range_stats(data, np.zeros(data.shape, bool))) for data in (padded, brain))
    assert (whole.min(), whole.max()) == (0, 1)
    assert whole[0, 0, 0] == 0
    # Yucca's steps: clip to the 99th percentile of what is not the least voxel, then map the range to 0 to 1.
    top = np.quantile(brain, 0.99)
    np.testing.assert_allclose(whole, np.minimum(padded, top) / top, atol=1e-6)
    assert inside.min() == 0


def test_a_flat_scan_is_zero():
    flat = np.full((3, 3, 3), 7, np.int16)
    stats = unit_range_stats(flat, np.ones(flat.shape, bool))
    assert stats.std == 0
    assert not normalise(flat, stats).any()
    assert pytest.approx(7) == stats.low
