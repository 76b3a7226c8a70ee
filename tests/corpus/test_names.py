import pytest

from fomo_ssl.core.vocabulary import SEQUENCES, sequence_class
from fomo_ssl.corpus.names import is_scan_name, sequence_name


@pytest.mark.parametrize(
    ("stem", "sequence"),
    [
        # FOMO
        ("t1", "t1"),
        ("t1_2", "t1"),
        ("t1w", "t1"),
        ("t2s", "t2s"),
        ("t2s_3", "t2s"),
        ("dwi_b0_3", "dwi_b0"),
        ("dwi_b1000", "dwi_b1000"),
        ("dwi_2", "dwi"),
        ("bval0", "dwi_b0"),
        ("sub-01_ses-01_bval1000", "dwi_b1000"),
        ("FLAIR", "flair"),
        ("swi", "swi"),
        ("adc", "adc"),
        ("mra", "mra"),
        ("pd_2", "pd"),
        ("scan", "other"),
        ("scan_12", "other"),
        # BIDS
        ("sub-01_acq-mprage_T1w", "t1"),
        ("sub-01_T2starw", "t2s"),
        ("sub-01_PDw", "pd"),
        ("sub-01_angio", "mra"),
        ("sub-01_inplaneT2", "t2"),
        ("sub-01_UNIT1", "t1"),
        ("sub-01_part-mag_GRE", "t2s"),
        ("sub-01_ce-none_T1w", "t1"),
        ("sub-01_ce-gadolinium_run-2_T1w", "t1c"),
        ("sub-01_acq-t2_T1w", "t1"),
        ("sub-b12_acq-b700_dir-AP_dwi", "dwi_b700"),
        ("sub-b12_dwi", "dwi"),
        ("sub-01_T1map", "other"),
        ("sub-01_asl", "perf"),
        # others
        ("BraTS-GLI-00000-000-t1n", "t1"),
        ("BraTS-GLI-00000-000-t2f", "flair"),
        ("BraTS20_Training_001_t1ce", "t1c"),
        ("IXI002-Guys-0828-T1", "t1"),
        ("patient7_T1_post", "t1c"),
        ("T2_FLAIR", "flair"),
        ("FLAIR_T2", "flair"),
        ("T1-FLAIR", "t1"),
        ("dwi_adc", "adc"),
        ("TRACE", "dwi"),
        ("", "other"),
    ],
)
def test_sequence_of_a_name(stem: str, sequence: str):
    assert sequence_name(stem) == sequence
    assert sequence_class(sequence_name(stem)) in SEQUENCES


def test_the_folder_tells_where_the_name_does_not():
    assert sequence_name("sub-01_acq-b2000_scan", "dwi") == "dwi_b2000"
    assert sequence_name("scan", "DWI") == "dwi"
    assert sequence_name("scan", "perf") == "perf"
    assert sequence_name("scan", "anat") == "other"
    assert sequence_name("T1w", "dwi") == "t1"


@pytest.mark.parametrize(
    "stem", ["sub-01_desc-brain_mask", "a_seg", "BraTS-GLI-00000-000-seg", "x_anonmask", "lesion_2"]
)
def test_masks_are_no_scans(stem: str):
    assert not is_scan_name(stem)


@pytest.mark.parametrize("stem", ["sub-01_label-x_T1w", "scan", "masked_t1", "segmentation"])
def test_other_names_are(stem: str):
    assert is_scan_name(stem)
