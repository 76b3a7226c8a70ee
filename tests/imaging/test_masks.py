"""Masks on the scan's grid, on other grids, and those that cannot be used."""

import tracemalloc
from pathlib import Path

import numpy as np
import pytest

from fomo_ssl.core.errors import Reason, RejectedScan
from fomo_ssl.core.seeding import numpy_generator
from fomo_ssl.imaging.canonical import CanonicalSpec, canonicalise
from fomo_ssl.imaging.masks import read_mask, strip
from fomo_ssl.imaging.nifti import Volume, write

SHAPE, AFFINE = (14, 18, 10), np.array([[-1.5, 0, 0, 9], [0, 2, 0, -20], [0, 0, 3, 4], [0, 0, 0, 1.0]])


@pytest.fixture
def scan() -> Volume:
    return Volume(numpy_generator(0).uniform(5, 100, SHAPE).astype(np.float32), AFFINE)


@pytest.fixture
def front() -> np.ndarray:
    """The front of the head, and one corner, so that no axis can be swapped or flipped unseen."""
    mask = np.zeros(SHAPE, bool)
    mask[:, 11:], mask[:3, :3, :3] = True, True
    return mask


def saved(path: Path, data: np.ndarray, affine: np.ndarray = AFFINE) -> Path:
    write(path, data, affine)
    return path


@pytest.mark.parametrize("dtype", [bool, np.int16, np.float32])
@pytest.mark.parametrize("value", [1, 255])
def test_the_same_grid_is_taken_as_it_is(tmp_path: Path, scan: Volume, front: np.ndarray, dtype, value):
    inside, notes = read_mask(saved(tmp_path / "m.nii.gz", (front * value).astype(dtype)), scan)
    assert inside.dtype == bool
    np.testing.assert_array_equal(inside, front)
    assert notes == ()


def test_other_axes_of_the_same_grid(tmp_path: Path, scan: Volume, front: np.ndarray):
    turned = np.flip(front.transpose(2, 0, 1), (0, 2))
    affine = AFFINE[:, [2, 0, 1, 3]].copy()
    for axis in (0, 2):
        affine[:3, 3] += affine[:3, axis] * (turned.shape[axis] - 1)
        affine[:3, axis] *= -1
    inside, notes = read_mask(saved(tmp_path / "m.nii", turned, affine), scan)
    np.testing.assert_array_equal(inside, front)
    assert notes == ()


def test_another_grid_is_resampled_by_nearest_neighbour_in_scanner_space(tmp_path: Path, scan: Volume):
    """Against a loop over the scan's voxels."""
    affine = np.array([[0, 1.1, 0, -11], [-2.3, 0, 0, 17], [0, 0, 2.5, 3], [0, 0, 0, 1.0]])
    mask = numpy_generator(1).random((17, 19, 12)) < 0.4
    inside, notes = read_mask(saved(tmp_path / "m.nii.gz", mask, affine), scan)
    to_mask = np.linalg.inv(affine) @ AFFINE
    for voxel in np.ndindex(SHAPE):
        at = np.floor((to_mask @ [*voxel, 1])[:3] + 0.5).astype(int)
        is_there = bool((at >= 0).all() and (at < mask.shape).all())
        assert inside[voxel] == (is_there and mask[tuple(at)]), voxel
    assert 0.1 < inside.mean() < 0.4
    assert notes == ("on another grid, resampled",)


def test_shares_are_split_at_a_half(tmp_path: Path, scan: Volume):
    shares = np.linspace(0, 0.9, np.prod(SHAPE), dtype=np.float32).reshape(SHAPE)
    inside, _ = read_mask(saved(tmp_path / "m.nii.gz", shares), scan)
    np.testing.assert_array_equal(inside, shares >= 0.5)


def test_what_is_no_mask_of_the_scan_is_refused_with_the_reason(tmp_path: Path, scan: Volume, front: np.ndarray):
    far = AFFINE + np.eye(4)[3] * np.array([[500.0], [0], [0], [0]])
    small = front[:, :, :8]
    (tmp_path / "cut.nii").write_bytes(saved(tmp_path / "m.nii", front).read_bytes()[:-9])
    cases = {
        "an image, not a mask": saved(tmp_path / "image.nii.gz", scan.data),
        "puts it 333.3 voxels off": saved(tmp_path / "far.nii.gz", front, far),
        "puts it 10.0 voxels off": saved(tmp_path / "lost.nii.gz", front, np.diag([1.5, 2.0, 3.0, 1.0])),
        "nothing of it lies in the scan": saved(tmp_path / "beside.nii.gz", small, far),
        "truncated": tmp_path / "cut.nii",
        "unreadable": tmp_path / "none.nii.gz",
    }
    for text, path in cases.items():
        with pytest.raises(RejectedScan, match=text) as caught:
            read_mask(path, scan)
        assert caught.value.reason == Reason.BAD_MASK
        assert str(path) in str(caught.value)


def test_a_mask_that_claims_too_much_is_refused_before_memory_is_asked_for(tmp_path: Path, scan: Volume):
    path = saved(tmp_path / "m.nii.gz", np.zeros((160, 160, 160), np.uint8))
    assert path.stat().st_size < 100_000
    tracemalloc.start()
    with pytest.raises(RejectedScan, match=r"too_large: header claims \(160, 160, 160\)") as caught:
        read_mask(path, scan, max_voxels=160**3 - 1)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert caught.value.reason == Reason.BAD_MASK
    assert peak < 160**3
    assert not read_mask(path, scan, max_voxels=160**3)[0].any()


def test_a_stripped_scan_is_empty_outside_and_itself_inside(scan: Volume, front: np.ndarray):
    stripped = strip(Volume(scan.data + 40, AFFINE, ("old",)), front)
    np.testing.assert_array_equal(stripped.data[front], scan.data[front] + 40)
    assert len(np.unique(stripped.data[~front])) == 1
    assert 45 <= stripped.data[~front][0] < 46
    assert stripped.notes == ("old",)


def test_voxels_that_count_go_the_way_of_the_scan(head):
    """A scan that is its own mask: whatever canonical form does to one it does to the other."""
    volume = head(noise=0.0)
    edge = float(volume.data.max()) * 0.4
    for spec in (CanonicalSpec(None), CanonicalSpec(None, crop_foreground=False)):
        canonical = canonicalise(volume, spec, volume.data > edge)
        np.testing.assert_array_equal(canonical.valid, canonical.data > edge)
    coarse = canonicalise(volume, CanonicalSpec(3.0), volume.data > edge)
    assert coarse.valid.shape == coarse.data.shape
    assert (coarse.valid == (coarse.data > edge)).mean() > 0.9
    plain = canonicalise(volume, CanonicalSpec(3.0))
    np.testing.assert_array_equal(plain.data, coarse.data)
    assert plain.valid is None
