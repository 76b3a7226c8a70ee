"""Pretraining killed at twenty random moments ends in the bundle and the log of an undisturbed run, bit for bit."""

import signal
import time
from pathlib import Path
from typing import Any

import pytest
from test_resume import finish, launch, without_clocks
from training_runs import file_digests

from fomo_ssl.core.seeding import numpy_generator
from fomo_ssl.training.callbacks.health import HealthConfig
from fomo_ssl.training.checkpoint import checkpoint_files, samples_of
from fomo_ssl.training.source import DataConfig

KILLS = 20


def position(run: Path) -> int:
    files = checkpoint_files(run / "checkpoints")
    return samples_of(files[0]) if files else 0


def killed(store: Path, run: Path, number: int, arguments: dict[str, Any]) -> bool:
    """Start or continue a run and kill it; False where it ended before.

    Waits for a random number of further checkpoints, none at times, and then a random while: in the beginning, at a
    step, in a save.
    """
    generator = numpy_generator(number, 0, "kill")
    process = launch(store, run, **arguments)
    aim = position(run) + int(generator.integers(0, 3)) * arguments["checkpoint_every"]
    while process.is_alive() and position(run) < aim:
        time.sleep(0.002)
    time.sleep(float(generator.random()) * (0.2 if aim > position(run) else 1.5))
    process.kill()
    process.join()
    assert process.exitcode in (0, -signal.SIGKILL)
    return process.exitcode == -signal.SIGKILL


@pytest.mark.slow
@pytest.mark.parametrize("workers", [0, 2])
@pytest.mark.parametrize(
    ("objective", "settings"),
    [
        ("mae", {}),
        ("moco", {"queue": 40, "projector_hidden": 32, "projector_dim": 16}),
        ("self_distillation", {"prototypes": 16, "hidden": 32, "bottleneck": 8}),
    ],
    ids=["mae", "moco", "self_distillation"],
)
def test_killed_at_random_moments_the_bundle_gets_the_same_bytes(
    store: Path, tmp_path: Path, objective: str, settings: dict[str, Any], workers: int
) -> None:
    arguments: dict[str, Any] = {
        "objective": objective,
        "settings": settings,
        "samples": 400,
        "batch_size": 4,
        "accumulate": 2,
        "checkpoint_every": 8,
        "preview_every": 100,
        "health": HealthConfig(every=100, crops=2, pictures=0),
        "data": DataConfig(held_out=1, workers=workers),
    }
    expected = finish(store, tmp_path / "whole", **arguments)
    log = without_clocks(tmp_path / "whole")
    kills, attempt, places = 0, 0, set()
    while kills < KILLS:
        # A run that came to its end is compared, and the kills go on with another.
        run = tmp_path / f"killed_{attempt}"
        if killed(store, run, kills, arguments):
            kills += 1
            places.add(position(run))
        else:
            assert file_digests(run / "bundle") == expected
            attempt += 1
    assert finish(store, tmp_path / f"killed_{attempt}", **arguments) == expected
    assert without_clocks(tmp_path / f"killed_{attempt}") == log
    print(f"{kills} kills of {attempt + 1} runs, newest checkpoints then: {sorted(places)}")
    assert len(places) > 5, "kills at one and the same moment prove little"
