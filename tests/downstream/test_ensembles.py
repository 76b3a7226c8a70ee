"""The seeds of a run as one model score as `predict` with several bundles would."""

import itertools
import json
import shutil

import numpy as np
import pytest

from fomo_ssl.downstream import ensembles, running, scores
from fomo_ssl.downstream.ensembles import find_ensembles
from fomo_ssl.downstream.finetune import finetune
from fomo_ssl.downstream.inference import predict_case
from fomo_ssl.downstream.metrics import segmentation_metrics
from fomo_ssl.downstream.recipe import Recipe
from fomo_ssl.downstream.splits import cross_validation, few_shot_splits
from fomo_ssl.downstream.tasks import load_task
from fomo_ssl.downstream.unit import Unit
from fomo_ssl.imaging.nifti import read
from fomo_ssl.report.results import rows, settings
from fomo_ssl.report.runs import read_run

QUICK = Recipe(steps=3, batch_size=2, crop=(16, 16, 16), lr=3e-3, precision="32-true", switches={"flip": False})


def start(make_task, bundle, folder, kind="segmentation", seeds=2, **options):
    task = load_task(make_task(kind, 6)) if not folder.exists() else load_task(folder.parent / f"task_{kind}")
    splits = options.pop("splits", few_shot_splits(task, [2], seeds, n_test=2))
    finetune(task=task, splits=splits, run=folder, recipe=QUICK, bundle=bundle, parallel=1, **options)
    return task


def test_masks_of_an_ensemble_are_scored_as_predict_makes_them(make_task, bundle, tmp_path, monkeypatch):
    run = tmp_path / "run"
    task = start(make_task, bundle, run, ensemble=True)
    for init in ("pretrained", "scratch"):
        table = scores.read_csv(run / f"ensembles/shots2_{init}/predictions.csv", "segmentation")
        units = [run / f"units/shots2_seed{seed}_{init}/bundle" for seed in (0, 1)]
        for row, name in enumerate(table.cases):
            mask, truth = predict_case(units, task[name].images), read(task[name].label)
            expected = segmentation_metrics(mask, truth.data.astype(np.uint8), 3, truth.spacing, QUICK.tolerance)
            assert {key: column[row] for key, column in table.columns.items()} == pytest.approx(expected)
    (setting,) = settings([read_run(run)])
    found = {row.arm.init: row for row in rows([setting]) if row.members and row.metric == "dice"}
    assert {row.members for row in found.values()} == {2}
    assert found["pretrained"].score.value == pytest.approx(
        scores.read_csv(run / "ensembles/shots2_pretrained/predictions.csv", "segmentation").columns["dice"].mean()
    )
    difference = found["pretrained"].difference
    assert difference.value == pytest.approx(found["pretrained"].score.value - found["scratch"].score.value)

    def refuse(*_):
        raise AssertionError("tested again")

    with monkeypatch.context() as patch:
        patch.setattr(running, "run_ensemble", refuse)
        start(make_task, bundle, run, ensemble=True, resume="auto")
        with pytest.raises(AssertionError, match="tested again"):
            start(make_task, bundle, run, seeds=3, ensemble=True, resume="auto")
    # What was stopped in the middle goes on, with the seed that is new.
    start(make_task, bundle, run, seeds=3, ensemble=True, resume="auto")
    for init in ("pretrained", "scratch"):
        result = json.loads((run / f"ensembles/shots2_{init}/result.json").read_text())
        assert result["members"] == [f"shots2_seed{seed}_{init}" for seed in (0, 1, 2)]


@pytest.mark.parametrize("where", ["a case", "the table", "the result"])
def test_an_ensemble_that_was_stopped_anywhere_ends_in_the_same_bytes(make_task, bundle, tmp_path, monkeypatch, where):
    run = tmp_path / "run"
    start(make_task, bundle, run)
    undisturbed = tmp_path / "undisturbed"
    shutil.copytree(run, undisturbed)
    start(make_task, bundle, undisturbed, ensemble=True, resume="auto")

    target = {"a case": "predict_mask", "the table": "write_text", "the result": "write_json"}[where]
    whole, calls = getattr(ensembles, target), itertools.count(1)

    def stopped(*arguments):
        if next(calls) == 2:  # the second case, or what the second ensemble writes
            raise KeyboardInterrupt
        return whole(*arguments)

    with monkeypatch.context() as patch:
        patch.setattr(ensembles, target, stopped)
        with pytest.raises(KeyboardInterrupt):
            start(make_task, bundle, run, ensemble=True, resume="auto")
    start(make_task, bundle, run, ensemble=True, resume="auto")
    files = sorted(file.relative_to(undisturbed) for file in (undisturbed / "ensembles").rglob("*.*"))
    assert len(files) == 4
    for file in files:
        assert (run / file).read_bytes() == (undisturbed / file).read_bytes()


@pytest.mark.parametrize("kind", ["classification", "regression"])
def test_numbers_of_an_ensemble_are_those_of_predict(make_task, bundle, tmp_path, kind):
    run = tmp_path / "run"
    task = start(make_task, bundle, run, kind, ensemble=True)
    assert not (run / "ensembles").exists()
    arm = settings([read_run(run)])[0].arms[0]
    units = [run / f"units/shots2_seed{seed}_pretrained/bundle" for seed in (0, 1)]
    table = arm.ensemble.predictions
    for name, value in zip(table.cases, table.columns["prediction"], strict=True):
        assert predict_case(units, task[name].images) == pytest.approx(value, abs=1e-6)


def test_folds_are_tested_by_those_who_did_not_train_on_them(make_task):
    task = load_task(make_task("segmentation", 6))
    units = [Unit(split, "scratch") for split in cross_validation(task, 3, 2)]
    (found,) = find_ensembles(units)
    assert sorted(found.cases) == sorted(case.name for case in task.cases)
    for case in found.cases:
        members = found.members(case)
        assert [unit.split.seed for unit in members] == [0, 1]
        assert not any(case in unit.split.train for unit in members)


def test_one_seed_or_seeds_of_other_test_cases_are_no_ensemble(make_task):
    task = load_task(make_task("segmentation", 6))
    one = few_shot_splits(task, [1, 2], 1, n_test=2)
    assert find_ensembles([Unit(split, "scratch") for split in one]) == []
    folds = cross_validation(task, 3, 2)
    assert find_ensembles([Unit(split, "scratch") for split in folds[:-1]]) == []
