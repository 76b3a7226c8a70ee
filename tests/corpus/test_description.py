import zipfile
from pathlib import Path

import pytest

from fomo_ssl.core.errors import FomoSSLError
from fomo_ssl.corpus.description import describe, describe_paths

FILES = ("PT001_X/sub_1/ses_1/t1.nii.gz", "PT001_X/sub_1/ses_2/flair.nii.gz", "PT001_X/sub_2/ses_1/t1.nii.gz")


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    for name in FILES:
        path = tmp_path / "all" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()
    (tmp_path / "all/PT001_X/participants.tsv").write_text("participant_id\tage\nsub_1\t50\nsub_2\t60\n")
    return tmp_path / "all"


def test_a_part_of_a_tree_is_described_as_in_the_whole(tree: Path) -> None:
    dataset = tree / "PT001_X"
    whole = {scan.path: (scan.row.subject, scan.row.session, scan.row.sequence) for scan in describe(dataset)}
    assert sorted(whole.values()) == [
        ("sub_1", "ses_1", "t1"),
        ("sub_1", "ses_2", "flair"),
        ("sub_2", "ses_1", "t1"),
    ]
    parts = describe_paths([dataset / "sub_1", dataset / "sub_2/ses_1/t1.nii.gz", dataset / "sub_1/ses_2"])
    assert {scan.path: (scan.row.subject, scan.row.session, scan.row.sequence) for scan in parts} == whole
    assert [(scan.metadata.age, scan.row.dataset) for scan in parts] == [(50, "PT001_X")] * 2 + [(60, "PT001_X")]


@pytest.mark.parametrize("packed", ["sub_3.zip", "sub_3/ses_1.zip"])
def test_a_member_of_an_archive_is_described_as_in_the_whole(tree: Path, packed: str) -> None:
    archive = tree / "PT001_X" / packed
    archive.parent.mkdir(exist_ok=True)
    with zipfile.ZipFile(archive, "w") as opened:
        opened.writestr("ses_1/t1.nii.gz", b"x")
    (tree / "PT001_X/participants.tsv").write_text("participant_id\tage\nsub_3\t70\n")
    (whole,) = (scan for scan in describe(tree) if "!" in scan.row.path)
    (part,) = describe_paths([whole.path])
    ids = [
        (scan.path, scan.row.dataset, scan.row.subject, scan.row.session, scan.row.sequence) for scan in (whole, part)
    ]
    assert ids == [(archive.with_name(f"{archive.name}!ses_1") / "t1.nii.gz", "PT001_X", "sub_3", "ses_1", "t1")] * 2
    assert whole.metadata == part.metadata
    assert part.metadata.age == 70


def test_a_session_alone_and_a_file_without_a_tree(tree: Path, tmp_path: Path) -> None:
    (only,) = describe_paths([tree / "PT001_X/sub_1/ses_2"])
    assert (only.row.subject, only.row.session) == ("sub_1", "ses_2")
    missing = tmp_path / "loose" / "IXI002-Guys-0828-T1.nii.gz"
    (scan,) = describe_paths([missing])
    assert (scan.path, scan.row.subject, scan.row.sequence) == (missing, "IXI002-Guys-0828-T1", "t1")


@pytest.mark.parametrize("path", ["../sub_2", "../sub_2/ses_1", "../sub_2/ses_1/t1.nii.gz"])
def test_a_way_through_the_folder_of_another_subject_is_not_that_subject(
    tree: Path, path: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tree / "PT001_X/sub_1")
    (scan,) = describe_paths([Path(path)])
    assert (scan.row.subject, scan.metadata.age) == ("sub_2", 60)
    assert scan.path.is_file()


def test_the_name_of_a_folder_far_above_is_no_subject(tmp_path: Path) -> None:
    deep = tmp_path / "sub_marine/a/b/c/scans"
    deep.mkdir(parents=True)
    (deep / "one_T1w.nii.gz").touch()
    assert [scan.row.subject for scan in describe_paths([deep])] == ["one_T1w"]


def test_a_folder_without_images_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(FomoSSLError, match="no NIfTI file"):
        describe_paths([tmp_path])
