"""A very small pretraining run, importable by processes of their own."""

import hashlib
from pathlib import Path
from typing import Any

from fomo_ssl.data.augment import Augmenter
from fomo_ssl.encoders import create_encoder
from fomo_ssl.objectives import create_objective
from fomo_ssl.training.callbacks.health import HealthConfig
from fomo_ssl.training.checkpoint import seed_everything
from fomo_ssl.training.run import PretrainResult, RunConfig, pretrain
from fomo_ssl.training.source import DataConfig

ENCODERS: dict[str, dict[str, Any]] = {
    "resenc": {"name": "resenc_t", "channels": (4, 8), "blocks": (1, 1)},
    "vit": {"name": "vit_t_p8", "dim": 24, "depth": 4, "heads": 2},
}


def small_run(
    store: Path,
    run: Path,
    *,
    objective: str = "mae",
    encoder: str = "resenc",
    resume: Any = "never",
    samples: int = 24,
    workers: int = 0,
    recipe: dict[str, Any] | None = None,
    settings: dict[str, Any] | None = None,
    **changes: Any,
) -> PretrainResult:
    """Pretrain for 12 steps of 2 crops of 16 voxels a side.

    Args:
        settings: of the objective.
        changes: of the run.
    """
    seed_everything(0)
    config = RunConfig(
        **{
            "samples": samples,
            "batch_size": 2,
            "crop": (16, 16, 16),
            "data": DataConfig(held_out=1, workers=workers),
            "checkpoint_every": 4,
            "preview_every": 12,
            "log_every": 4,
            "health": HealthConfig(every=12, crops=2, pictures=1),
            "trainer": {"accelerator": "cpu"},
            **changes,
        }
    )
    return pretrain(
        store=store,
        run=run,
        objective=create_objective(objective, create_encoder(**ENCODERS[encoder]), **(settings or {})),
        augment=Augmenter("all"),
        config=config,
        resume=resume,
        recipe=recipe,
    )


def file_digests(folder: Path) -> dict[str, str]:
    """SHA-256 of every file of a folder."""
    files = sorted(f for f in folder.rglob("*") if f.is_file())
    return {str(f.relative_to(folder)): hashlib.sha256(f.read_bytes()).hexdigest() for f in files}
