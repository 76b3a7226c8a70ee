import gzip
import struct
import tracemalloc
import zipfile
from pathlib import Path

import numpy as np
import pytest

from fomo_ssl.core.errors import Reason, RejectedScan
from fomo_ssl.core.seeding import numpy_generator
from fomo_ssl.imaging.container import Place, members, place_of
from fomo_ssl.imaging.nifti import read, write

AFFINE = np.diag([2.0, 2.0, 3.0, 1.0])
NAME = "sub-01/ses-01/anat/T1w.nii.gz"


@pytest.fixture(scope="module")
def plain(tmp_path_factory) -> bytes:
    """A .nii file."""
    path = tmp_path_factory.mktemp("image") / "a.nii"
    write(path, numpy_generator(0).integers(0, 1000, (9, 8, 7)).astype(np.int16), AFFINE)
    return path.read_bytes()


def pack(path: Path, files: dict[str, bytes], method: int = zipfile.ZIP_DEFLATED) -> Path:
    with zipfile.ZipFile(path, "w", method) as archive:
        for name, content in files.items():
            archive.writestr(zipfile.ZipInfo(name), content, method)
    return path


def rejection(path: str | Path, **kwargs) -> RejectedScan:
    with pytest.raises(RejectedScan) as caught:
        read(path, **kwargs)
    assert str(path) in str(caught.value)
    return caught.value


@pytest.mark.parametrize("method", [zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED])
@pytest.mark.parametrize("name", ["T1w.nii.gz", "a/b c/ünï.nii", "x!y.nii"])
def test_a_member_is_read_as_its_file_would_be(tmp_path: Path, plain: bytes, method: int, name: str):
    content = gzip.compress(plain) if name.endswith("gz") else plain
    (tmp_path / "alone.nii").write_bytes(plain)
    pack(tmp_path / "s.zip", {name: content, "notes.txt": b"text"}, method)
    alone, packed = read(tmp_path / "alone.nii"), read(tmp_path / f"s.zip!{name}")
    np.testing.assert_array_equal(packed.data, alone.data)
    np.testing.assert_array_equal(packed.affine, alone.affine)
    assert members(tmp_path / "s.zip") == {name: len(content), "notes.txt": 4}
    assert sorted(path.name for path in tmp_path.iterdir()) == ["alone.nii", "s.zip"]


def verdict(path: str | Path) -> Reason | np.ndarray:
    try:
        return read(path, allow_4d=True).data
    except RejectedScan as error:
        return error.reason


def test_every_odd_file_gets_the_same_verdict_inside_an_archive(tmp_path: Path, real_data: Path):
    files = [path for path in (real_data / "odd_nifti").iterdir() if path.suffix in (".gz", ".nii", ".img", ".hdr")]
    pack(tmp_path / "odd.zip", {f"in/{path.name}": path.read_bytes() for path in files})
    for path in files:
        np.testing.assert_array_equal(verdict(f"{tmp_path}/odd.zip!in/{path.name}"), verdict(path), path.name)


def test_names_that_other_programs_write(tmp_path: Path, plain: bytes):
    pack(tmp_path / "s.ZIP", {"./a/x.nii": plain, "/b//y.nii": plain, "c\\z.nii": plain})
    assert set(members(tmp_path / "s.ZIP")) == {"a/x.nii", "b/y.nii", "c/z.nii"}
    for name in members(tmp_path / "s.ZIP"):
        assert read(tmp_path / f"s.ZIP!{name}").data.shape == (9, 8, 7)


def test_a_file_called_like_a_member_comes_first(tmp_path: Path, plain: bytes):
    (tmp_path / "s.zip!x.nii").write_bytes(plain)
    assert place_of(tmp_path / "s.zip!x.nii") == Place(tmp_path / "s.zip!x.nii")
    assert read(tmp_path / "s.zip!x.nii").data.shape == (9, 8, 7)


def test_a_member_whose_name_is_too_long_for_a_file(tmp_path: Path, plain: bytes):
    name = f"{'x' * 250}.nii"
    assert read(f"{pack(tmp_path / 's.zip', {name: plain})}!{name}").data.shape == (9, 8, 7)


def test_what_is_not_there(tmp_path: Path, plain: bytes):
    pack(tmp_path / "s.zip", {"a.hdr": plain[:348], "inner.zip": b"PK\3\4", "t.txt": b""})
    assert rejection(tmp_path / "s.zip!none.nii").reason == Reason.UNREADABLE
    assert rejection(tmp_path / "none.zip!a.nii").reason == Reason.UNREADABLE
    assert rejection(tmp_path / "s.zip!a.hdr").reason == Reason.HEADER_WITHOUT_IMAGE
    assert rejection(tmp_path / "s.zip!inner.zip").reason == Reason.IS_ARCHIVE
    assert rejection(tmp_path / "s.zip").reason == Reason.IS_ARCHIVE
    (tmp_path / "text.zip").write_bytes(b"no archive")
    assert rejection(tmp_path / "text.zip").reason == Reason.BAD_ZIP
    (tmp_path / "empty.zip").write_bytes(b"")
    assert rejection(tmp_path / "empty.zip").reason == Reason.EMPTY_FILE


def poke(path: Path, signature: bytes, offset: int, form: str, value: int) -> None:
    """Overwrite a field of the last record of an archive that begins with `signature`."""
    content = bytearray(path.read_bytes())
    struct.pack_into(form, content, content.rindex(signature) + offset, value)
    path.write_bytes(bytes(content))


LOCAL, CENTRAL = b"PK\3\4", b"PK\1\2"


@pytest.mark.parametrize("packed", [False, True])
def test_a_wrong_check_value_is_found(tmp_path: Path, plain: bytes, packed: bool):
    """Nested gzip too: its own check value is right here."""
    name = "x.nii.gz" if packed else "x.nii"
    pack(tmp_path / "s.zip", {name: gzip.compress(plain) if packed else plain})
    poke(tmp_path / "s.zip", CENTRAL, 16, "<I", 12345)
    assert rejection(tmp_path / f"s.zip!{name}").reason == Reason.BAD_ZIP


@pytest.mark.parametrize("method", [zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED])
@pytest.mark.parametrize("field", [20, 24])
@pytest.mark.parametrize("value", [3, 10**5, 2**31])
def test_false_sizes_are_found_and_cost_no_memory(tmp_path: Path, plain: bytes, method: int, field: int, value: int):
    pack(tmp_path / "s.zip", {"x.nii": plain}, method)
    poke(tmp_path / "s.zip", CENTRAL, field, "<I", value)
    tracemalloc.start()
    try:
        assert rejection(tmp_path / "s.zip!x.nii").reason in (Reason.BAD_ZIP, Reason.TRUNCATED)
        assert tracemalloc.get_traced_memory()[1] < 3e6
    finally:
        tracemalloc.stop()


@pytest.mark.parametrize("name", ["x.nii", "x.nii.gz"])
def test_a_header_that_claims_gigabytes_costs_no_memory(tmp_path: Path, plain: bytes, name: str):
    claim = bytearray(plain)
    struct.pack_into("<3h", claim, 42, 600, 600, 600)
    content = gzip.compress(bytes(claim)) if name.endswith("gz") else bytes(claim)
    pack(tmp_path / "s.zip", {name: content})
    tracemalloc.start()
    try:
        assert rejection(tmp_path / f"s.zip!{name}").reason == Reason.TRUNCATED
        assert tracemalloc.get_traced_memory()[1] < 3e6
    finally:
        tracemalloc.stop()


def test_a_bomb_ends_at_its_claim(tmp_path: Path, plain: bytes, monkeypatch):
    """Zeros without end after the image, gzipped and deflated to a few kilobytes."""
    monkeypatch.setattr("fomo_ssl.imaging.stream.MAX_TRAILING_BYTES", 2**22)
    pack(tmp_path / "s.zip", {"x.nii.gz": gzip.compress(plain + bytes(2**24), 1)})
    tracemalloc.start()
    try:
        assert rejection(tmp_path / "s.zip!x.nii.gz").reason == Reason.BAD_HEADER
        assert tracemalloc.get_traced_memory()[1] < 8e6
    finally:
        tracemalloc.stop()


def test_a_name_that_differs_from_the_one_before_the_content_is_damage(tmp_path: Path, plain: bytes):
    """Else a scan whose name was hit would vanish without a word."""
    pack(tmp_path / "s.zip", {"x.nii": plain})
    content = (tmp_path / "s.zip").read_bytes()
    at = content.rindex(b"x.nii")
    (tmp_path / "s.zip").write_bytes(content[:at] + b"x.nji" + content[at + 5 :])
    with pytest.raises(RejectedScan, match="bad_zip"):
        members(tmp_path / "s.zip")


def test_an_entry_that_swallows_the_next_is_damage(tmp_path: Path, plain: bytes):
    pack(tmp_path / "s.zip", {"x.nii": plain, "y.nii": plain})
    content = bytearray((tmp_path / "s.zip").read_bytes())
    first, second = content.index(CENTRAL), content.rindex(CENTRAL)
    # The comment of the first entry claims to be as long as the second entry.
    struct.pack_into("<H", content, first + 32, content.rindex(b"PK\5\6") - second)
    (tmp_path / "s.zip").write_bytes(bytes(content))
    with pytest.raises(RejectedScan, match="lists 1 members, its end record 2"):
        members(tmp_path / "s.zip")


@pytest.mark.parametrize(("offset", "value", "word"), [(8, 1, "encrypted"), (10, 12, "compression method 12")])
def test_what_cannot_be_unpacked_is_said(tmp_path: Path, plain: bytes, offset: int, value: int, word: str):
    pack(tmp_path / "s.zip", {"x.nii": plain})
    poke(tmp_path / "s.zip", CENTRAL, offset, "<H", value)
    poke(tmp_path / "s.zip", LOCAL, offset - 2, "<H", value)
    assert list(members(tmp_path / "s.zip")) == ["x.nii"]
    error = rejection(tmp_path / "s.zip!x.nii")
    assert error.reason == Reason.BAD_ZIP
    assert word in error.detail
