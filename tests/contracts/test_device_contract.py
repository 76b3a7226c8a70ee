"""What a GPU asks of a training step, tried without one: tensors made where they are used, and few known waits."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from fomo_ssl.objectives import list_objectives

WAITS = {
    # Which tokens are hidden is drawn on the device; how many stay is a size.
    "objectives/base.py encode",
    # So is the part of the queue that is filled.
    "objectives/moco.py score",
    # Keys and spacing, from which the host draws what is done to the crops.
    "data/augment/augmenter.py augment",
}


@pytest.fixture(scope="module")
def steps() -> dict[str, dict[str, int]]:
    """Waits by place, of every case."""
    here = Path(__file__).parent
    done = subprocess.run(
        [sys.executable, here / "pretend_gpu.py"],
        env=os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": os.pathsep.join(filter(None, sys.path))},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    lines = [json.loads(line) for line in done.stdout.splitlines()]
    return {line["case"]: line["waits"] for line in lines}


def test_every_step_runs_where_its_views_are(steps: dict[str, dict[str, int]]) -> None:
    assert {f"{name}-vit_t_p8" for name in list_objectives()} | {"augment-1", "augment-2"} <= steps.keys()


def test_the_host_waits_in_known_places_alone(steps: dict[str, dict[str, int]]) -> None:
    assert {place for waits in steps.values() for place in waits} == WAITS
    assert steps["augment-2"] == {"data/augment/augmenter.py augment": 2}
