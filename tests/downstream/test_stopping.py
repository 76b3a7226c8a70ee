import json
import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import nn

from fomo_ssl.core.errors import TaskError
from fomo_ssl.downstream.finetune import finetune
from fomo_ssl.downstream.recipe import Recipe
from fomo_ssl.downstream.scores import Predictions
from fomo_ssl.downstream.splits import few_shot_splits
from fomo_ssl.downstream.stopping import EarlyStopping, hold_out, validation_loss
from fomo_ssl.downstream.tasks import load_task


def test_it_stops_after_patience_and_keeps_the_best():
    model, stopping = nn.Linear(1, 1), EarlyStopping(patience=2)
    answers = []
    for step, loss in enumerate([3.0, 1.0, 2.0, math.nan], start=1):
        nn.init.constant_(model.weight, step)
        answers.append(stopping.look(step, loss, model))
    assert answers == [False, False, False, True]
    assert (stopping.best_step, stopping.best_loss) == (2, 1.0)
    stopping.restore(model)
    assert model.weight.item() == 2.0


def test_a_tie_is_no_progress_and_no_look_leaves_the_weights():
    model, stopping = nn.Linear(1, 1), EarlyStopping(patience=1)
    assert not stopping.look(1, 1.0, model)
    assert stopping.look(2, 1.0, model)
    weight = model.weight.detach().clone()
    EarlyStopping(1).restore(model)
    assert torch.equal(model.weight, weight)


def test_validation_cases_come_from_the_shots_and_not_from_the_test(make_task):
    task = load_task(make_task("classification", 14))
    for split in few_shot_splits(task, [4, 10], 2, n_test=4):
        held = hold_out(task, split, 0.2)
        assert set(held.train) | set(held.validation) == set(split.train)
        assert not set(held.train) & set(held.validation)
        assert held.test == split.test
        assert not set(held.validation) & set(split.test)
        assert len(held.validation) == (1 if split.shots == 4 else 2)
        if split.shots == 10:
            assert {task[name].label for name in held.validation} == {0, 1}


def test_one_shot_cannot_be_divided(make_task):
    task = load_task(make_task("regression", 3))
    with pytest.raises(TaskError, match="none is left"):
        hold_out(task, few_shot_splits(task, [1], 1, n_test=1)[0], 0.2)


def test_validation_cases_of_its_own_are_not_thrown_away(make_task):
    task = load_task(make_task("regression", 6))
    (split,) = few_shot_splits(task, [3], 1, n_test=1, n_validation=2)
    with pytest.raises(TaskError, match="n_validation=0"):
        hold_out(task, split, 0.2)


def test_losses_of_the_kinds():
    def predictions(kind, **columns):
        arrays = {name: np.array(values, float) for name, values in columns.items()}
        return Predictions(kind, ("a", "b"), ("a", "b"), ("", ""), arrays)

    binary = predictions("classification", target=[0, 1], prediction=[0.2, 0.5])
    assert validation_loss(binary) == pytest.approx(-(math.log(0.8) + math.log(0.5)) / 2)
    three = {"probability_0": [0.7, 0.1], "probability_1": [0.2, 0.2], "probability_2": [0.1, 0.7]}
    several = predictions("classification", target=[0, 2], prediction=[0, 2], **three)
    assert validation_loss(several) == pytest.approx(-math.log(0.7))
    assert validation_loss(predictions("regression", target=[50, 60], prediction=[54, 60]), 4.0) == 0.5
    assert validation_loss(predictions("segmentation", dice=[0.5, 0.7])) == pytest.approx(0.4)


@pytest.mark.parametrize("kind", ["classification", "segmentation"])
def test_a_run_stops_early_and_keeps_what_it_says(make_task, bundle, tmp_path, kind):
    task = load_task(make_task(kind, 6))
    recipe = Recipe(steps=40, batch_size=2, crop=(16, 16, 16), lr=0.0, precision="32-true", switches={"flip": False})
    recipe = replace(recipe, early_stopping=True, patience=3, validate_every=2)
    splits = few_shot_splits(task, [4], 1, n_test=2)
    finetune(task=task, splits=splits, run=tmp_path / "run", recipe=recipe, bundle=bundle, parallel=1)
    unit = tmp_path / "run/units/shots4_seed0_pretrained"
    result = json.loads((unit / "result.json").read_text())
    # Nothing moves, so the first look is the best and three more are waited for.
    assert (result["steps_taken"], result["best_step"], result["steps"]) == (8, 2, 40)
    assert len(result["train"]) == 3
    assert len(result["validation"]) == 1
    assert not set(result["train"] + result["validation"]) & set(splits[0].test)
    losses = [row.split(",")[4] for row in (unit / "curve.csv").read_text().splitlines()[1:]]
    assert [bool(loss) for loss in losses] == [False, True] * 4
    assert len(set(losses)) == 2


def test_too_few_shots_are_said_before_training(make_task, bundle, tmp_path):
    task = load_task(make_task("regression", 6))
    recipe = Recipe(steps=1, batch_size=1, early_stopping=True)
    splits = few_shot_splits(task, [1, 4], 1, n_test=2)
    with pytest.raises(TaskError, match="early_stopping=false"):
        finetune(task=task, splits=splits, run=tmp_path / "run", recipe=recipe, bundle=bundle)
    assert not (tmp_path / "run").exists()
