"""Sessions in archives and series of volumes, from the tree to the store."""

import csv
import gzip
import shutil
import zipfile
from pathlib import Path

import numpy as np
import pytest

from fomo_ssl.core.seeding import numpy_generator
from fomo_ssl.corpus.journal import Journal
from fomo_ssl.corpus.preprocess import preprocess
from fomo_ssl.corpus.store import Store
from fomo_ssl.imaging.canonical import CanonicalSpec
from fomo_ssl.imaging.nifti import write

SPEC = CanonicalSpec(2.0)
FIRST, SECOND = "PT001_X/sub-01/ses-01.zip", "PT030_O/ds000001/sub-01/ses-01.zip"
DWI, T1 = "ses-01/dwi/sub-01_ses-01_dwi.nii.gz", "ses-01/anat/sub-01_ses-01_T1w.nii.gz"
B_VALUES = "0 1000 1000 1000 1000 2000 5"
VECTORS = "0 1 0 .7 0 1 0\n0 0 1 .7 0 0 0\n0 0 0 0 1 0 0"


def image(folder: Path, data: np.ndarray) -> bytes:
    write(folder / "x.nii.gz", data, np.diag([2.0, 2.0, 2.0, 1.0]))
    return (folder / "x.nii.gz").read_bytes()


def pack(path: Path, files: dict[str, bytes], method: int) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    with zipfile.ZipFile(path, "w", method) as archive:
        for name, content in files.items():
            archive.writestr(zipfile.ZipInfo(name), content, method)


@pytest.fixture(scope="module")
def series(make_ball) -> np.ndarray:
    """Seven volumes, as many as `B_VALUES` has."""
    return np.stack([make_ball(seed).data for seed in range(7)], axis=-1)


@pytest.fixture(scope="module")
def packed(tmp_path_factory, make_ball, series: np.ndarray) -> Path:
    """FOMO300K in small: two datasets with the same ids, a series, a T1 in each archive, a damaged one, tables."""
    folder = tmp_path_factory.mktemp("packed")
    source = folder / "source"
    gradients = {DWI.replace("nii.gz", "bval"): B_VALUES.encode(), DWI.replace("nii.gz", "bvec"): VECTORS.encode()}
    files = {T1: image(folder, make_ball(11).data), DWI: image(folder, series), **gradients, "README": b"text"}
    pack(source / FIRST, files, zipfile.ZIP_DEFLATED)
    perfusion = {"ses-01/perf/sub-01_ses-01_asl.nii.gz": image(folder, series[..., :5])}
    echoes = {"ses-01/anat/sub-01_ses-01_MEGRE.nii.gz": image(folder, series[..., :2])}
    pack(source / SECOND, {T1: image(folder, make_ball(12).data), **perfusion, **echoes}, zipfile.ZIP_STORED)
    whole = (source / FIRST).read_bytes()
    (source / "PT001_X/sub-02").mkdir()
    (source / "PT001_X/sub-02/ses-01.zip").write_bytes(whole[: len(whole) // 2])
    header = "dataset\tparticipant_id\tsession_id\tage\n"
    rows = "PT001_X\tsub-01\tses-01\t20Y\nPT030_O/ds000001\tsub-01\tses-01\t60-70\n"
    (source / "participants.tsv").write_text(header + rows)
    return source


@pytest.fixture(scope="module")
def whole(packed: Path, tmp_path_factory) -> Path:
    path = tmp_path_factory.mktemp("whole") / "store"
    preprocess(packed, path, SPEC)
    return path


def columns(store: Path, *names: str) -> list[tuple]:
    index = Store.open(store).index
    return list(zip(*(index.column(name).to_pylist() for name in names), strict=True))


def test_members_and_volumes_become_scans(whole: Path):
    assert columns(whole, "dataset", "path", "volume", "sequence", "age") == [
        ("PT001_X", f"{FIRST}!{DWI}", 0, "dwi_b0", 20),
        ("PT001_X", f"{FIRST}!{DWI}", 1, "dwi_b1000", 20),
        ("PT001_X", f"{FIRST}!{DWI}", 5, "dwi_b2000", 20),
        ("PT001_X", f"{FIRST}!{T1}", 0, "t1", 20),
        ("PT030_O/ds000001", f"{SECOND}!ses-01/perf/sub-01_ses-01_asl.nii.gz", 0, "perf", 65),
        ("PT030_O/ds000001", f"{SECOND}!{T1}", 0, "t1", 65),
    ]
    lines = list(csv.DictReader((whole / "quarantine.csv").read_text().splitlines()))
    assert [(line["path"], line["reason"]) for line in lines] == [
        ("PT001_X/sub-02/ses-01.zip", "bad_zip"),
        (f"{SECOND}!ses-01/anat/sub-01_ses-01_MEGRE.nii.gz", "several_volumes"),
    ]


def test_the_store_is_that_of_the_unpacked_tree(packed: Path, whole: Path, tmp_path: Path):
    for archive in (FIRST, SECOND):
        with zipfile.ZipFile(packed / archive) as opened:
            opened.extractall((tmp_path / "source" / archive).parent)
    shutil.copy(packed / "participants.tsv", tmp_path / "source")
    preprocess(tmp_path / "source", tmp_path / "store", SPEC)
    same = ("dataset", "session", "sequence", "volume", "source_digest", "file_digest", "source_bytes", "age", "notes")
    assert columns(tmp_path / "store", *same) == columns(whole, *same)


def test_a_mean_is_that_of_the_directions_nearest_to_the_axes(whole: Path, tmp_path: Path, series: np.ndarray):
    mean = tmp_path / "source/sub_1/ses_1/dwi_b1000.nii.gz"
    mean.parent.mkdir(parents=True)
    mean.write_bytes(image(tmp_path, series[..., [1, 2, 4]].mean(axis=-1)))
    preprocess(tmp_path / "source", tmp_path / "store", SPEC)
    row = columns(whole, "sequence").index(("dwi_b1000",))
    stored, wanted = Store.open(whole).read(row).astype(int), Store.open(tmp_path / "store").read(0).astype(int)
    assert np.abs(stored - wanted).max() <= 1
    assert "mean of volumes 1 2 4 of 7" in columns(whole, "notes")[row][0]


def test_killed_again_and_again_the_store_gets_the_same_bytes(
    packed: Path, whole: Path, tmp_path: Path, contents, killed_run
):
    store = tmp_path / "killed"
    for after in (1, 4, -1):
        killed_run(packed, store, SPEC, after)
    preprocess(packed, store, SPEC)
    assert contents(store) == contents(whole)


def test_a_lost_shard_is_done_again_and_a_kept_one_is_not(
    packed: Path, whole: Path, tmp_path: Path, contents, monkeypatch
):
    """The run breaks off after the first files are committed; all scans of a file stand or fall together."""
    commit, calls = Journal.commit, []

    def broken(self, outcomes):
        calls.append(1)
        if len(calls) > 2:
            raise KeyboardInterrupt
        commit(self, outcomes)

    monkeypatch.setattr("fomo_ssl.corpus.preprocess._SHARD_SCANS", 2)
    monkeypatch.setattr("fomo_ssl.corpus.preprocess._SHARD_SECONDS", float("inf"))
    monkeypatch.setattr(Journal, "commit", broken)
    with pytest.raises(KeyboardInterrupt):
        preprocess(packed, tmp_path / "store", SPEC)
    monkeypatch.setattr(Journal, "commit", commit)
    assert 0 < preprocess(packed, tmp_path / "store", SPEC).processed < 6
    assert contents(tmp_path / "store") == contents(whole)


def test_a_second_run_works_on_nothing_and_sees_a_changed_archive(packed: Path, whole: Path, tmp_path: Path, contents):
    source, store = shutil.copytree(packed, tmp_path / "source"), shutil.copytree(whole, tmp_path / "store")
    before = contents(store)
    assert preprocess(source, store, SPEC).processed == 0
    assert contents(store) == before
    noise = numpy_generator(5).normal(size=100).tobytes()
    with zipfile.ZipFile(source / SECOND) as archive:
        t1 = gzip.decompress(archive.read(T1))
    pack(source / SECOND, {T1: gzip.compress(t1 + noise)}, zipfile.ZIP_STORED)
    summary = preprocess(source, store, SPEC)
    assert (summary.processed, summary.accepted, summary.rejected) == (1, 5, {"bad_zip": 1})


def test_a_store_made_before_series_were_read_is_continued(packed: Path, whole: Path, tmp_path: Path):
    store = shutil.copytree(whole, tmp_path / "store")
    lines = list(csv.reader((store / "quarantine.csv").read_text().splitlines()))
    with (store / "quarantine.csv").open("w", newline="") as file:
        csv.writer(file).writerows(line[:-1] for line in lines)
    assert preprocess(packed, store, SPEC).processed == 0
