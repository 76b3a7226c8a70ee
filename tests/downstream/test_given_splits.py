import json

import pytest

from fomo_ssl.core.errors import TaskError
from fomo_ssl.downstream.given_splits import given_splits
from fomo_ssl.downstream.splits import Split, few_shot_splits, save_splits
from fomo_ssl.downstream.tasks import load_task
from fomo_ssl.finetune import main


def write(tmp_path, value):
    file = tmp_path / "splits_final.json"
    file.write_text(json.dumps(value))
    return file


def test_folds_of_nnunet_by_case_or_subject(make_task, tmp_path):
    task = load_task(make_task("regression", 4))
    names = [case.name for case in task.cases]
    folds = [{"train": names[:2], "val": names[2:]}, {"train": ["sub_2", "sub_3"], "test": ["sub_0"]}]
    first, second = given_splits(write(tmp_path, folds), task)
    assert first == Split(2, 0, tuple(names[:2]), (), tuple(names[2:]), fold=0)
    assert [task[name].subject for name in second.train] == ["sub_2", "sub_3"]
    assert [task[name].subject for name in second.test] == ["sub_0"]
    assert second.fold == 1


def test_splits_of_another_run(make_task, tmp_path):
    task = load_task(make_task("regression", 5))
    splits = few_shot_splits(task, [1, 2], 2, n_test=2)
    save_splits(tmp_path / "splits.json", splits)
    assert given_splits(tmp_path / "splits.json", task) == splits


@pytest.mark.parametrize(
    ("value", "said"),
    [
        ([], "no list of splits"),
        ({"train": []}, "no list of splits"),
        ([{"train": ["sub_0"]}], "no lists train and val"),
        ([{"train": ["sub_0"], "val": ["sub_77"]}], "1 names are no cases.*sub_77"),
        ([{"train": ["sub_0", "sub_1"], "val": ["sub_1"]}], "sub_1 is trained and tested on"),
        ([{"train": ["sub_0"], "val": []}], "trains or tests on nobody"),
    ],
)
def test_what_is_no_split_is_one_line(make_task, tmp_path, value, said):
    task = load_task(make_task("regression", 3))
    with pytest.raises(TaskError, match=said):
        given_splits(write(tmp_path, value), task)


def test_the_command_line(make_task, bundle, tmp_path):
    root = make_task("regression", 4)
    file = write(tmp_path, [{"train": ["sub_0", "sub_1"], "val": ["sub_2", "sub_3"]},
                            {"train": ["sub_2", "sub_3"], "val": ["sub_0", "sub_1"]}])  # fmt: skip
    words = [f"task={root}", f"bundle={bundle}", f"run={tmp_path / 'run'}", f"splits={file}", "steps=2", "crop=16"]
    main([*words, "parallel=1", "scratch=false"])
    assert len(list((tmp_path / "run").glob("units/fold*/result.json"))) == 2
