import os
import zipfile
from pathlib import Path

import pytest

from fomo_ssl.core.errors import FomoSSLError
from fomo_ssl.corpus.layouts import ScanRow, find_scans


def plant(root: Path, *names: str) -> Path:
    for name in names:
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"x")
    return root


def test_flat(tmp_path: Path):
    rows = find_scans(plant(tmp_path, "sub_2/ses_1/t1.nii.gz", "sub_10/ses_1/dwi_b1000.nii.gz", "mapping.tsv"))
    assert rows == [
        ScanRow("", "sub_10", "ses_1", "dwi_b1000", "sub_10/ses_1/dwi_b1000.nii.gz"),
        ScanRow("", "sub_2", "ses_1", "t1", "sub_2/ses_1/t1.nii.gz"),
    ]


def test_prefixed(tmp_path: Path):
    names = (
        "PT009_BraTS/sub_12/ses_1/t1c.nii.gz",
        "PT001_CCF/sub-01/ses-01/t1w.nii.gz",
        "PT002_X/sub-x/ses-y/anat/FLAIR.nii.gz",
        "PT030_OpenNeuro/ds000001/sub-01/ses-01/dwi/dwi.nii.gz",
    )
    rows = find_scans(plant(tmp_path, *names))
    assert [(row.dataset, row.subject, row.session, row.sequence) for row in rows] == [
        ("PT001_CCF", "sub-01", "ses-01", "t1"),
        ("PT002_X", "sub-x", "ses-y", "flair"),
        ("PT009_BraTS", "sub_12", "ses_1", "t1c"),
        ("PT030_OpenNeuro/ds000001", "sub-01", "ses-01", "dwi"),
    ]


def test_bids_takes_scans_and_leaves_the_rest(tmp_path: Path):
    names = (
        "sub-01/anat/sub-01_T1w.nii.gz",
        "sub-01/anat/sub-01_desc-brain_mask.nii.gz",
        "sub-01/func/sub-01_task-rest_bold.nii.gz",
        "derivatives/fs/sub-01/anat/sub-01_T1w.nii.gz",
        "sub-02/ses-a/anat/sub-02_ses-a_ce-gadolinium_T1w.nii.gz",
        ".cache/sub-03/anat/sub-03_T1w.nii.gz",
        "template.nii.gz",
    )
    rows = find_scans(plant(tmp_path, *names))
    assert [(row.subject, row.session, row.sequence) for row in rows] == [
        ("sub-01", "ses_1", "t1"),
        ("sub-02", "ses-a", "t1c"),
    ]


def pack(path: Path, *names: str) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    with zipfile.ZipFile(path, "w") as archive:
        for name in names:
            archive.writestr(name, b"x")
    return path


def ids(rows: list[ScanRow]) -> list[tuple[str, ...]]:
    return [(row.dataset, row.subject, row.session, row.sequence, row.path) for row in rows]


@pytest.mark.parametrize(
    ("archive", "member"),
    [
        ("PT001_X/sub-01/ses-01.zip", "anat/sub-01_ses-01_T1w.nii.gz"),
        ("PT001_X/sub-01/ses-01.zip", "ses-01/anat/T1w.nii.gz"),
        ("PT001_X/sub-01/ses-01.zip", "PT001_X/sub-01/ses-01/anat/T1w.nii.gz"),
        ("PT001_X/sub-01/ses-01.zip", "t1.nii.gz"),
        ("PT001_X/sub-01.zip", "ses-01/anat/T1w.nii.gz"),
        ("PT001_X/sub-01.zip", "sub-01/ses-01/anat/T1w.nii.gz"),
        ("PT001_X/sub-01_ses-01.zip", "T1w.nii.gz"),
        ("PT001_X.zip", "sub-01/ses-01/T1w.nii.gz"),
        ("PT001_X_part1.zip", "PT001_X/sub-01/ses-01/anat/T1w.nii.gz"),
        ("PT001_X/sub-01/ses-01/anat.zip", "T1w.nii.gz"),
    ],
)
def test_archives_are_looked_into(tmp_path: Path, archive: str, member: str):
    pack(tmp_path / archive, member, "ses-01/anat/T1w.json", "__MACOSX/._T1w.nii.gz", "ses-01/func/bold.nii.gz")
    assert ids(find_scans(tmp_path)) == [("PT001_X", "sub-01", "ses-01", "t1", f"{archive}!{member}")]


def test_underscores_and_nested_datasets(tmp_path: Path):
    pack(tmp_path / "PT009_B/sub_12/ses_1.zip", "flair.nii.gz", "dwi_b0.nii.gz")
    pack(tmp_path / "PT030_OpenNeuro/ds000001/sub-01/ses-01.zip", "dwi/bval1000.nii.gz", "dwi/scan.nii.gz")
    assert [row[:4] for row in ids(find_scans(tmp_path))] == [
        ("PT009_B", "sub_12", "ses_1", "dwi_b0"),
        ("PT009_B", "sub_12", "ses_1", "flair"),
        ("PT030_OpenNeuro/ds000001", "sub-01", "ses-01", "dwi"),
        ("PT030_OpenNeuro/ds000001", "sub-01", "ses-01", "dwi_b1000"),
    ]


def test_what_lies_unpacked_beside_its_archive_is_taken_once(tmp_path: Path):
    pack(tmp_path / "PT1_X/sub-01/ses-01.zip", "ses-01/anat/T1w.nii.gz", "ses-01/anat/T2w.nii.gz")
    plant(tmp_path, "PT1_X/sub-01/ses-01/anat/T1w.nii.gz")
    assert [row.path for row in find_scans(tmp_path)] == [
        "PT1_X/sub-01/ses-01/anat/T1w.nii.gz",
        "PT1_X/sub-01/ses-01.zip!ses-01/anat/T2w.nii.gz",
    ]


def test_an_archive_that_cannot_be_listed_or_holds_no_scan_is_a_row(tmp_path: Path):
    plant(tmp_path, "PT1_X/sub-01/ses-01.zip")
    pack(tmp_path / "PT1_X/sub-02/ses-01.zip", "notes.txt")
    assert ids(find_scans(tmp_path)) == [
        ("PT1_X", "sub-01", "ses-01", "other", "PT1_X/sub-01/ses-01.zip"),
        ("PT1_X", "sub-02", "ses-01", "other", "PT1_X/sub-02/ses-01.zip"),
    ]


def test_an_archive_among_loose_images_does_not_hide_them(tmp_path: Path):
    plant(tmp_path, "a_T1.nii.gz")
    pack(tmp_path / "b.zip", "sub_1/ses_1/t2.nii.gz", "c.hdr", "c.img", "d.hdr")
    assert [(row.subject, row.sequence, row.path) for row in find_scans(tmp_path)] == [
        ("a_T1", "t1", "a_T1.nii.gz"),
        ("c", "other", "b.zip!c.img"),
        ("d", "other", "b.zip!d.hdr"),
        ("sub_1", "t2", "b.zip!sub_1/ses_1/t2.nii.gz"),
    ]


def test_openmind(tmp_path: Path):
    """Its masks lie anywhere: the table names them."""
    plant(
        tmp_path,
        "OpenMind/ds000001/sub-01/anat/sub-01_T1w.nii.gz",
        "OpenMind/ds000001/sub-01/anat/sub-01_def.nii.gz",
        "OpenMind/ds000002/sub-01/ses-a/dwi/sub-01_ses-a_dwi/ADC.nii.gz",
    )
    (tmp_path / "openneuro_metadata.csv").write_text(
        "unique_id,image_path,anon_mask_path,modality\n"
        "1,ds000001/sub-01/anat/sub-01_T1w.nii.gz,ds000001/sub-01/anat/sub-01_def.nii.gz,T1w\n"
    )
    assert [row[:4] for row in ids(find_scans(tmp_path))] == [
        ("OpenMind/ds000001", "sub-01", "ses_1", "t1"),
        ("OpenMind/ds000002", "sub-01", "ses-a", "adc"),
    ]


def test_bids_names_in_one_folder_still_tell_the_subject(tmp_path: Path):
    rows = find_scans(plant(tmp_path, "sub-01_ses-02_T1w.nii.gz", "sub-01_ses-02_T2w.nii.gz", "sub-02_T1w.nii.gz"))
    assert [row[:3] for row in ids(rows)] == [("", "sub-01", "ses-02")] * 2 + [("", "sub-02", "ses_1")]


def test_a_name_that_is_no_utf8_stays_a_row(tmp_path: Path):
    plant(tmp_path, "good.nii.gz")
    with open(os.fsencode(tmp_path) + b"/b\xffd.nii.gz", "wb"):  # noqa: PTH123
        pass
    assert [row.path for row in find_scans(tmp_path)] == ["b\\xffd.nii.gz", "good.nii.gz"]


def test_a_plain_folder(tmp_path: Path):
    rows = find_scans(plant(tmp_path, "a_T1.nii.gz", "deep/b.nii", "pair.hdr", "pair.img", "alone.hdr", "notes.txt"))
    assert [(row.dataset, row.subject, row.sequence, row.path) for row in rows] == [
        ("", "a_T1", "t1", "a_T1.nii.gz"),
        ("", "alone", "other", "alone.hdr"),
        ("", "pair", "other", "pair.img"),
        ("deep", "b", "other", "deep/b.nii"),
    ]


def test_links_to_folders_elsewhere_are_followed_and_none_twice_or_round_in_circles(tmp_path: Path):
    source = plant(tmp_path / "source", "sub_1/ses_1/t1.nii.gz")
    elsewhere = plant(tmp_path / "elsewhere", "sub_2/ses_1/t1.nii.gz", "ses_9/t2.nii.gz")
    for link, target in (
        ("sub_2", elsewhere / "sub_2"),
        ("sub_8", elsewhere / "sub_2"),
        ("sub_7", source / "sub_1"),
        ("sub_1/up", source),
        ("sub_1/above", tmp_path),
        ("sub_1/ses_9", elsewhere / "ses_9"),
    ):
        (source / link).symlink_to(target)
    (elsewhere / "ses_9/again").symlink_to(elsewhere / "ses_9")
    assert [(row.subject, row.session, row.path) for row in find_scans(source)] == [
        ("sub_1", "ses_1", "sub_1/ses_1/t1.nii.gz"),
        ("sub_1", "ses_9", "sub_1/ses_9/t2.nii.gz"),
        ("sub_2", "ses_1", "sub_2/ses_1/t1.nii.gz"),
    ]


def test_nothing_to_find(tmp_path: Path):
    with pytest.raises(FomoSSLError, match="no NIfTI file"):
        find_scans(tmp_path)
    with pytest.raises(FomoSSLError, match="no such folder"):
        find_scans(tmp_path / "none")


def test_real_corpus(real_data: Path):
    rows = find_scans(real_data / "fomo_flat")
    assert len(rows) == 58
    assert len({row.subject for row in rows}) == 35
    counts = {name: sum(row.sequence == name for row in rows) for name in ("t1", "flair", "t2", "t1c", "other")}
    assert counts == {"t1": 32, "flair": 18, "t2": 3, "t1c": 2, "other": 0}
