"""Pictures of what the model makes of scans it never trains on, and its loss there."""

from pathlib import Path
from typing import Any

import lightning as L
import numpy as np
import torch

from fomo_ssl.core.types import CropBatch, Views
from fomo_ssl.objectives.base import Preview
from fomo_ssl.training.module import PretrainModule

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

    parts = [getattr(preview, name)[:samples, 0].float().cpu().numpy() for name in PARTS]
    rows = zip(*parts, strict=True)
    picture = np.block([[_slices(volume, *_window(row[0])) for volume in row] for row in rows])
    height, width = picture.shape
    figure = Figure(figsize=(9, 9 * height / width + 0.3), dpi=100)
    FigureCanvasAgg(figure)
    # One image in one pair of axes: a grid of axes takes matplotlib a second.
    ax = figure.add_axes((0.0, 0.0, 1.0, 1.0 - 0.3 / figure.get_figheight()))
    ax.imshow(picture, cmap="gray", vmin=0.0, vmax=1.0, aspect="auto")
    ax.set_axis_off()
    for column, name in enumerate(PARTS):
        ax.text((column + 0.5) / len(PARTS), 1.0, name, transform=ax.transAxes, ha="center", va="bottom", fontsize=9)
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path)


def _window(target: np.ndarray) -> tuple[float, float]:
    """Grey range of a sample, from its target, so that the three parts compare."""
    low, high = np.percentile(target, [0.5, 99.5])
    return float(low), float(max(high, low + 1e-6))


def _slices(volume: np.ndarray, low: float, high: float) -> np.ndarray:
    """The middle slices across x, y and z side by side, framed to one size, as grey 0 to 1.

    First axis of a slice to the right, second axis up.
    """
    side = max(volume.shape)
    scaled = np.clip((volume - low) / (high - low), 0.0, 1.0)
    framed = []
    for axis in range(3):
        middle = np.take(scaled, scaled.shape[axis] // 2, axis=axis).T[::-1]
        spare = [side - size for size in middle.shape]
        framed.append(np.pad(middle, [(s // 2 + 1, s - s // 2 + 1) for s in spare], constant_values=1.0))
    return np.hstack(framed)
