"""Pictures of what the model makes of scans it never trains on, and its loss there."""

import sys
from pathlib import Path
from typing import Any

import lightning as L
import numpy as np
import torch

from fomo_ssl.core.errors import ConfigError
from fomo_ssl.core.types import CropBatch, Views
from fomo_ssl.objectives.base import Preview
from fomo_ssl.objectives.gather import apart
from fomo_ssl.training.compiling import as_compiled
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
        self._shown_at = 0
        self._said = False

    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        assert isinstance(pl_module, PretrainModule)
        self._shown_at = pl_module.samples_seen

    def on_train_batch_end(
        self, trainer: L.Trainer, pl_module: L.LightningModule, outputs: Any, batch: CropBatch, batch_idx: int
    ) -> None:
        assert isinstance(pl_module, PretrainModule)
        seen = pl_module.samples_seen
        due = seen // self.every_samples > self._shown_at // self.every_samples
        if due or trainer.global_step >= pl_module.steps:
            self._shown_at = seen
            self._show(trainer, pl_module, seen)

    def _show(self, trainer: L.Trainer, module: PretrainModule, seen: int) -> None:
        views = self.views.to(module.device)
        was_training = module.objective.training
        module.objective.eval()
        # The run's random states must not depend on whether anybody looks.
        devices = [module.device] if module.device.type == "cuda" else []
        own_random_states = torch.random.fork_rng(devices)
        with (
            own_random_states,
            torch.no_grad(),
            as_compiled(module.objective),
            apart(),
            trainer.precision_plugin.forward_context(),
        ):
            loss = self._loss(module, views)
            preview = module.objective.preview(views)
        module.objective.train(was_training)
        if loss is not None:
            for logger in trainer.loggers:
                logger.log_metrics({"held_out/loss": loss}, step=seen)
        if preview is not None:
            draw_preview(preview, self.folder / f"samples_{seen:09d}.png")

    def _loss(self, module: PretrainModule, views: Views) -> float | None:
        """None, which is said once, where the objective compares samples and these are too few."""
        try:
            return float(module.objective(views, module.global_step).loss)
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
