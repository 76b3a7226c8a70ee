from pathlib import Path

import numpy as np
import pytest

from fomo_ssl.core.errors import Reason, RejectedScan, UnknownNameError
from fomo_ssl.core.seeding import numpy_generator
from fomo_ssl.imaging.canonical import CanonicalSpec, canonicalise, from_canonical, target_spacing
from fomo_ssl.imaging.foreground import foreground_box, foreground_mask
from fomo_ssl.imaging.intensity import IntensityStats, intensity_stats, normalise
from fomo_ssl.imaging.nifti import Volume, read
from fomo_ssl.imaging.orientation import orientation, to_ras


def test_the_canonical_head(head):
    canonical = canonicalise(head(), CanonicalSpec(1.5))
    assert canonical.data.dtype == np.float32
    assert canonical.spacing == (1.5, 1.5, 1.5)
    np.testing.assert_allclose(np.linalg.norm(canonical.affine[:3, :3], axis=0), 1.5)
    mask = foreground_mask(canonical.data)
    z = normalise(canonical.data, canonical.stats)
    assert abs(z[mask].mean()) < 1e-4
    assert abs(z[mask].std() - 1) < 1e-3
    assert canonical.background < 0.1 * canonical.stats.high


@pytest.mark.parametrize("noise", [0.0, 0.05, 0.2])
def test_the_box_fits_the_head_in_noisy_air(head, noise):
    volume = head(noise=noise)
    box = foreground_box(foreground_mask(volume.data))
    truth = foreground_box(head(noise=0.0).data > 1)
    for found, wanted in zip(box, truth, strict=True):
        assert abs(found.start - wanted.start) <= 3
        assert abs(found.stop - wanted.stop) <= 3


def test_the_mask_is_filled(head):
    """Dark tissue inside the head (the skull here) belongs to it; the air does not."""
    mask = foreground_mask(head().data)
    assert 0.15 < mask.mean() < 0.3
    assert mask[26, 28, 20]
    skull = (head(noise=0.0).data > 10) & (head(noise=0.0).data < 20)
    assert skull.any()
    assert mask[skull].mean() > 0.95


def test_a_stripped_scan_keeps_every_voxel_of_the_brain():
    data = np.zeros((40, 40, 40), np.float32)
    data[10:30, 12:28, 8:33] = numpy_generator(0).uniform(5, 100, (20, 16, 25))
    box = foreground_box(foreground_mask(data))
    assert box == (slice(10, 30), slice(12, 28), slice(8, 33))


def test_a_crop_full_of_tissue_is_kept_whole(real_data: Path):
    for path in sorted((real_data / "tasks/hippocampus/preprocessed").glob("sub_*/ses_1/t1.nii.gz"))[:5]:
        volume = read(path)
        canonical = canonicalise(volume, CanonicalSpec(1.0))
        assert canonical.data.shape == to_ras(volume).data.shape


def test_box_margin_stops_at_the_edges():
    mask = np.zeros((10, 10, 10), bool)
    mask[1:3, 5, 9] = True
    assert foreground_box(mask, 2) == (slice(0, 5), slice(3, 8), slice(7, 10))
    assert foreground_box(mask, (0, 1, 2)) == (slice(1, 3), slice(4, 7), slice(7, 10))
    assert foreground_box(np.zeros((3, 4, 5), bool)) == (slice(0, 3), slice(0, 4), slice(0, 5))


@pytest.mark.parametrize(
    ("native", "spec", "wanted"),
    [
        ((0.9, 0.9, 5.5), CanonicalSpec(1.0), (1.0, 1.0, 2.75)),
        ((2.0, 2.0, 2.0), CanonicalSpec(1.0), (1.0, 1.0, 1.0)),
        ((0.5, 3.0, 1.0), CanonicalSpec(None), (0.5, 3.0, 1.0)),
        ((3.0, 3.0, 3.0), CanonicalSpec(1.0, max_upsample=1.0), (3.0, 3.0, 3.0)),
        ((1.003, 0.995, 1.0), CanonicalSpec(1.0), (1.003, 0.995, 1.0)),
    ],
)
def test_no_axis_is_up_sampled_beyond_the_limit(native, spec, wanted):
    assert target_spacing(native, spec) == pytest.approx(wanted)


@pytest.mark.parametrize("code", ["LPS", "PSR", "SLA"])
def test_any_orientation_gives_the_same_canonical_head(head, code):
    volume = head(shape=(40, 44, 36))
    same = canonicalise(volume, CanonicalSpec(2.0))
    turned = reoriented(volume, code)
    assert orientation(turned.affine) == code
    other = canonicalise(turned, CanonicalSpec(2.0))
    np.testing.assert_allclose(other.affine, same.affine, atol=1e-6)
    np.testing.assert_allclose(other.data, same.data, atol=1e-2)


def reoriented(volume: Volume, code: str) -> Volume:
    axes = ["LR", "PA", "IS"]
    order = [next(i for i, pair in enumerate(axes) if letter in pair) for letter in code]
    data, affine = volume.data.transpose(order), volume.affine[:, [*order, 3]].copy()
    for axis, (letter, source) in enumerate(zip(code, order, strict=True)):
        if letter == axes[source][0]:
            affine[:3, 3] += affine[:3, axis] * (data.shape[axis] - 1)
            affine[:3, axis] *= -1
            data = np.flip(data, axis)
    return Volume(data, affine)


def test_a_mask_comes_back_to_the_input_grid(real_data: Path):
    for name in ("sub_15/ses_1/t1.nii.gz", "sub_23/ses_1/flair.nii.gz"):
        volume = read(real_data / "fomo_flat" / name)
        canonical = canonicalise(volume, CanonicalSpec(1.0))
        threshold = (canonical.stats.low + canonical.stats.high) / 3
        back = from_canonical(canonical.data > threshold, canonical.affine, volume, "nearest")
        assert back.shape == volume.data.shape
        assert back.dtype == bool
        direct = volume.data > threshold
        dice = 2 * np.count_nonzero(back & direct) / (np.count_nonzero(back) + np.count_nonzero(direct))
        assert dice > 0.93, name


def test_an_oblique_scan_comes_back_where_it_was(real_data: Path):
    volume = read(real_data / "odd_nifti" / "oblique.nii.gz")
    canonical = canonicalise(volume, CanonicalSpec(1.0))
    back = from_canonical(canonical.data, canonical.affine, volume, "cubic")
    inside = foreground_mask(volume.data)
    agreement = np.corrcoef(back[inside], volume.data[inside])[0, 1]
    assert agreement > 0.97
    for axis in range(3):
        shifted = np.roll(back, 1, axis)
        assert np.corrcoef(shifted[inside], volume.data[inside])[0, 1] < agreement - 0.05


def rejection(data, spec=None, spacing: float = 1.0) -> Reason:
    with pytest.raises(RejectedScan) as caught:
        canonicalise(Volume(data, np.diag([spacing] * 3 + [1.0])), spec or CanonicalSpec(1.0))
    return caught.value.reason


def test_what_cannot_be_used_is_refused():
    assert rejection(np.zeros((20, 20, 20), np.float32)) == Reason.CONSTANT
    assert rejection(np.zeros((20, 20, 20, 2), np.float32)) == Reason.NOT_3D
    mask = np.zeros((20, 20, 20), np.float32)
    mask[5:15, 5:15, 5:15] = 1
    assert rejection(mask, CanonicalSpec(None)) == Reason.CONSTANT
    assert rejection(numpy_generator(0).normal(size=(3, 20, 20)).astype(np.float32)) == Reason.TOO_SMALL
    tall = np.broadcast_to(np.float32([0, 1]), (2000, 600, 2))
    assert rejection(tall, CanonicalSpec(0.1, 100.0, crop_foreground=False)) == Reason.TOO_LARGE


@pytest.mark.parametrize("lower", [1, 10])
def test_a_value_that_varies_in_its_last_bit_is_constant(lower):
    data = np.full((30, 30, 30), 1000, np.float32)
    data[15, 15, :lower] = np.nextafter(np.float32(1000), np.float32(0))
    assert rejection(data) == Reason.CONSTANT


def test_nothing_is_cropped_when_not_asked(head):
    volume = head(shape=(24, 26, 28))
    assert canonicalise(volume, CanonicalSpec(None, crop_foreground=False)).data.shape == (24, 26, 28)


def test_one_hot_voxel_does_not_set_the_range(head):
    volume = head()
    spiked = volume.data.copy()
    spiked[25, 28, 20] = 1e6
    quiet, loud = (intensity_stats(data, foreground_mask(volume.data)) for data in (volume.data, spiked))
    assert loud.high == pytest.approx(quiet.high, rel=0.02)
    assert normalise(spiked, loud).max() < 10


def test_a_flat_foreground_normalises_to_zero():
    assert not normalise(np.ones((2, 2, 2)), IntensityStats(1.0, 1.0, 1.0, 0.0)).any()


def test_the_volume_normalisation_is_that_of_nnssl(head):
    volume = head()
    volume.data[25, 28, 20] = 20 * volume.data.max()
    canonical = canonicalise(volume, CanonicalSpec(None, normalisation="zscore_volume"))
    z = normalise(canonical.data, canonical.stats)
    expected = (canonical.data - canonical.data.mean()) / max(canonical.data.std(), 1e-8)
    np.testing.assert_allclose(z, expected, atol=1e-4, rtol=1e-4)
    foreground = canonicalise(volume, CanonicalSpec(None))
    np.testing.assert_array_equal(foreground.data, canonical.data)
    assert z.max() > 2 * normalise(foreground.data, foreground.stats).max()


def test_an_unknown_normalisation_is_an_error(head):
    with pytest.raises(UnknownNameError, match="known: zscore_foreground, zscore_volume, unit_range_p99"):
        canonicalise(head(), CanonicalSpec(None, normalisation="minmax"))
