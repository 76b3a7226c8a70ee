"""Pictures of what the model makes of scans it never trains on, and its loss there."""

import sys
from pathlib import Path
from typing import Any

import lightning as L
import numpy as np

from fomo_ssl.core.errors import ConfigError
from fomo_ssl.core.types import CropBatch, Views
from fomo_ssl.objectives.base import Objective, Preview
from fomo_ssl.training.looking import looking
from fomo_ssl.training.module import PretrainModule
from fomo_ssl.training.pictures import grey_window, middle_slices, save_picture

PARTS = ("target", "visible", "reconstruction")


class Previews(L.Callback):
    """Every `every_samples` and at the end: the held-out loss to the loggers and, where there is one, a picture.

    Args:
        folder: where `samples_<n>.png` go.
        views: held-out crops without augmentation, on the CPU; the same all through the run.
        every_samples: distance.
    """

    def __init__(self, folder: Path, views: Views, every_samples: int) -> None:
        self.folder, self.views, self.every_samples = folder, views, every_samples
        self._said = False

    def on_train_batch_end(
        self, trainer: L.Trainer, pl_module: L.LightningModule, outputs: Any, batch: CropBatch, batch_idx: int
    ) -> None:
        assert isinstance(pl_module, PretrainModule)
        if pl_module.passed(self.every_samples):
            self._show(trainer, pl_module, pl_module.samples_seen)

    def _show(self, trainer: L.Trainer, module: PretrainModule, seen: int) -> None:
        views = self.views.to(module.device)
        with looking(trainer, module) as objective:
            loss = self._loss(objective, views, module.global_step)
            preview = objective.preview(views)
        if loss is not None:
            for logger in trainer.loggers:
                logger.log_metrics({"held_out/loss": loss}, step=seen)
        if preview is not None:
            draw_preview(preview, self.folder / f"samples_{seen:09d}.png")

    def _loss(self, objective: Objective, views: Views, step: int) -> float | None:
        """None, which is said once, where the objective compares samples and these are too few."""
        try:
            return float(objective(views, step).loss)
        except ConfigError as error:
            if not self._said:
                print(f"no held_out/loss: {error.what} (data.held_out)", file=sys.stderr)
                self._said = True
            return None


def draw_preview(preview: Preview, path: Path, samples: int = 4) -> None:
    """One row per sample: target, visible and reconstruction, each by its three orthogonal middle slices."""
    parts = [getattr(preview, name)[:samples, 0].float().cpu().numpy() for name in PARTS]
    rows = []
    for sample in zip(*parts, strict=True):
        window = grey_window(sample[0])
        rows.append([middle_slices(volume, *window) for volume in sample])
    save_picture(np.block(rows), PARTS, path)
