"""Every objective, and every family of encoders, goes on after Ctrl-C as if nothing had been: equal bytes at the end.

tests/training/test_resume.py kills runs at all kinds of moments and finds what the engine forgets. Here is what only an
objective or an encoder can forget: a queue, a teacher, a centre, a table that no checkpoint holds.
"""

import json
import signal
from pathlib import Path

import pytest
from objective_cases import PRESETS, SMALL, settings
from stores import phantom_store

from fomo_ssl.config import conf_dir
from fomo_ssl.data.augment import Augmenter
from fomo_ssl.encoders import create_encoder
from fomo_ssl.objectives import create_objective, list_objectives
from fomo_ssl.training.callbacks.health import HealthConfig
from fomo_ssl.training.checkpoint import checkpoint_files, samples_of, seed_everything
from fomo_ssl.training.run import RunConfig, pretrain
from fomo_ssl.training.source import DataConfig

BATCH, STEPS, STOP = 2, 4, 1
OBJECTIVES = sorted({*list_objectives(), *PRESETS})
# With those that meet what a family adds: tokens that are dropped or masked, a second encoder as teacher.
OTHERS = {
    "vit_t_p8": ("mae", "self_distillation"),
    "primus_t": ("mae",),
    "swin_t": ("simmim",),
    "mednext_s": ("moco",),
    "resenc_t": (),  # those of tests/training/test_resume.py
}
CASES = [(name, "unet_t") for name in OBJECTIVES] + [(name, family) for family in OTHERS for name in OTHERS[family]]
# The rest of the grid.
REST = [(name, family) for family in OTHERS for name in OBJECTIVES if name not in OTHERS[family]]


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Four subjects with two sequences each, 20 voxels a side."""
    return phantom_store(tmp_path_factory.mktemp("resume") / "store", subjects=4, edge=20)


def train(
    store: Path, run: Path, name: str, family: str, weights: int = 0, stop: int | None = None
) -> dict[str, bytes]:
    """Pretrain, or go on; Ctrl-C falls into step `stop`, between its forward and its backward pass."""
    seed_everything(weights)
    objective = create_objective(encoder=create_encoder(family, **SMALL[family]), **settings(name))
    if stop is not None:
        objective.register_forward_hook(
            lambda _, inputs, __: signal.raise_signal(signal.SIGINT) if inputs[1] == stop else None
        )
    config = RunConfig(
        samples=STEPS * BATCH,
        batch_size=BATCH,
        crop=(16, 16, 16),
        data=DataConfig(held_out=1, workers=0),
        log_every=2,
        health=HealthConfig(enabled=False),
        trainer={"accelerator": "cpu"},
    )
    pretrain(
        store=store,
        run=run,
        objective=objective,
        augment=Augmenter("all", objective.views),
        config=config,
        resume="auto",
    )
    return {str(file.relative_to(run)): file.read_bytes() for file in (run / "bundle").rglob("*") if file.is_file()}


def check(store: Path, folder: Path, name: str, family: str) -> None:
    undisturbed, run = train(store, folder / "undisturbed", name, family), folder / "run"
    with pytest.raises(KeyboardInterrupt):
        train(store, run, name, family, stop=STOP)
    assert json.loads((run / "run.json").read_text())["status"] == "running"
    assert [samples_of(file) for file in checkpoint_files(run / "checkpoints")] == [(STOP + 1) * BATCH]
    # Built with other weights and another state of the generators: all that counts comes out of the checkpoint.
    continued = train(store, run, name, family, weights=1)
    assert continued.keys() == undisturbed.keys()
    assert [file for file in continued if continued[file] != undisturbed[file]] == []


def test_every_family_is_here() -> None:
    presets = {path.stem for path in (conf_dir() / "encoder").glob("*.yaml")}
    assert {name.split("_")[0] for _, name in CASES + REST} == {name.split("_")[0] for name in presets}


@pytest.mark.parametrize(("name", "family"), CASES)
def test_interrupted_and_continued_is_undisturbed(store: Path, tmp_path: Path, name: str, family: str) -> None:
    check(store, tmp_path, name, family)


@pytest.mark.slow
@pytest.mark.parametrize(("name", "family"), REST)
def test_the_rest_of_the_grid(store: Path, tmp_path: Path, name: str, family: str) -> None:
    check(store, tmp_path, name, family)
