from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fomo_ssl.corpus.layouts import ScanRow, find_scans
from fomo_ssl.corpus.metadata import Metadata, MetadataTable, parse_age


@pytest.mark.parametrize(
    ("text", "wanted"),
    [
        ("35", (35, 35)),
        ("35.5", (35.5, 35.5)),
        ("080Y", (80, 80)),
        ("6M", (0.5, 0.5)),
        ("20-30", (20, 30)),
        ("20 - 30y", (20, 30)),
        ("90+", (90, 90)),
        (" 7 ", (7, 7)),
        ("", None),
        ("n/a", None),
        ("-5", None),
        ("30-20", None),
        ("300", None),
        ("old", None),
    ],
)
def test_ages(text, wanted):
    assert parse_age(text) == wanted


@given(st.text(max_size=12))
def test_any_text_is_an_age_in_range_or_none(text):
    age = parse_age(text)
    assert age is None or 0 <= age[0] <= age[1] <= 120


def row(dataset="", subject="sub_1", session="ses_1", name="t1.nii.gz") -> ScanRow:
    return ScanRow(dataset, subject, session, "t1", f"{dataset or '.'}/{subject}/{session}/{name}")


def write(path: Path, *lines: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("\n".join(lines) + "\n")


def test_session_values_overlay_those_of_the_subject_and_files_both(tmp_path: Path):
    write(tmp_path / "participants.tsv", "participant_id\tsex\tage", "sub_1\tfemale\t40")
    write(
        tmp_path / "mri_info.tsv",
        "participant_id\tsession_id\tfilename\tManufacturer\tMagneticFieldStrength",
        "sub_1\tses_1\tt1.nii.gz\tSiemens\t3",
        "sub_1\tses_1\tt2.nii.gz\tGE\tn/a",
    )
    table = MetadataTable.read(tmp_path, {""})
    assert table.of(row()) == Metadata(40.0, 40.0, 40.0, "F", manufacturer="Siemens", field_strength=3.0)
    assert table.of(row(name="t2.nii.gz")).manufacturer == "GE"
    assert table.of(row(name="t2.nii.gz")).field_strength is None
    assert table.of(row(subject="sub_2")) == Metadata()


def test_the_same_id_in_two_datasets_is_two_people(tmp_path: Path):
    write(tmp_path / "A" / "participants.tsv", "participant_id\tage", "sub-01\t20")
    write(tmp_path / "B" / "participants.tsv", "participant_id\tage", "sub-01\t70")
    table = MetadataTable.read(tmp_path, {"A", "B"})
    assert table.of(row("A", "sub-01")).age == 20
    assert table.of(row("B", "sub-01")).age == 70


def test_a_merged_file_at_the_root_serves_dataset_folders(tmp_path: Path):
    write(
        tmp_path / "participants.tsv",
        "dataset\tparticipant_id\tsession_id\tage",
        "A\tsub-01\tses-01\t20",
        "B\tsub-01\tses-01\t20-30",
    )
    table = MetadataTable.read(tmp_path, {"A", "B"})
    assert table.of(row("A", "sub-01", "ses-01")).age == 20
    found = table.of(row("B", "sub-01", "ses-01"))
    assert (found.age, found.age_low, found.age_high) == (25, 20, 30)


def test_a_flat_tree_with_ambiguous_ids_gets_no_metadata(tmp_path: Path):
    """Two datasets number their subjects alike: whoever joins them anyway gives people wrong ages."""
    header = "dataset\tparticipant_id\tsession_id\tage"
    write(tmp_path / "participants.tsv", header, "A\tsub_1\tses_1\t20", "B\tsub_1\tses_1\t70", "A\tsub_1\tses_1\t20")
    assert MetadataTable.read(tmp_path, {""}).of(row()) == Metadata()


def test_real_corpus(real_data: Path):
    source = real_data / "fomo_flat"
    rows = find_scans(source)
    table = MetadataTable.read(source, {r.dataset for r in rows})
    assert {table.dataset(r) for r in rows} == {
        "NiChart_demo", "IXI", "MRISnapshot", "open_ms_data", "TCGA-LGG", "niivue_demo", "PTBP", "BME_X",
    }  # fmt: skip
    first = table.of(next(r for r in rows if r.path == "sub_1/ses_1/t1.nii.gz"))
    assert (first.age, first.sex) == (82.2834, "M")
