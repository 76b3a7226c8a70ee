import numpy as np
import pyarrow as pa
import pytest

from fomo_ssl.core.errors import TaskError
from fomo_ssl.downstream.embeddings import COLUMNS
from fomo_ssl.downstream.label_probe import probe_label

SUBJECTS, SCANS = 30, 4


def table(signal: float) -> pa.Table:
    """Four scans of each of 30 subjects; a class, and an age, which the embeddings hold with strength `signal`."""
    generator = np.random.default_rng(0)
    subject = np.repeat(np.arange(SUBJECTS), SCANS)
    kind, age = np.tile([0, 0, 1, 1], SUBJECTS), 20.0 + 2.0 * subject
    vectors = generator.normal(size=(len(subject), 8))
    vectors[:, 0] += signal * kind
    vectors[:, 1] += signal * (age - age.mean()) / age.std()
    columns = {name: pa.nulls(len(subject), pa.string()) for name in COLUMNS}
    columns |= {
        "path": pa.array([f"{i}.nii" for i in range(len(subject))]),
        "dataset": pa.array(["d"] * len(subject)),
        "subject": pa.array([f"sub_{i}" for i in subject]),
        "sequence": pa.array(np.array(["flair", "t1"])[kind].tolist()),
        "age": pa.array(age, pa.float32()),
        "field_strength": pa.array([*np.where(kind == 1, 3.0, 1.5).tolist()[:-1], None], pa.float32()),
    }
    return pa.table(columns | {f"e{i}": pa.array(vectors[:, i].astype(np.float32)) for i in range(8)})


def test_a_planted_signal_is_found_and_noise_is_not() -> None:
    strong, none = probe_label(table(8.0), "sequence"), probe_label(table(0.0), "sequence")
    for name in ("linear probe", "nearest neighbours"):
        assert strong.scores[name].value > 0.98
        assert abs(none.scores[name].value - 0.5) < 0.15
    assert none.scores["guess"].value == pytest.approx(0.5)
    assert strong.classes == ("flair", "t1")
    assert strong.scores["guess"].n == SUBJECTS


def test_an_age_is_a_number() -> None:
    found = probe_label(table(8.0), "age")
    assert found.scores["linear probe"].value < 0.4 * found.scores["guess"].value
    assert "mean absolute error" in found.text()


def test_a_subject_never_teaches_its_own_scans() -> None:
    """Subjects are recognised with ease and their classes are drawn: who sees a subject twice scores far above half."""
    generator = np.random.default_rng(1)
    own = np.repeat(generator.normal(size=(SUBJECTS, 8)), SCANS, axis=0).astype(np.float32)
    drawn = np.repeat(generator.integers(0, 2, SUBJECTS), SCANS)
    planted = table(0.0).set_column(COLUMNS.index("sex"), "sex", pa.array(np.array(["F", "M"])[drawn].tolist()))
    for i in range(8):
        planted = planted.set_column(len(COLUMNS) + i, f"e{i}", pa.array(own[:, i]))
    assert probe_label(planted, "sex").scores["nearest neighbours"].value < 0.8


def test_unknown_values_and_rare_classes_are_left_out_and_said() -> None:
    found = probe_label(table(0.0), "field_strength")
    assert (found.classes, found.scans) == (("1.5", "3"), SUBJECTS * SCANS - 1)
    names = table(0.0)["sequence"].to_pylist()
    rare = table(0.0).set_column(COLUMNS.index("sequence"), "sequence", pa.array([*names[:-1], "mra"]))
    assert probe_label(rare, "sequence").left_out == {"mra": 1}
    assert "mra (1 scans)" in probe_label(rare, "sequence").text()
    with pytest.raises(TaskError, match="0 classes are known"):
        probe_label(table(0.0), "sex")
    with pytest.raises(TaskError, match="no label 'path'"):
        probe_label(table(0.0), "path")
