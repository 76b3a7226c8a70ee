"""Labels of one's own, joined to embeddings by whatever names the scans."""

from pathlib import Path

import pyarrow as pa
import pytest

from fomo_ssl.core.errors import TaskError
from fomo_ssl.downstream.given_labels import read_given_labels
from fomo_ssl.downstream.label_probe import check_label, probe_label
from tests.downstream.test_label_probe import SUBJECTS, table

SCANS = pa.table(
    {
        "path": ["a/1.nii.gz", "a/2.nii.gz", "b/1.nii.gz"],
        "dataset": ["a", "a", "b"],
        "subject": ["sub-01", "sub-02", "sub-01"],
        "session": ["ses-1", "ses-1", "ses-1"],
    }
)


def write(folder: Path, text: str, name: str = "labels.csv") -> Path:
    (folder / name).write_text(text)
    return folder / name


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("subject,tumour\nsub-01,yes\nsub-02,no\n", ["yes", "no", "yes"]),
        ("subject,tumour\n01,yes\n", ["yes", None, "yes"]),
        ("participant_id\ttumour\nsub-01\tyes\nsub-02\tn/a\n", ["yes", None, "yes"]),
        ("dataset,subject,tumour\na,sub-01,yes\nb,sub-01,no\n", ["yes", None, "no"]),
        ("\ufeffpath,tumour\nb/1.nii.gz,yes\n", [None, None, "yes"]),
        ("subject,session_id,tumour\n01,1,1\n02,1,0\n", ["1", "0", "1"]),
    ],
)
def test_lines_find_their_scans(text: str, expected: list[str | None], tmp_path: Path) -> None:
    given = read_given_labels(write(tmp_path, text))
    assert given.columns == ("tumour",)
    assert given.values(SCANS, "tumour") == expected


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("tumour\nyes\n", "needed are path or subject, and a label"),
        ("dataset,tumour\na,yes\n", "needed are path or subject, and a label"),
        ("subject\nsub-01\n", "needed are path or subject, and a label"),
        ("", "the table has columns none"),
        ("subject,tumour\n", "no lines"),
        ("subject,tumour\n01,yes\nsub-01,no\n", "two lines differ on 01"),
    ],
)
def test_a_table_that_says_nothing_or_two_things_is_refused(text: str, message: str, tmp_path: Path) -> None:
    with pytest.raises(TaskError, match=message):
        read_given_labels(write(tmp_path, text))


def test_files_and_ids_that_are_not_there_are_named(tmp_path: Path) -> None:
    with pytest.raises(TaskError, match=r"none\.csv.*cannot be read"):
        read_given_labels(tmp_path / "none.csv")
    given = read_given_labels(write(tmp_path, "subject,tumour\n17,yes\n"))
    with pytest.raises(TaskError, match=r"no tumour for any scan: subject 17 here, 01 there"):
        given.values(SCANS, "tumour")
    with pytest.raises(TaskError, match="field_strength, tumour"):
        check_label("tumor", given)


def test_classes_and_numbers_of_ones_own_are_probed(tmp_path: Path) -> None:
    """By subject, as clinical tables are: the class is the parity of the age, the score its double."""
    lines = [f"sub-{i},{'odd' if i % 2 else 'even'},{40 + 4 * i}" for i in range(SUBJECTS)]
    given = read_given_labels(write(tmp_path, "\n".join(["subject,parity,score", *lines])))
    score, parity = (probe_label(table(8.0), name, given) for name in ("score", "parity"))
    assert parity.classes == ("even", "odd")
    assert parity.scores["guess"].metric == "balanced_accuracy"
    assert score.scores["linear probe"].metric == "mae"
    assert score.scores["linear probe"].value < 0.4 * score.scores["guess"].value
    assert given.values(table(0.0), "score")[0] == 40.0
