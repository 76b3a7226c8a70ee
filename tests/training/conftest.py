from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from fomo_ssl.corpus.layouts import ScanRow
from fomo_ssl.corpus.store import StoreWriter
from fomo_ssl.data.augment import Augmenter
from fomo_ssl.encoders import create_encoder
from fomo_ssl.imaging.canonical import CanonicalSpec, canonicalise
from fomo_ssl.objectives import create_objective
from fomo_ssl.synthetic.phantoms import phantom
from fomo_ssl.training.checkpoint import seed_everything
from fomo_ssl.training.run import PretrainResult, RunConfig, pretrain
from fomo_ssl.training.source import DataConfig

ENCODER = {"name": "resenc_t", "channels": (4, 8), "blocks": (1, 1)}


@pytest.fixture(scope="session")
def store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Five subjects with two sequences each, 24 voxels a side."""
    path = tmp_path_factory.mktemp("pretrain") / "store"
    spec = CanonicalSpec(spacing=None)
    with StoreWriter.create(path, spec) as writer:
        for subject in range(5):
            for sequence in ("t1", "flair"):
                row = ScanRow("site", f"sub_{subject}", "ses_1", sequence, f"sub_{subject}/{sequence}.nii.gz")
                writer.add(row, canonicalise(phantom(subject, (24, 24, 24), sequence), spec))
    return path


@pytest.fixture
def start(store: Path, tmp_path: Path) -> Callable[..., PretrainResult]:
    """Pretrain a very small model for 12 steps of 2; keyword arguments change the run."""

    def run(
        name: str = "run", *, objective: str = "mae", resume: Any = "never", samples: int = 24, **changes: Any
    ) -> PretrainResult:
        seed_everything(0)
        config = RunConfig(
            **{
                "samples": samples,
                "batch_size": 2,
                "crop": (16, 16, 16),
                "data": DataConfig(held_out=1, workers=0),
                "checkpoint_every": 6,
                "preview_every": 12,
                "log_every": 4,
                "trainer": {"accelerator": "cpu"},
                **changes,
            }
        )
        return pretrain(
            store=store,
            run=tmp_path / name,
            objective=create_objective(objective, create_encoder(**ENCODER)),
            augment=Augmenter("all"),
            config=config,
            resume=resume,
        )

    return run
