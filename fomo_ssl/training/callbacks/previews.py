"""Pictures of what the model makes of scans it never trains on, and its loss there."""

from pathlib import Path
from typing import Any

import lightning as L
import numpy as np
import torch

from fomo_ssl.core.types import CropBatch, Views
from fomo_ssl.objectives.base import Preview
from fomo_ssl.training.module import PretrainModule


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
        with torch.random.fork_rng(devices), torch.no_grad(), trainer.precision_plugin.forward_context():
            loss = float(module.objective(views, trainer.global_step).loss)
            preview = module.objective.preview(views)
        module.objective.train(was_training)
        for logger in trainer.loggers:
            logger.log_metrics({"held_out/loss": loss}, step=seen)
        if preview is not None:
            draw_preview(preview, self.folder / f"samples_{seen:09d}.png")


def draw_preview(preview: Preview, path: Path, samples: int = 4) -> None:
    """One row per sample: target, visible and reconstruction, each by its three orthogonal middle slices."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    rows = min(samples, len(preview.target))
    figure = Figure(figsize=(9 * 1.1, rows * 1.25), layout="tight")
    FigureCanvasAgg(figure)
    axes = figure.subplots(rows, 9, squeeze=False)
    for row in range(rows):
        target = preview.target[row, 0].float().cpu().numpy()
        low, high = np.percentile(target, [0.5, 99.5])
        for part, name in enumerate(("target", "visible", "reconstruction")):
            volume = getattr(preview, name)[row, 0].float().cpu().numpy()
            for axis in range(3):
                ax = axes[row, part * 3 + axis]
                middle = np.take(volume, volume.shape[axis] // 2, axis=axis)
                # Transposed and with the origin below: right is +first axis, up is +second axis of the slice.
                ax.imshow(middle.T, cmap="gray", vmin=low, vmax=high, origin="lower")
                ax.set_axis_off()
            if row == 0:
                axes[0, part * 3 + 1].set_title(name, fontsize=9)
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=80)
