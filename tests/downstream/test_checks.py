import json
import shutil

import numpy as np
import pytest

from fomo_ssl.core.errors import RunError, TaskError
from fomo_ssl.downstream.checks import case_digests, check_masks, file_digests, some
from fomo_ssl.downstream.finetune import finetune
from fomo_ssl.downstream.recipe import Recipe
from fomo_ssl.downstream.splits import few_shot_splits
from fomo_ssl.downstream.tasks import load_task
from fomo_ssl.imaging.nifti import read, write
from fomo_ssl.report.provenance import fingerprints
from fomo_ssl.report.runs import read_run

QUICK = Recipe(steps=2, batch_size=2, crop=(16, 16, 16), precision="32-true", switches={"flip": False})


def run(root, bundle, folder, shots=(1,), **options):
    task = load_task(root)
    splits = few_shot_splits(task, list(shots), 1, n_test=2)
    finetune(task=task, splits=splits, run=folder, recipe=QUICK, bundle=bundle, parallel=1, scratch=False, **options)
    return task, splits


def test_a_mask_elsewhere_ends_it_before_anything_is_trained(make_task, bundle, tmp_path):
    root = make_task("segmentation", 5)
    task = load_task(root)
    last = few_shot_splits(task, [1], 1, n_test=2)[0].test[-1]
    mask = read(task[last].label)
    moved = mask.affine.copy()
    moved[0, 3] += 7.0
    write(task[last].label, mask.data.astype(np.uint8), moved)
    with pytest.raises(TaskError, match=r"lies up to 7\.0 mm"):
        run(root, bundle, tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_empty_masks_are_named(make_task, bundle, tmp_path, capsys):
    root = make_task("segmentation", 5)
    task = load_task(root)
    first = few_shot_splits(task, [1], 1, n_test=2)[0].test[0]
    mask = read(task[first].label)
    write(task[first].label, np.zeros(mask.data.shape, np.uint8), mask.affine)
    run(root, bundle, tmp_path / "run")
    assert f"1 of 3 masks are empty: {first}" in capsys.readouterr().err
    assert json.loads((tmp_path / "run" / "run.json").read_text())["empty_masks"] == [first]


def test_changed_files_are_not_mixed_with_what_was_done(make_task, bundle, tmp_path):
    root = make_task("segmentation", 6)
    task, splits = run(root, bundle, tmp_path / "run")
    before = fingerprints(read_run(tmp_path / "run"))["data"]
    run(root, bundle, tmp_path / "run", shots=(1, 2), resume="auto")  # more cases are no change
    assert fingerprints(read_run(tmp_path / "run"))["data"] != before
    name = splits[0].test[0]
    shutil.copy(task[splits[0].train[0]].label, task[name].label)
    with pytest.raises(RunError, match=f"image or label changed since the run began: {name}"):
        run(root, bundle, tmp_path / "run", shots=(1, 2), resume="auto")


def test_a_number_is_part_of_the_digest(make_task):
    task = load_task(make_task("regression", 3))
    digests = file_digests(task.cases)
    assert len(set(case_digests(task.cases, digests).values())) == 3
    again = load_task(make_task("regression", 0)).cases
    assert case_digests(task.cases, digests) == case_digests(again, file_digests(again))
    assert check_masks(task.cases) == []


def test_some():
    assert some(list("abcde")) == "a, b, c, d, e"
    assert some(list("abcdefg")) == "a, b, c, d, e and 2 more"
