"""Which scans a run looks at, and what their embeddings are probed for."""

from pathlib import Path

import numpy as np
import pytest

from fomo_ssl.core.types import SEQUENCES, ViewSpec
from fomo_ssl.training.callbacks.probes import MIN_SUBJECTS, Label, Probes
from fomo_ssl.training.source import CropSource, DataConfig

SIDES = np.arange(40) % 2 == 0


def make_probes(values: np.ndarray, subjects: np.ndarray | None = None, regression: bool = False) -> Probes:
    label = Label("x", "regression" if regression else "classification", values.astype(np.float64))
    return Probes((label,), np.arange(40, dtype=np.uint64) if subjects is None else subjects, SIDES)


def open_source(store: Path, held_out: int, seed: int = 0) -> CropSource:
    return CropSource.open(store, DataConfig(held_out=held_out, workers=0), ViewSpec(), (16, 16, 16), seed)


def test_looks_are_at_many_subjects_on_either_side(labelled_store: Path) -> None:
    source = open_source(labelled_store, 6)
    subject = source.index.subject
    drawn = source.looked_at(7)
    assert len(drawn.train) == len(set(subject[drawn.train])) == 7
    assert len(drawn.held_out) == 7
    assert len(set(subject[drawn.held_out])) == 6
    assert not set(subject[drawn.train]) & set(subject[drawn.held_out])
    assert set(drawn.train) <= set(source.split.train)
    again, other = open_source(labelled_store, 6).looked_at(7), open_source(labelled_store, 6, seed=1).looked_at(7)
    assert again.train.tolist() == drawn.train.tolist()
    assert other.train.tolist() != drawn.train.tolist()
    everything = source.looked_at(1000)
    assert sorted(everything.train) == source.split.train.tolist()
    assert len(set(everything.held_out)) == 12


def test_labels_are_those_of_the_store(labelled_store: Path) -> None:
    source = open_source(labelled_store, 7)
    rows = np.concatenate([source.split.held_out, source.split.train])
    sides = np.isin(rows, source.split.held_out)
    probes = Probes.of(source.store, rows, source.index.subject[rows], sides)
    values = {label.name: label.values for label in probes.labels}
    columns = {name: source.store.index.column(name).to_pylist() for name in ("sequence", "sex", "age")}
    for place, row in enumerate(rows.tolist()):
        assert SEQUENCES[int(values["sequence"][place])] == columns["sequence"][row]
        assert "FM"[int(values["sex"][place])] == columns["sex"][row]
        assert values["age"][place] == columns["age"][row]
    assert probes.lacking() == (
        ["sex"] if min(np.bincount(values["sex"][sides].astype(int))) < 2 * MIN_SUBJECTS else []
    )


def test_scores_are_fitted_on_one_side_and_taken_on_the_other() -> None:
    classes = np.arange(40) // 2 % 2
    embeddings = np.zeros((40, 3), np.float32)
    embeddings[:, 0] = classes
    found = make_probes(classes).scores(embeddings, np.arange(40))
    assert (found["probe/x_linear"], found["probe/x_knn"], found["probe/x_baseline"]) == (1.0, 1.0, 0.5)
    # On the held-out side the feature means the opposite: nothing right is left if no held-out scan was fitted on.
    embeddings[SIDES, 0] = 1 - classes[SIDES]
    found = make_probes(classes).scores(embeddings, np.arange(40))
    assert (found["probe/x_linear"], found["probe/x_knn"]) == (0.0, 0.0)


def test_rare_classes_and_rare_labels_are_left_out() -> None:
    classes = np.arange(40) // 2 % 3
    embeddings = np.eye(40, dtype=np.float32)
    assert make_probes(classes).scores(embeddings, np.arange(40))["probe/x_baseline"] == pytest.approx(1 / 3)
    few = np.where((classes == 2) & (np.arange(40) > 20), np.nan, classes.astype(float))
    assert make_probes(few).scores(embeddings, np.arange(40))["probe/x_baseline"] == 0.5
    assert make_probes(np.zeros(40)).lacking() == ["x"]
    assert make_probes(np.where(np.arange(40) < 2 * MIN_SUBJECTS, 1.0, np.nan), regression=True).lacking() == []
    assert make_probes(np.where(np.arange(40) < 2 * MIN_SUBJECTS - 1, 1.0, np.nan), regression=True).lacking() == ["x"]
    # Many scans of few subjects are few.
    assert make_probes(classes, subjects=(np.arange(40) % 8).astype(np.uint64)).lacking() == ["x"]


def test_scans_that_could_not_be_read_are_no_part_of_it() -> None:
    values = np.arange(40.0)
    places = np.flatnonzero(np.arange(40) != 3)
    embeddings = values[places, None].astype(np.float32)
    assert make_probes(values, regression=True).scores(embeddings, places)["probe/x_linear"] < 1.0
