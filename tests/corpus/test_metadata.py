from pathlib import Path

from fomo_ssl.corpus.layouts import ScanRow, find_scans
from fomo_ssl.corpus.metadata import Metadata, MetadataTable


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


def test_a_quotation_mark_that_is_not_closed_costs_its_own_line_at_most(tmp_path: Path):
    others = [f"sub_{n}\t50\tx" for n in range(2, 10_000)]
    write(tmp_path / "participants.tsv", "participant_id\tage\tnote", 'sub_1\t40\t"left', 'sub_x\t45\t"a\tb"', *others)
    table = MetadataTable.read(tmp_path, {""})
    assert [table.of(row(subject=name)).age for name in ("sub_1", "sub_x", "sub_2", "sub_9999")] == [40, 45, 50, 50]


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


def test_two_lines_of_one_session_that_differ_leave_the_value_unknown(tmp_path: Path):
    write(tmp_path / "participants.tsv", "participant_id\tage\tsex", "sub_1\t20\tF", "sub_1\t70\tF", "sub_1\t20\tF")
    found = MetadataTable.read(tmp_path, {""}).of(row())
    assert (found.age, found.sex) == (None, "F")


def test_tables_beside_archives_and_merged_copies_above(tmp_path: Path):
    """The tree lies one folder below the source; ids repeat between the data sets of PT030."""
    first, second = "FOMO/PT030_OpenNeuro/ds000001", "FOMO/PT030_OpenNeuro/ds000002"
    header = "dataset\tparticipant_id\tsession_id\tage\tsex"
    write(
        tmp_path / "FOMO/participants.tsv",
        header,
        "PT030_OpenNeuro/ds000001\tsub-01\tses-01\t20Y\tM",
        "PT030_OpenNeuro/ds000002\tsub-01\tses-01\t60-70\tF",
        "PT001_X\tsub-01\tses-01\t33\tF",
    )
    write(tmp_path / first / "participants.tsv", "participant_id\tsession_id\tage", "sub-01\tses-01\t21")
    write(
        tmp_path / second / "mri_info.tsv",
        "participant_id\tsession_id\tfilename\tManufacturer\tMagneticFieldStrength",
        "sub-01\tses-01\tsub-01_ses-01_T1w.nii.gz\tSIEMENS\t15000",
    )
    write(tmp_path / second / "mapping.tsv", "participant_id\tnew_filename\tmodality", "sub-01\tscan.pt\tT2w")
    table = MetadataTable.read(tmp_path, {first, second, "FOMO/PT001_X"})

    def packed(dataset: str, name: str) -> ScanRow:
        return ScanRow(dataset, "sub-01", "ses-01", "other", f"{dataset}/sub-01/ses-01.zip!{name}")

    found = table.of(packed(first, "T1w.nii.gz"))
    assert (found.age, found.sex) == (21, "M")
    found = table.of(packed(second, "anat/sub-01_ses-01_T1w.nii.gz"))
    assert (found.age_low, found.age_high, found.manufacturer, found.field_strength) == (60, 70, "Siemens", 1.5)
    assert table.of(packed(second, "anat/T2w.nii.gz")).manufacturer is None
    assert table.modality(packed(second, "anat/scan.nii.gz")) == "T2w"
    assert table.of(packed("FOMO/PT001_X", "T1w.nii.gz")).age == 33


def test_openmind(tmp_path: Path):
    write(
        tmp_path / "openneuro_metadata.csv",
        "unique_id,image_path,modality,age,sex,model_name,magnetic_field_strength,manufacturer",
        "1,ds000001/sub-01/ses-a/anat/sub-01_ses-a_T1w.nii.gz,T1w,25.0,male,Trio,3.0,Siemens",
        "2,ds000002/sub-01/anat/sub-01_run-1_scan.nii.gz,T2w,60.0,female,,,",
        "3,broken",
    )
    datasets = {"OpenMind/ds000001", "OpenMind/ds000002"}
    table = MetadataTable.read(tmp_path, datasets)
    path = "OpenMind/ds000001/sub-01/ses-a/anat/sub-01_ses-a_T1w.nii.gz"
    first = table.of(ScanRow("OpenMind/ds000001", "sub-01", "ses-a", "t1", path))
    assert (first.age, first.sex, first.scanner, first.field_strength) == (25, "M", "Trio", 3)
    path = "OpenMind/ds000002/sub-01/anat/sub-01_run-1_scan.nii.gz"
    second = ScanRow("OpenMind/ds000002", "sub-01", "ses_1", "other", path)
    assert (table.of(second).age, table.modality(second)) == (60, "T2w")


def test_real_corpus(real_data: Path):
    source = real_data / "fomo_flat"
    rows = find_scans(source)
    table = MetadataTable.read(source, {r.dataset for r in rows})
    assert {table.dataset(r) for r in rows} == {
        "NiChart_demo", "IXI", "MRISnapshot", "open_ms_data", "TCGA-LGG", "niivue_demo", "PTBP", "BME_X",
    }  # fmt: skip
    first = table.of(next(r for r in rows if r.path == "sub_1/ses_1/t1.nii.gz"))
    assert (first.age, first.sex) == (82.2834, "M")
