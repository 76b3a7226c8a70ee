import json
import pickle
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fomo_ssl.core.errors import StoreError
from fomo_ssl.corpus import codec
from fomo_ssl.corpus.codec import (
    LEVELS,
    NOT_VALID,
    StoredScan,
    compress,
    compress_within,
    quantise,
    read_flagged,
    read_into,
    round_to,
)
from fomo_ssl.corpus.layouts import ScanRow
from fomo_ssl.corpus.metadata import Metadata
from fomo_ssl.corpus.store import Store, StoreWriter
from fomo_ssl.imaging.canonical import CanonicalSpec, canonicalise
from fomo_ssl.imaging.intensity import normalise
from fomo_ssl.imaging.nifti import Volume, read

SPEC = CanonicalSpec(2.0)


def scan_row(number: int) -> ScanRow:
    return ScanRow("Alpha", f"sub_{number}", "ses_1", "t1", f"sub_{number}/ses_1/t1.nii.gz")


@pytest.fixture(scope="module")
def store(tmp_path_factory, make_ball) -> Store:
    path = tmp_path_factory.mktemp("made") / "store"
    with StoreWriter.create(path, SPEC) as writer:
        for number in range(3):
            writer.add(scan_row(number), canonicalise(make_ball(number), SPEC), Metadata(age=30.0 + number))
    return Store.open(path)


def cells(store: Store, row: int) -> dict:
    return store.index.slice(row, 1).to_pylist()[0]


def test_stored_values_are_the_normalised_scan(store: Store, make_ball):
    canonical = canonicalise(make_ball(1), SPEC)
    row = cells(store, 1)
    values = store.read(1)
    assert values.dtype == np.int16
    assert values.min() >= 0
    assert values.max() <= LEVELS
    np.testing.assert_allclose(
        values * row["scale"] + row["offset"],
        normalise(canonical.data, canonical.stats),
        atol=0.51 * row["scale"] + 1e-5,
    )
    assert values.shape == (row["shape_x"], row["shape_y"], row["shape_z"])
    np.testing.assert_allclose(np.reshape(row["affine"], (3, 4)), canonical.affine[:3])
    assert [row["box_lo_x"], row["box_hi_x"]] == [canonical.box[0].start, canonical.box[0].stop]
    assert row["age"] == 31.0
    outside = normalise(np.float32([canonical.background]), canonical.stats)[0]
    assert row["background"] * row["scale"] + row["offset"] == pytest.approx(outside, abs=row["scale"])


def test_real_scans_keep_80_db(real_data: Path):
    for name in ("sub_15/ses_1/t1.nii.gz", "sub_28/ses_1/mra.nii.gz", "sub_34/ses_1/t1.nii.gz"):
        canonical = canonicalise(read(real_data / "fomo_flat" / name), CanonicalSpec(2.0))
        stored = quantise(canonical)
        wanted = normalise(canonical.data, canonical.stats)
        error = float(np.mean((stored.values * stored.scale + stored.offset - wanted) ** 2))
        assert 10 * np.log10(float(np.ptp(wanted)) ** 2 / error) > 80, name


def test_fewer_bits_are_the_nearest_levels_over_the_same_range():
    values = np.arange(LEVELS + 1, dtype=np.int16).reshape(16, 16, 16)
    flagged = np.where(values % 3 == 0, values | np.int16(NOT_VALID), values)
    for bits in (11, 9, 8):
        rounded = round_to(StoredScan(flagged, 0.5, -3.0, 5), bits)
        step = 2 ** (12 - bits)
        levels = rounded.values & np.int16(LEVELS)
        assert set(np.unique(levels)) == set(range(0, LEVELS + 1, step))
        within = values <= LEVELS - step
        assert np.abs(levels - values)[within].max() == step // 2
        assert np.abs(levels - values).max() < step
        np.testing.assert_array_equal(rounded.values & np.int16(NOT_VALID), flagged & np.int16(NOT_VALID))
        assert rounded.background == levels.reshape(-1)[5]
        assert (rounded.scale, rounded.offset) == (0.5, -3.0)


def test_noisy_scans_keep_the_bits_that_fit():
    """Twelve random bits a voxel do not compress: the limit decides how many are kept, down to eight."""
    values = np.random.default_rng(0).integers(0, LEVELS, (64, 64, 64), dtype=np.int16)
    noisy = StoredScan(values, 1.0, 0.0, 0)
    for limit, expected in ((12.5, 12), (11.5, 11), (9.5, 9), (8.5, 8), (1.0, 8)):
        stored, content, bits = compress_within(noisy, limit / 8 * values.size)
        assert bits == expected
        assert content == compress(stored.values)
        np.testing.assert_array_equal(stored.values, round_to(noisy, bits).values)


@pytest.mark.parametrize(("edge", "bits"), [(1.0, 8), (0.5, 12)])
def test_the_limit_of_a_scan_goes_by_the_size_of_its_voxels(tmp_path: Path, monkeypatch, edge: float, bits: int):
    """A scan of half a millimetre may be eight times as large."""
    monkeypatch.setattr("fomo_ssl.corpus.store.LARGEST", 40_000)
    volume = np.random.default_rng(0).normal(100, 10, (40, 40, 40)).astype(np.float32)
    spec = CanonicalSpec(None)
    canonical = canonicalise(Volume(volume, np.diag([edge, edge, edge, 1.0])), spec)
    with StoreWriter.create(tmp_path / "store", spec) as writer:
        writer.add(scan_row(0), canonical, Metadata())
    made = Store.open(tmp_path / "store")
    row, values = cells(made, 0), made.read(0)
    assert not (values % 2 ** (12 - bits)).any()
    assert row["notes"] == ("" if bits == 12 else f"stored in {bits} bits")
    wanted = normalise(np.clip(canonical.data, row["low"], row["high"]), canonical.stats)
    np.testing.assert_allclose(
        values * row["scale"] + row["offset"], wanted, atol=row["scale"] * 2 ** (12 - bits) + 1e-5
    )


@settings(deadline=None, max_examples=60)
@given(st.data())
def test_a_crop_is_the_padded_scan_cut(store: Store, data):
    row = data.draw(st.integers(0, 2))
    origin = data.draw(st.tuples(*[st.integers(-40, 40)] * 3))
    size = data.draw(st.tuples(*[st.integers(1, 30)] * 3))
    whole = np.pad(store.read(row), 80, constant_values=cells(store, row)["background"])
    cut = whole[tuple(slice(80 + o, 80 + o + s) for o, s in zip(origin, size, strict=True))]
    np.testing.assert_array_equal(store.read_crop(row, origin, size), cut)


@settings(deadline=None, max_examples=60)
@given(st.data())
def test_several_crops_of_a_scan_are_each_as_read_alone(store: Store, data):
    row = data.draw(st.integers(0, 2))
    origins = data.draw(st.lists(st.tuples(*[st.integers(-20, 40)] * 3), min_size=1, max_size=6))
    sizes = data.draw(st.lists(st.tuples(*[st.integers(1, 30)] * 3), min_size=len(origins), max_size=len(origins)))
    crops = [np.full(size, -1, np.int16) for size in sizes]
    store.read_crops(row, origins, crops)
    whole = np.pad(store.read(row), 80, constant_values=cells(store, row)["background"])
    for crop, origin, size in zip(crops, origins, sizes, strict=True):
        cut = whole[tuple(slice(80 + o, 80 + o + s) for o, s in zip(origin, size, strict=True))]
        np.testing.assert_array_equal(crop, cut)


@pytest.fixture(scope="module")
def noise(tmp_path_factory) -> tuple[np.ndarray, dict[str, Path]]:
    """An array of several chunks along two axes, as this version writes it and in forms that others may."""
    import blosc2

    values = np.random.default_rng(0).integers(0, LEVELS, (150, 33, 70), dtype=np.int16)
    folder = tmp_path_factory.mktemp("noise")
    files = {"ours": compress(values)}
    zstd = blosc2.CParams(codec=blosc2.Codec.ZSTD, typesize=2)
    for name, chunks, blocks in (("large", (128, 33, 70), (32, 32, 32)), ("odd", (50, 20, 30), (7, 9, 30))):
        files[name] = blosc2.asarray(values, chunks=chunks, blocks=blocks, cparams=zstd).to_cframe()
    for name, content in files.items():
        (folder / name).write_bytes(content)
    return values, {name: folder / name for name in files}


@settings(deadline=None, max_examples=60)
@given(st.data())
def test_boxes_are_those_of_the_whole_array(noise, data):
    values, files = noise
    path = files[data.draw(st.sampled_from(sorted(files)))]
    boxes = []
    for _ in range(data.draw(st.integers(1, 5))):
        starts = [data.draw(st.integers(0, n - 1)) for n in values.shape]
        stops = [data.draw(st.integers(a + 1, n)) for a, n in zip(starts, values.shape, strict=True)]
        boxes.append(tuple(map(slice, starts, stops)))
    # Every second target is a part of a larger array, and so not in one piece.
    frames = [np.full([n + at % 2 for n in values[box].shape], -1, np.int16) for at, box in enumerate(boxes)]
    targets = [frame[: s[0], : s[1], : s[2]] for frame, s in zip(frames, (values[b].shape for b in boxes), strict=True)]
    read_into(path, boxes, targets)
    for at, (box, target) in enumerate(zip(boxes, targets, strict=True)):
        np.testing.assert_array_equal(target, values[box])
        assert (frames[at] == -1).sum() == frames[at].size - target.size


@pytest.mark.parametrize("copying", [-1000.0, 1000.0])
def test_boxes_are_the_same_cut_from_one_around_them_and_read_alone(noise, monkeypatch, copying: float):
    values, files = noise
    monkeypatch.setattr(codec, "_COPY", copying)
    boxes = [tuple(slice(o, o + n) for o, n in zip((x, 3, x // 3), (60, 20, 30), strict=True)) for x in (0, 7, 64, 90)]
    targets = [np.full((60, 20, 30), -1, np.int16) for _ in boxes]
    read_into(files["ours"], boxes, targets)
    for box, target in zip(boxes, targets, strict=True):
        np.testing.assert_array_equal(target, values[box])


@pytest.mark.parametrize("copies", [1, 4])
def test_a_box_beyond_the_file_is_an_error(noise, copies: int):
    """Where the index claims more than the file holds; slicing would cut the box short."""
    boxes = [(slice(140, 151), slice(0, 33), slice(0, 70))] * copies
    with pytest.raises(StoreError, match="cannot be read"):
        read_into(noise[1]["ours"], boxes, [np.empty((11, 33, 70), np.int16) for _ in boxes])


def test_a_store_pickles_as_its_path(store: Store):
    content = pickle.dumps(store)
    assert len(content) < 1000
    copy = pickle.loads(content)
    assert copy.fingerprint == store.fingerprint
    np.testing.assert_array_equal(copy.read(2), store.read(2))


def test_the_same_scans_give_the_same_store(store: Store, tmp_path: Path, make_ball, contents):
    with StoreWriter.create(tmp_path / "again", SPEC) as writer:
        for number in range(3):
            writer.add(scan_row(number), canonicalise(make_ball(number), SPEC), Metadata(age=30.0 + number))
    assert contents(tmp_path / "again") == contents(store.path)


def test_large_and_small_arrays_round_trip(tmp_path: Path):
    for shape in ((1, 1, 1), (65, 3, 130), (64, 64, 64)):
        values = np.arange(np.prod(shape), dtype=np.int16).reshape(shape)
        (tmp_path / "a.b2nd").write_bytes(compress(values))
        np.testing.assert_array_equal(read_flagged(tmp_path / "a.b2nd"), values)


def test_a_writer_that_fails_leaves_no_store(tmp_path: Path):
    with pytest.raises(RuntimeError), StoreWriter.create(tmp_path / "s", SPEC):
        raise RuntimeError
    with pytest.raises(StoreError, match="no finished store"):
        Store.open(tmp_path / "s")


def test_a_store_is_not_written_twice(store: Store):
    with pytest.raises(StoreError, match="already"):
        StoreWriter.create(store.path)


def break_store(store: Store, folder: Path, **facts) -> Path:
    folder.mkdir()
    for name in ("store.json", "index.arrow"):
        (folder / name).write_bytes((store.path / name).read_bytes())
    before = json.loads((folder / "store.json").read_text())
    (folder / "store.json").write_text(json.dumps(before | facts))
    return folder


def test_what_is_no_store_is_refused(store: Store, tmp_path: Path):
    with pytest.raises(StoreError, match="no finished store"):
        Store.open(tmp_path / "none")
    with pytest.raises(StoreError, match="schema 99"):
        Store.open(break_store(store, tmp_path / "newer", schema=99))
    with pytest.raises(StoreError, match="does not belong"):
        Store.open(break_store(store, tmp_path / "other", index_bytes=1))
    damaged = break_store(store, tmp_path / "damaged")
    (damaged / "index.arrow").write_bytes(bytes((damaged / "index.arrow").stat().st_size))
    with pytest.raises(StoreError, match="cannot be read"):
        Store.open(damaged)
    (damaged / "store.json").write_text("{")
    with pytest.raises(StoreError, match="damaged"):
        Store.open(damaged)


def test_damage_to_any_byte_of_the_head_is_an_error_that_names_the_file(store: Store, tmp_path: Path):
    """Such as to the data type, which blosc2 parses as Python; or the scan is read, as before or with other values."""
    file = tmp_path / "scan.b2nd"
    content = (store.path / cells(store, 0)["file"]).read_bytes()
    errors = []
    for place in range(min(len(content), 500)):
        file.write_bytes(content[:place] + bytes([content[place] ^ 0x18]) + content[place + 1 :])
        try:
            read_into(file, [(slice(0, 4),) * 3], [np.empty((4, 4, 4), np.int16)])
        except StoreError as error:
            errors.append(error)
    assert len(errors) > 50
    assert {error.where for error in errors} == {str(file)}


def test_opening_scans_leaves_no_memory_behind(store: Store):
    """A worker opens millions of them in a run; 32 bytes each were gigabytes over all workers."""
    import ctypes
    import gc

    libc = ctypes.CDLL(None)
    if not hasattr(libc, "mallinfo2"):
        pytest.skip("asks glibc 2.33 or newer")

    class Mallinfo(ctypes.Structure):
        _fields_ = [(name, ctypes.c_size_t) for name in (*"abcdefg", "in_use", "free", "top")]

    libc.mallinfo2.restype = Mallinfo

    def in_use(openings: int) -> int:
        for _ in range(openings):
            read_into(store.path / cells(store, 0)["file"], [(slice(0, 4),) * 3], [target])
        gc.collect()
        found = libc.mallinfo2()
        return int(found.in_use)

    target = np.empty((4, 4, 4), np.int16)
    before = in_use(200)
    assert in_use(2000) - before < 2000 * 8


def test_a_missing_or_damaged_scan_file_is_named(store: Store, tmp_path: Path):
    bare = Store.open(break_store(store, tmp_path / "bare"))
    with pytest.raises(StoreError, match="missing"):
        bare.read_crop(0, (0, 0, 0), (4, 4, 4))
    file = bare.path / cells(bare, 0)["file"]
    file.parent.mkdir(parents=True)
    file.write_bytes(b"nonsense")
    with pytest.raises(StoreError, match=file.name):
        bare.read(0)
