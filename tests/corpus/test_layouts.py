from pathlib import Path

import pytest

from fomo_ssl.core.errors import FomoSSLError
from fomo_ssl.core.types import SEQUENCES, sequence_class
from fomo_ssl.corpus.layouts import ScanRow, find_scans, sequence_name


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


def test_a_session_archive_is_reported_with_its_session(tmp_path: Path):
    (row,) = find_scans(plant(tmp_path, "PT001_X/sub-01/ses-01.zip"))
    assert (row.dataset, row.subject, row.path) == ("PT001_X", "sub-01", "PT001_X/sub-01/ses-01.zip")


def test_a_plain_folder(tmp_path: Path):
    rows = find_scans(plant(tmp_path, "a_T1.nii.gz", "deep/b.nii", "pair.hdr", "pair.img", "alone.hdr", "notes.txt"))
    assert [(row.dataset, row.subject, row.sequence, row.path) for row in rows] == [
        ("", "a_T1", "t1", "a_T1.nii.gz"),
        ("", "alone", "other", "alone.hdr"),
        ("", "pair", "other", "pair.img"),
        ("deep", "b", "other", "deep/b.nii"),
    ]


def test_nothing_to_find(tmp_path: Path):
    with pytest.raises(FomoSSLError, match="no NIfTI file"):
        find_scans(tmp_path)
    with pytest.raises(FomoSSLError, match="no such folder"):
        find_scans(tmp_path / "none")


@pytest.mark.parametrize(
    ("stem", "sequence"),
    [
        ("t1", "t1"),
        ("t1_2", "t1"),
        ("t2s", "t2s"),
        ("dwi_b0_3", "dwi_b0"),
        ("FLAIR", "flair"),
        ("sub-01_acq-mprage_T1w", "t1"),
        ("sub-01_T2starw", "t2s"),
        ("sub-01_PDw", "pd"),
        ("sub-01_angio", "mra"),
        ("sub-01_ce-none_T1w", "t1"),
        ("sub-01_acq-t2_T1w", "t1"),
        ("scan", "other"),
    ],
)
def test_sequence_of_a_name(stem: str, sequence: str):
    assert sequence_name(stem) == sequence
    assert sequence_class(sequence_name(stem)) in SEQUENCES


def test_real_corpus(real_data: Path):
    rows = find_scans(real_data / "fomo_flat")
    assert len(rows) == 58
    assert len({row.subject for row in rows}) == 35
    counts = {name: sum(row.sequence == name for row in rows) for name in ("t1", "flair", "t2", "t1c", "other")}
    assert counts == {"t1": 32, "flair": 18, "t2": 3, "t1c": 2, "other": 0}
