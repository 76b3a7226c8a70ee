import csv
import gzip
import struct
import tracemalloc
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fomo_ssl.core.errors import Reason, RejectedScan
from fomo_ssl.core.seeding import numpy_generator
from fomo_ssl.imaging.nifti import file_stem, read, write
from fomo_ssl.imaging.orientation import orientation

AFFINE = np.array([[0, -1.5, 0, 10], [2, 0, 0, -20], [0, 0, 3, 5], [0, 0, 0, 1.0]])


def random_image(shape=(5, 6, 7), seed=0) -> np.ndarray:
    return numpy_generator(seed).normal(size=shape).astype(np.float32)


def rejection(path, **kwargs) -> Reason:
    with pytest.raises(RejectedScan) as caught:
        read(path, **kwargs)
    assert str(path) in str(caught.value)
    return caught.value.reason


REASONS = {
    "one_slice.nii.gz": Reason.TOO_FEW_SLICES,
    "two_dimensions.nii.gz": Reason.NOT_3D,
    "rgb.nii.gz": Reason.NOT_SCALAR,
    "complex64.nii.gz": Reason.NOT_SCALAR,
    "spacing_zero.nii.gz": Reason.BAD_SPACING,
    "spacing_1000mm.nii.gz": Reason.BAD_SPACING,
    "truncated.nii.gz": Reason.TRUNCATED,
    "bad_crc.nii.gz": Reason.BAD_GZIP,
    "zero_length.nii.gz": Reason.EMPTY_FILE,
    "short_data.nii": Reason.TRUNCATED,
    "claims_1700MB.nii": Reason.TOO_LARGE,
    "claims_1700MB.nii.gz": Reason.TOO_LARGE,
    "bad_magic.nii": Reason.BAD_HEADER,
    "negative_dim.nii.gz": Reason.BAD_HEADER,
    "text.nii.gz": Reason.NOT_NIFTI,
    "lfs_pointer.nii.gz": Reason.NOT_NIFTI,
    "gzip_named.nii": Reason.WRONG_EXTENSION,
    "plain_named.nii.gz": Reason.WRONG_EXTENSION,
    "hdr_without_img.hdr": Reason.HEADER_WITHOUT_IMAGE,
    "session.zip": Reason.IS_ARCHIVE,
}


def test_every_odd_file_gets_its_verdict(real_data: Path):
    folder = real_data / "odd_nifti"
    lines = list(csv.DictReader((folder / "expected.csv").read_text(encoding="utf-8").splitlines()))
    assert {line["file"] for line in lines if line["status"] == "rejected"} == set(REASONS)
    for line in lines:
        path = folder / line["file"]
        if line["status"] == "rejected":
            assert rejection(path, allow_4d=True) == REASONS[line["file"]], path.name
        else:
            assert_as_expected(path, line)


def assert_as_expected(path: Path, line: dict[str, str]) -> None:
    volume = read(path, allow_4d=True)
    assert "x".join(map(str, volume.data.shape)) == line["shape"].removesuffix("x1"), path.name
    assert volume.data.dtype == np.float32
    assert np.isfinite(volume.data).all()
    np.testing.assert_allclose(volume.spacing, [float(v) for v in line["spacing_mm"].split("x")], rtol=1e-3)
    np.testing.assert_allclose(volume.data.max(), float(line["max"]), rtol=1e-4)
    if int(line["nonfinite"]) == 0:
        np.testing.assert_allclose(volume.data.min(), float(line["min"]), rtol=1e-4)
    else:
        assert any("NaN" in note for note in volume.notes)
    if "orientation is not known" in line["note"] or "no orientation is stored" in line["note"]:
        assert any("no orientation" in note for note in volume.notes)
    else:
        assert orientation(volume.affine) == line["orientation"], path.name


def test_values_are_those_of_nibabel(real_data: Path):
    for path in sorted((real_data / "fomo_flat").glob("sub_*/ses_*/*.nii.gz"))[::12]:
        image = nib.load(path)
        volume = read(path)
        np.testing.assert_allclose(volume.data, image.get_fdata(dtype=np.float32), rtol=1e-5)
        np.testing.assert_allclose(volume.affine, image.affine, atol=1e-5)


def test_the_oddities_are_noted(real_data: Path):
    def notes(name: str) -> str:
        return "; ".join(read(real_data / "odd_nifti" / name).notes)

    assert "sform and qform disagree" in notes("qform_sform_disagree.nii.gz")
    assert "big endian" in notes("real_big_endian.nii")
    assert "nifti-2" in notes("nifti2.nii.gz")
    assert "analyze" in notes("analyze75.img")
    assert "sheared" in notes("sheared.nii.gz")
    assert notes("plain.nii.gz") == ""


def test_several_volumes_are_refused_unless_wanted(real_data: Path):
    path = real_data / "odd_nifti" / "real_4d_dwi.nii.gz"
    assert rejection(path) == Reason.SEVERAL_VOLUMES
    assert read(path, allow_4d=True).data.shape == (128, 96, 24, 2)


@pytest.mark.parametrize("name", ["a.nii", "a.nii.gz"])
@pytest.mark.parametrize("dtype", [bool, np.uint8, np.int16, np.int64, np.float16, np.float32, np.float64, ">i2"])
def test_what_is_written_is_read_back(tmp_path: Path, name: str, dtype):
    data = (random_image() * 20).astype(dtype)
    write(tmp_path / name, data, AFFINE)
    volume = read(tmp_path / name)
    np.testing.assert_allclose(volume.data, data.astype(np.float32))
    np.testing.assert_allclose(volume.affine, AFFINE, atol=1e-5)
    np.testing.assert_allclose(nib.load(tmp_path / name).get_fdata(), data.astype(np.float64))
    assert volume.notes == ()


def test_writing_gives_the_same_bytes_and_leaves_nothing_else(tmp_path: Path):
    for name in ("a.nii.gz", "b.nii.gz"):
        write(tmp_path / name, random_image(), AFFINE)
    assert (tmp_path / "a.nii.gz").read_bytes() == (tmp_path / "b.nii.gz").read_bytes()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a.nii.gz", "b.nii.gz"]


def test_writing_refuses_what_it_cannot_keep(tmp_path: Path):
    with pytest.raises(ValueError, match=r"\.nii"):
        write(tmp_path / "a.mgz", random_image(), AFFINE)
    with pytest.raises(ValueError, match="32 bits"):
        write(tmp_path / "a.nii", np.full((3, 3, 3), 2**40), AFFINE)
    assert list(tmp_path.iterdir()) == []


def with_dims(path: Path, *dims: int) -> bytes:
    """The file's bytes with other dimensions claimed in its header."""
    content = bytearray(path.read_bytes())
    struct.pack_into("<4h", content, 40, 3, *dims)
    return bytes(content)


@pytest.mark.parametrize("name", ["claim.nii", "claim.nii.gz"])
def test_a_false_claim_is_refused_before_memory_is_asked_for(tmp_path: Path, name: str):
    write(tmp_path / "a.nii", random_image(), AFFINE)
    claim = with_dims(tmp_path / "a.nii", 600, 600, 600)
    (tmp_path / name).write_bytes(gzip.compress(claim) if name.endswith("gz") else claim)
    tracemalloc.start()
    try:
        assert rejection(tmp_path / name) == Reason.TRUNCATED
        assert tracemalloc.get_traced_memory()[1] < 20e6
    finally:
        tracemalloc.stop()


def test_the_voxel_budget_is_an_argument(tmp_path: Path):
    write(tmp_path / "a.nii", random_image(), AFFINE)
    assert rejection(tmp_path / "a.nii", max_voxels=100) == Reason.TOO_LARGE


def test_many_non_finite_voxels_are_refused(tmp_path: Path):
    data = random_image()
    data[:3] = np.nan
    write(tmp_path / "a.nii", data, AFFINE)
    assert rejection(tmp_path / "a.nii") == Reason.NON_FINITE


def test_numbers_of_no_image_are_set_to_0(tmp_path: Path):
    data = random_image()
    data[0, :2, 0] = 3.3e38, -3.3e38
    write(tmp_path / "a.nii", data, AFFINE)
    volume = read(tmp_path / "a.nii")
    assert volume.notes == ("2 voxels NaN, infinite or beyond 1e+30: set to 0",)
    data[0, :2, 0] = 0
    np.testing.assert_array_equal(volume.data, data)


def test_bytes_without_end_after_the_image_are_refused(tmp_path: Path):
    write(tmp_path / "a.nii", random_image(), AFFINE)
    (tmp_path / "b.nii.gz").write_bytes(gzip.compress((tmp_path / "a.nii").read_bytes() + bytes(2**27), 1))
    assert rejection(tmp_path / "b.nii.gz") == Reason.BAD_HEADER


def test_singular_forms(tmp_path: Path):
    write(tmp_path / "a.nii", random_image(), AFFINE)
    content = bytearray((tmp_path / "a.nii").read_bytes())
    content[280:296] = bytes(16)
    (tmp_path / "qform.nii").write_bytes(bytes(content))
    volume = read(tmp_path / "qform.nii")
    assert any("qform taken" in note for note in volume.notes)
    np.testing.assert_allclose(volume.affine, AFFINE, atol=1e-4)
    content[252:254] = bytes(2)
    (tmp_path / "none.nii").write_bytes(bytes(content))
    assert rejection(tmp_path / "none.nii") == Reason.BAD_AFFINE


@pytest.mark.parametrize("code", [272, 3, 2**15 - 1])
def test_an_unknown_data_type_is_a_bad_header(tmp_path: Path, code: int):
    write(tmp_path / "a.nii", random_image(), AFFINE)
    content = bytearray((tmp_path / "a.nii").read_bytes())
    content[70:72] = struct.pack("<h", code)
    (tmp_path / "a.nii").write_bytes(bytes(content))
    assert rejection(tmp_path / "a.nii") == Reason.BAD_HEADER


def test_a_missing_file_is_unreadable(tmp_path: Path):
    assert rejection(tmp_path / "none.nii.gz") == Reason.UNREADABLE


@settings(max_examples=150, deadline=None)
@given(data=st.data())
def test_damage_is_a_rejection_or_harmless_and_never_a_crash(tmp_path_factory, data):
    folder = tmp_path_factory.mktemp("damage")
    name = data.draw(st.sampled_from(["a.nii", "a.nii.gz"]))
    write(folder / name, random_image(), AFFINE)
    content = bytearray((folder / name).read_bytes())
    for _ in range(data.draw(st.integers(0, 4))):
        # Headers hold most of the meaning, so they are hit most.
        place = data.draw(st.one_of(st.integers(0, 351), st.integers(0, len(content) - 1))) % len(content)
        content[place] = data.draw(st.integers(0, 255))
    (folder / name).write_bytes(bytes(content[: data.draw(st.integers(0, len(content)))]))
    try:
        volume = read(folder / name, max_voxels=10**6, allow_4d=True)
    except RejectedScan:
        return
    assert np.isfinite(volume.data).all()
    assert np.isfinite(volume.affine).all()


@pytest.mark.parametrize(
    ("name", "stem"), [("a.b.nii.gz", "a.b"), ("T1.NII", "T1"), ("x.hdr", "x"), ("y.txt", "y.txt")]
)
def test_stem(name: str, stem: str):
    assert file_stem(name) == stem
