from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fomo_ssl.core.errors import TaskError
from fomo_ssl.downstream.splits import cross_validation, extend_splits, few_shot_splits, read_splits, save_splits
from fomo_ssl.downstream.stopping import hold_out
from fomo_ssl.downstream.tasks import Case, Task


def task_of(subjects: int, sessions: int = 1, kind: str = "classification", positives: int = 4) -> Task:
    cases = tuple(
        Case(f"sub_{s}_ses_{k}", f"sub_{s}", f"ses_{k}", {"t1": Path("t1.nii.gz")}, int(s < positives))
        for s in range(subjects)
        for k in range(sessions)
    )
    return Task("t", kind, ("t1",), cases, 2)  # type: ignore[arg-type]


@settings(deadline=None, max_examples=40)
@given(st.integers(8, 30), st.integers(1, 3), st.sampled_from(["classification", "regression"]))
def test_few_shot_splits_nest_and_never_leak(subjects, sessions, kind):
    splits = few_shot_splits(task_of(subjects, sessions, kind), [1, 3], 3, n_test=4, n_validation=1)
    assert len({split.test for split in splits}) == 1
    assert len({name for split in splits for name in (split.name,)}) == 6
    for seed in range(3):
        small, large = (split for split in splits if split.seed == seed)
        assert set(small.train) < set(large.train)
        assert (len(small.train), len(large.train), len(large.test)) == (sessions, 3 * sessions, 4 * sessions)
    for split in splits:
        parts = [{name.rsplit("_ses")[0] for name in part} for part in (split.train, split.validation, split.test)]
        assert len(set.union(*parts)) == sum(len(part) for part in parts)


def test_seeds_differ_and_repeat():
    task = task_of(40, kind="regression")
    splits = few_shot_splits(task, [5], 4, n_test=10)
    assert len({split.train for split in splits}) == 4
    assert splits == few_shot_splits(task, [5], 4, n_test=10)


def test_more_seeds_or_shots_leave_the_others_alone():
    task = task_of(40, kind="regression")
    few = few_shot_splits(task, [1], 1, n_test=10)[0]
    many = few_shot_splits(task, [1, 5, 20], 3, n_test=10)
    assert few in many


def test_classes_are_balanced_in_every_training_set():
    for split in few_shot_splits(task_of(40, positives=20), [2, 4, 10], 5, n_test=20):
        positives = sum(int(name.split("_")[1]) < 20 for name in split.train)
        assert positives == len(split.train) // 2
        assert sum(int(name.split("_")[1]) < 20 for name in split.test) == 10


def of_two_sites(subjects: int) -> Task:
    """Subjects with an even number are of `north`, the others of `south`."""
    task = task_of(subjects, kind="regression")
    cases = tuple(replace(c, dataset="south" if int(c.subject[4:]) % 2 else "north") for c in task.cases)
    return replace(task, cases=cases)


def test_one_site_trains_and_the_other_is_tested():
    task = of_two_sites(40)
    for split in few_shot_splits(task, [5, 12], 3, n_test=15, n_validation=2, train_on=["north"], test_on=["south"]):
        assert {task[name].dataset for name in (*split.train, *split.validation)} == {"north"}
        assert {task[name].dataset for name in split.test} == {"south"}
        assert len(split.test) == 15


def test_a_subject_of_both_sites_trains_and_is_tested_with_the_scans_of_one():
    task = of_two_sites(12)
    again = [
        replace(case, name=f"{case.name}_moved", dataset="south") for case in task.cases if case.dataset == "north"
    ]
    task = replace(task, cases=(*task.cases, *again))
    for train_on, test_on in (("north", "south"), ("south", "north")):
        for split in few_shot_splits(task, [3], 3, n_test=3, train_on=[train_on], test_on=[test_on]):
            assert {task[name].dataset for name in split.train} == {train_on}
            assert {task[name].dataset for name in split.test} == {test_on}
            assert not {task[name].subject for name in split.train} & {task[name].subject for name in split.test}


def test_shots_given_twice_are_one_unit():
    assert [split.name for split in few_shot_splits(task_of(12), [2, 1, 2], 1)] == ["shots2_seed0", "shots1_seed0"]


def test_the_test_subjects_do_not_depend_on_who_trains():
    task = of_two_sites(40)
    across, within = (
        few_shot_splits(task, [5], 1, n_test=15, train_on=[site], test_on=["south"])[0] for site in ("north", "south")
    )
    assert across.test == within.test
    assert not set(within.train) & set(within.test)


@pytest.mark.parametrize(("train_on", "left"), [(["north"], 20), (["south"], 15), (["north", "south"], 20), (None, 20)])
def test_default_test_set_leaves_those_who_train(train_on, left):
    task = of_two_sites(40)
    (split,) = few_shot_splits(task, [5], 1, train_on=train_on, test_on=["south"])
    assert (len(split.test), len(split.train)) == (left, 5)


def test_unknown_datasets_are_named():
    with pytest.raises(TaskError, match=r"no dataset west.*It has north, south"):
        few_shot_splits(of_two_sites(12), [1], 1, train_on=["west"])
    with pytest.raises(TaskError, match=r"participants\.tsv"):
        few_shot_splits(task_of(12), [1], 1, train_on=["west"])


def test_a_site_with_too_few_subjects():
    with pytest.raises(TaskError, match="6 subjects to train and 6 to test on; 7 for training and 3 for testing"):
        few_shot_splits(of_two_sites(12), [7], 1, n_test=3, train_on=["north"], test_on=["south"])


def test_a_run_taken_up_again_keeps_its_splits_and_gains_new_ones(tmp_path):
    task, file = task_of(40, kind="regression"), tmp_path / "splits.json"
    few = few_shot_splits(task, [1], 1, n_test=10)
    extend_splits(file, few)
    extend_splits(file, few_shot_splits(task, [1, 5], 2, n_test=10))
    extend_splits(file, few)
    assert {split.name for split in read_splits(file)} == {
        *("shots1_seed0", "shots5_seed0"),
        *("shots1_seed1", "shots5_seed1"),
    }
    with pytest.raises(TaskError, match="shots1_seed0 had other cases before"):
        extend_splits(file, few_shot_splits(task, [1], 1, n_test=12))
    assert len(read_splits(file)) == 4


def test_default_test_set_is_what_is_left():
    assert len(few_shot_splits(task_of(12), [5], 1)[0].test) == 7
    assert len(few_shot_splits(task_of(90), [5], 1)[0].test) == 50


@pytest.mark.parametrize(("shots", "n_test"), [([10], 5), ([12], None), ([0], 2)])
def test_impossible_splits_say_why(shots, n_test):
    with pytest.raises(TaskError, match="subjects"):
        few_shot_splits(task_of(12), shots, 1, n_test=n_test)


@settings(deadline=None, max_examples=40)
@given(st.integers(5, 20), st.integers(2, 5), st.integers(1, 2))
def test_every_case_is_tested_once_a_seed(subjects, folds, seeds):
    task = task_of(subjects, 2, kind="regression")
    splits = cross_validation(task, folds, seeds)
    for seed in range(seeds):
        tested = [name for split in splits if split.seed == seed for name in split.test]
        assert sorted(tested) == sorted(case.name for case in task.cases)
    for split in splits:
        assert {n.rsplit("_ses")[0] for n in split.test}.isdisjoint(n.rsplit("_ses")[0] for n in split.train)


@pytest.mark.parametrize(
    ("subjects", "positives", "folds"), [(20, 9, 4), (20, 4, 5), (50, 20, 5), (30, 10, 3), (9, 2, 2)]
)
def test_every_fold_holds_its_share_of_every_class(subjects, positives, folds):
    for split in cross_validation(task_of(subjects, positives=positives), folds):
        ill = sum(int(name.split("_")[1]) < positives for name in split.test)
        assert abs(ill - positives / folds) < 1
        assert abs(len(split.test) - subjects / folds) < 1
        assert not set(split.test) & set(split.train)


def test_early_stopping_in_a_fold_looks_at_every_class():
    task = task_of(40, positives=16)
    for split in cross_validation(task, 4):
        assert {task[name].label for name in hold_out(task, split, 0.2).validation} == {0, 1}


def test_too_many_folds():
    with pytest.raises(TaskError, match="21 folds do not suit 20 subjects"):
        cross_validation(task_of(20), 21)


def test_splits_survive_the_file(tmp_path):
    splits = few_shot_splits(task_of(12), [1, 2], 2, n_test=4) + cross_validation(task_of(12), 3)
    save_splits(tmp_path / "splits.json", splits)
    assert read_splits(tmp_path / "splits.json") == splits
    (tmp_path / "splits.json").write_text("{")
    with pytest.raises(TaskError, match="no list of splits"):
        read_splits(tmp_path / "splits.json")
