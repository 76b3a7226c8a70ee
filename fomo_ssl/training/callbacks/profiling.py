"""Where the time of a few steps goes, by torch's profiler."""

from pathlib import Path
from typing import Any

import lightning as L
import torch
from torch.profiler import ProfilerActivity, profile

from fomo_ssl.core.files import write_text
from fomo_ssl.core.types import CropBatch

WARMUP, STEPS = 3, 5
"""Steps of a process before it is watched, and steps watched."""


class Profiling(L.Callback):
    """Writes `trace.json`, for chrome://tracing or ui.perfetto.dev, and `table.txt`, once a process.

    Args:
        folder: of both files.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._steps = 0
        self._profile: profile | None = None

    def on_train_batch_start(
        self, trainer: L.Trainer, pl_module: L.LightningModule, batch: CropBatch, batch_idx: int
    ) -> None:
        if self._steps == WARMUP:
            on_gpu = pl_module.device.type == "cuda"
            self._profile = profile(activities=[ProfilerActivity.CPU, *([ProfilerActivity.CUDA] if on_gpu else [])])
            self._profile.start()

    def on_train_batch_end(
        self, trainer: L.Trainer, pl_module: L.LightningModule, outputs: Any, batch: CropBatch, batch_idx: int
    ) -> None:
        self._steps += 1
        if self._steps == WARMUP + STEPS:
            self._write()

    def on_train_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        self._write()  # of a run that ends before

    def _write(self) -> None:
        if self._profile is None:
            return
        watched, self._profile = self._profile, None
        if torch.cuda.is_available():
            torch.cuda.synchronize()
        watched.stop()
        self.folder.mkdir(parents=True, exist_ok=True)
        watched.export_chrome_trace(str(self.folder / "trace.json"))
        by = "self_cuda_time_total" if ProfilerActivity.CUDA in watched.activities else "self_cpu_time_total"
        write_text(self.folder / "table.txt", watched.key_averages().table(sort_by=by, row_limit=40) + "\n")
