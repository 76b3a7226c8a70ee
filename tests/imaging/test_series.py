import tracemalloc
from pathlib import Path

import numpy as np
import pytest

from fomo_ssl.core.errors import Reason, RejectedScan
from fomo_ssl.core.seeding import numpy_generator
from fomo_ssl.imaging.nifti import read, write
from fomo_ssl.imaging.series import read_sums

AFFINE = np.diag([2.0, 2.0, 3.0, 1.0])


@pytest.fixture
def series(tmp_path: Path) -> Path:
    write(tmp_path / "s.nii.gz", numpy_generator(0).normal(size=(6, 5, 4, 7)).astype(np.float32), AFFINE)
    return tmp_path / "s.nii.gz"


def test_sums_are_those_of_the_whole_array(series: Path):
    data = read(series, allow_4d=True).data
    first, mean, difference = read_sums(series, [{0: 1.0}, {2: 0.5, 5: 0.5}, {0: -1.0, 6: 1.0}])
    np.testing.assert_array_equal(first.data, data[..., 0])
    np.testing.assert_allclose(mean.data, data[..., [2, 5]].mean(axis=-1), rtol=1e-6)
    np.testing.assert_allclose(difference.data, data[..., 6] - data[..., 0], rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(first.affine, AFFINE)


def test_only_the_sums_and_one_volume_are_in_memory(tmp_path: Path):
    volume = 40**3 * 4
    write(tmp_path / "s.nii", np.ones((40, 40, 40, 30), np.float32), AFFINE)
    tracemalloc.start()
    try:
        read_sums(tmp_path / "s.nii", [{1: 1.0}, {7: 0.5, 8: 0.5}])
        assert tracemalloc.get_traced_memory()[1] < 8 * volume
    finally:
        tracemalloc.stop()


def test_a_volume_without_numbers_refuses_only_its_scans(tmp_path: Path):
    data = np.ones((4, 4, 4, 3), np.float32)
    data[..., 1] = np.nan
    data[0, 0, 0, 2] = np.inf
    write(tmp_path / "s.nii", data, AFFINE)
    bad, good = read_sums(tmp_path / "s.nii", [{0: 0.5, 1: 0.5}, {2: 1.0}])
    assert isinstance(bad, RejectedScan)
    assert bad.reason == Reason.NON_FINITE
    assert good.data[0, 0, 0] == 0
    assert any("NaN" in note for note in good.notes)


@pytest.mark.parametrize(("cut", "reason"), [(100, Reason.TRUNCATED), (5, Reason.TRUNCATED)])
def test_damage_after_the_last_wanted_volume_is_found(series: Path, cut: int, reason: Reason):
    series.write_bytes(series.read_bytes()[:-cut])
    with pytest.raises(RejectedScan) as caught:
        read_sums(series, [{0: 1.0}])
    assert caught.value.reason == reason


def test_the_budget_counts_what_is_kept(series: Path):
    with pytest.raises(RejectedScan, match="too_large"):
        read_sums(series, [{0: 1.0}], max_voxels=200)
    assert len(read_sums(series, [{0: 1.0}], max_voxels=240)) == 1
