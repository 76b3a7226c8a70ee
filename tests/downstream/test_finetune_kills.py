"""Finetuning killed at twenty random moments ends in the models and predictions of an undisturbed run."""

import multiprocessing
import signal
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from test_finetune import QUICK, unit_files

from fomo_ssl.core.errors import entry
from fomo_ssl.core.seeding import numpy_generator
from fomo_ssl.downstream.finetune import finetune
from fomo_ssl.downstream.splits import few_shot_splits
from fomo_ssl.downstream.tasks import load_task

KILLS = 20
CONTEXT = multiprocessing.get_context("forkserver")
CONTEXT.set_forkserver_preload(["fomo_ssl.downstream.finetune", "pytest"])


def _child(root: Path, bundle: Path, run: Path) -> None:
    torch.set_num_threads(1)
    task = load_task(root)
    splits = few_shot_splits(task, [1, 2], 3, n_test=2)
    recipe = replace(QUICK, steps=6)
    entry(_finetune)(task=task, splits=splits, run=run, recipe=recipe, bundle=bundle, parallel=1, resume="auto")


def _finetune(**arguments: Any) -> None:
    finetune(**arguments)


def launch(*arguments: Path) -> Any:
    process = CONTEXT.Process(target=_child, args=arguments)
    process.start()
    return process


def finish(root: Path, bundle: Path, run: Path) -> dict[str, bytes]:
    process = launch(root, bundle, run)
    process.join(600)
    assert process.exitcode == 0
    assert not list(run.glob("**/.*")), "nothing that killed writers left"
    return unit_files(run)


def finished(run: Path) -> int:
    return len(list(run.glob("units/*/result.json")))


@pytest.mark.slow
def test_killed_at_random_moments_every_unit_gets_the_same_bytes(make_task, bundle, tmp_path: Path) -> None:
    root = make_task("segmentation", 6)
    begun = time.monotonic()
    expected = finish(root, bundle, tmp_path / "whole")
    units = finished(tmp_path / "whole")
    each = (time.monotonic() - begun) / units
    kills, attempt, places = 0, 0, []
    while kills < KILLS:
        run = tmp_path / f"killed_{attempt}"
        generator = numpy_generator(kills, 0, "kill")
        process = launch(root, bundle, run)
        aim = finished(run) + int(generator.integers(0, 2))
        while process.is_alive() and finished(run) < aim:
            time.sleep(0.005)
        time.sleep(float(generator.random()) * each)
        process.kill()
        process.join()
        assert process.exitcode in (0, -signal.SIGKILL)
        if process.exitcode == 0:
            assert unit_files(run) == expected
            attempt += 1
            continue
        kills += 1
        places.append(finished(run))
    assert finish(root, bundle, tmp_path / f"killed_{attempt}") == expected
    print(f"{kills} kills of {attempt + 1} runs of {units} units; finished units then: {places}")
    assert len(set(places)) > 3, "kills at one and the same moment prove little"
