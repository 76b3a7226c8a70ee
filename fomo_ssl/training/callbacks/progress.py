"""How far the run is: a live bar on a terminal, a line now and then in a log file."""

from typing import Any

import lightning as L
from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

from fomo_ssl.core.types import CropBatch
from fomo_ssl.training.callbacks.health import Health
from fomo_ssl.training.callbacks.recorder import Recorder
from fomo_ssl.training.module import PretrainModule

LINES = 10
"""Lines over a whole run where there is no terminal."""


class ProgressBar(L.Callback):
    """Samples, loss, pace, data-wait share, memory, MFU where it is known, one number of the last look, time left."""

    def __init__(
        self, recorder: Recorder, samples: int, health: Health | None = None, console: Console | None = None
    ) -> None:
        self.recorder, self.samples, self.health = recorder, samples, health
        self.console = console or Console(stderr=True)
        self._bar: Progress | None = None
        self._lines = 0

    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        assert isinstance(pl_module, PretrainModule)
        self._lines = pl_module.samples_seen * LINES // self.samples
        if self.console.is_terminal:
            self._bar = Progress(
                TextColumn("{task.completed:,.0f}/{task.total:,.0f} samples"),
                BarColumn(bar_width=20),
                TextColumn("{task.fields[numbers]}"),
                TimeElapsedColumn(),
                TextColumn("left"),
                TimeRemainingColumn(),
                console=self.console,
                refresh_per_second=2,
                speed_estimate_period=600,  # seconds: a step of a large network may take most of one of rich's 30
            )
            self._bar.start()
            self._bar.add_task("pretrain", total=self.samples, completed=pl_module.samples_seen, numbers="")

    def on_train_batch_end(
        self, trainer: L.Trainer, pl_module: L.LightningModule, outputs: Any, batch: CropBatch, batch_idx: int
    ) -> None:
        assert isinstance(pl_module, PretrainModule)
        seen = pl_module.samples_seen
        if self._bar is not None:
            self._bar.update(self._bar.task_ids[0], completed=seen, numbers=self._numbers())
        elif self.recorder.latest and seen * LINES // self.samples > self._lines:
            self._lines = seen * LINES // self.samples
            self.console.print(f"{seen:,}/{self.samples:,} samples  {self._numbers()}", highlight=False, soft_wrap=True)

    def teardown(self, trainer: L.Trainer, pl_module: L.LightningModule, stage: str) -> None:
        if self._bar is not None:
            self._bar.stop()

    def _numbers(self) -> str:
        latest = self.recorder.latest
        if not latest:
            return ""
        speed, wait = latest["samples_per_second"], latest["data_wait"]
        numbers = f"loss {latest['loss']:.4f}  {speed:.1f} samples/s  {wait:.0%} waiting for data"
        if "memory_gib" in latest:
            numbers += f"  {latest['memory_gib']:.1f} GiB"
        if "mfu" in latest:
            numbers += f"  {latest['mfu']:.0%} MFU"
        return f"{numbers}  {self.health.headline}" if self.health and self.health.headline else numbers
