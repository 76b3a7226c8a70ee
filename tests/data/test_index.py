"""The columns of a store, splits by subject and sampling weights."""

from dataclasses import fields, replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fomo_ssl.core.errors import ConfigError, StoreError
from fomo_ssl.core.types import SEQUENCES
from fomo_ssl.data.index import ScanIndex, excluded_scans, sampling_weights, select_sequences, split_by_subject


def test_columns_are_those_of_the_table(store, index):
    rows = store.index.to_pylist()
    assert len(index) == len(rows) == 25
    for i, row in enumerate(rows):
        assert index.dataset_names[index.dataset[i]] == row["dataset"]
        assert index.sequence_names[index.sequence[i]] == row["sequence"]
        assert SEQUENCES[index.sequence_class[i]] == row["sequence"]
        for axis, name in enumerate("xyz"):
            assert index.shape[i, axis] == row[f"shape_{name}"] == store.read(i).shape[axis]
            assert index.spacing[i, axis] == np.float32(row[f"spacing_{name}"])
            assert (index.box_lo[i, axis], index.box_hi[i, axis]) == (row[f"box_lo_{name}"], row[f"box_hi_{name}"])
        assert index.affine[i].ravel().tolist() == row["affine"]
        assert (index.scale[i], index.offset[i]) == (np.float32(row["scale"]), np.float32(row["offset"]))


def test_the_same_name_in_another_data_set_is_another_subject(store, index):
    rows = store.index.to_pylist()
    owner = {}
    for i, row in enumerate(rows):
        owner.setdefault((row["dataset"], row["subject"]), set()).add(int(index.subject[i]))
    assert all(len(ids) == 1 for ids in owner.values())
    assert len(set.union(*owner.values())) == len(owner) == 8


def test_siblings_are_the_other_sequences_of_the_session(store, index):
    rows = store.index.to_pylist()

    def session(row):
        return row["dataset"], row["subject"], row["session"]

    for i, row in enumerate(rows):
        slow = [
            k for k, other in enumerate(rows) if session(other) == session(row) and other["sequence"] != row["sequence"]
        ]
        assert index.siblings(i).tolist() == slow


def test_a_table_without_a_column_is_refused(store):
    with pytest.raises(StoreError, match="box_lo_x"):
        ScanIndex.of(replace(store, index=store.index.drop_columns(["box_lo_x"])))


def _index_of(index, subjects):
    """An index of one scan per entry of `subjects`."""
    first = {f.name: getattr(index, f.name) for f in fields(index) if isinstance(getattr(index, f.name), np.ndarray)}
    repeated = {name: column[np.zeros(len(subjects), dtype=np.int64)] for name, column in first.items()}
    return replace(index, **{**repeated, "subject": np.array(subjects, dtype=np.uint64)})


@given(
    subjects=st.lists(st.integers(0, 2**64 - 1), min_size=3, max_size=60),
    held_out=st.one_of(st.floats(0.0, 0.6), st.integers(0, 2)),
    seed=st.integers(0, 1000),
)
@settings(max_examples=60, deadline=None)
def test_no_subject_is_on_both_sides(index, subjects, held_out, seed):
    many = _index_of(index, [*subjects, 1, 2, 3, *subjects])
    try:
        split = split_by_subject(many, held_out, seed)
    except ConfigError:
        return
    assert not set(many.subject[split.train]) & set(many.subject[split.held_out])
    assert sorted([*split.train, *split.held_out]) == list(range(len(many.subject)))
    if isinstance(held_out, int):
        assert len(np.unique(many.subject[split.held_out])) == held_out
    else:
        assert (len(split.held_out) > 0) == (held_out > 0)


def test_a_fraction_is_that_share_and_newcomers_move_nobody(index):
    old = np.random.default_rng(0).integers(0, 2**63, 500).tolist()
    new = np.random.default_rng(1).integers(0, 2**63, 300).tolist()
    before, after = _index_of(index, old), _index_of(index, new + old)
    held = set(before.subject[split_by_subject(before, 0.2, 0).held_out])
    assert 0.15 < len(held) / 500 < 0.25
    later = set(after.subject[split_by_subject(after, 0.2, 0).held_out])
    assert held == later & set(before.subject)
    assert held != set(before.subject[split_by_subject(before, 0.2, 1).held_out])


@pytest.mark.parametrize("held_out", [1.0, -0.1, -1, 8, 100])
def test_a_split_that_cannot_be_is_refused(index, held_out):
    with pytest.raises(ConfigError, match="held_out"):
        split_by_subject(index, held_out, 0)


def test_weights_multiply_and_name_what_is_missing(index):
    rows = np.arange(3, len(index))
    weights = sampling_weights(index, rows, {"site_b": 2.0}, {"flair": 3.0, "t2": 0.0})
    for row, weight in zip(rows, weights, strict=True):
        site = 2.0 if index.dataset_names[index.dataset[row]] == "site_b" else 1.0
        assert weight == site * {"flair": 3.0, "t2": 0.0, "t1": 1.0}[index.sequence_names[index.sequence[row]]]
    with pytest.raises(ConfigError, match=r"site_c.*site_a, site_b"):
        sampling_weights(index, rows, {"site_c": 1.0})
    with pytest.raises(ConfigError, match="no scan to draw"):
        sampling_weights(index, rows, {"site_a": 0.0, "site_b": 0.0})
    with pytest.raises(ConfigError, match="not negative"):
        sampling_weights(index, rows, {"site_a": -1.0})
    assert sampling_weights(index, rows[:0]).shape == (0,)


def test_sequences_are_selected_by_name(index):
    rows = select_sequences(index, np.arange(len(index)), ["t2", "flair"])
    assert set(index.sequence[rows]) == {index.sequence_names.index("t2"), index.sequence_names.index("flair")}
    assert len(rows) == 16
    with pytest.raises(ConfigError, match="swi"):
        select_sequences(index, rows, ["swi"])


def test_scans_of_a_table_are_left_out(store, tmp_path):
    paths = store.index.column("path").to_pylist()
    table = tmp_path / "flags.csv"
    table.write_text(
        f"flag,path,volume\nduplicate,{paths[3]},0\noutlier,{paths[3]},0\nblank,{paths[1]},0\nx,{paths[2]},7\n"
    )
    assert excluded_scans(store, table).tolist() == [1, 3]
    table.write_text(f"path\n{paths[4]}\n")
    assert excluded_scans(store, table).tolist() == [4]
    table.write_text(f"path,volume\n{paths[4]},0.0\n", encoding="utf-8-sig")
    assert excluded_scans(store, table).tolist() == [4]
    table.write_text("path\n")
    assert excluded_scans(store, table).tolist() == []
    dataset, subject = (store.index.column(name).to_pylist() for name in ("dataset", "subject"))
    table.write_text(f"dataset,subject\n{dataset[2]},{subject[2]}\nnowhere,{subject[0]}\n")
    own = [row for row, one in enumerate(zip(dataset, subject, strict=True)) if one == (dataset[2], subject[2])]
    assert excluded_scans(store, table).tolist() == own


@pytest.mark.parametrize(
    ("text", "what"),
    [
        (None, "cannot be read"),
        ("file\na\n", "no column"),
        ("path\nelsewhere.nii\n", "none of its scans"),
        ("path,volume\na.nii,first\n", "column volume"),
        ("path\n\udcff.nii\n", "no CSV in UTF-8"),
    ],
)
def test_a_table_of_something_else_is_refused(store, tmp_path, text, what):
    table = tmp_path / "flags.csv"
    if text is not None:
        table.write_text(text, encoding="utf-8", errors="surrogateescape")
    with pytest.raises(ConfigError, match=what) as caught:
        excluded_scans(store, table)
    assert str(table) in str(caught.value)
