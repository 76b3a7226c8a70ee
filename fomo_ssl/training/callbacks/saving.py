"""When checkpoints are written: every so many samples, at the end, and before the process gives way to a signal."""

import os
import signal
import threading
from collections.abc import Collection
from pathlib import Path
from types import FrameType
from typing import Any

import lightning as L

from fomo_ssl.core.types import CropBatch
from fomo_ssl.training.checkpoint import checkpoint_path, keep_newest
from fomo_ssl.training.module import PretrainModule


def branch_point(run: Path, samples_seen: int) -> Path:
    """Where a run keeps a state for shorter runs to begin their tail at."""
    return checkpoint_path(run / "branch_points", samples_seen)


def _requeueing() -> list[signal.Signals]:
    """The signal that a launcher listens for to requeue this job, where one does."""
    number = signal.Signals[f"SIG{os.environ.get('SUBMITIT_PREEMPT_SIGNAL', 'USR2')}"]
    return [number] if callable(signal.getsignal(number)) else []


class Saving(L.Callback):
    """Writes whole checkpoints into `folder`.

    A first SIGINT or SIGTERM lets the batch end, saves and stops the run; a second SIGINT interrupts at once. Saving
    inside the handler would catch the weights in the middle of a step. Of several processes, the first one writes.
    So does the signal by which submitit says that a job is preempted or out of time, which is handed on after that:
    submitit requeues the job.

    Args:
        folder: of the checkpoints.
        every_samples: distance.
        keep_at: samples seen at which a state is written beside, and kept.

    Attributes:
        stopped_by: the signal that ended the run, or None.
    """

    def __init__(self, folder: Path, every_samples: int, keep_at: Collection[int] = ()) -> None:
        self.folder, self.every_samples, self.keep_at = folder, every_samples, keep_at
        self.stopped_by: signal.Signals | None = None
        self._handlers: dict[signal.Signals, Any] = {}

    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        if threading.current_thread() is threading.main_thread():
            # After Lightning's own handlers, which it puts back itself.
            for number in (signal.SIGINT, signal.SIGTERM, *_requeueing()):
                self._handlers[number] = signal.signal(number, self._note)

    def on_train_batch_end(
        self, trainer: L.Trainer, pl_module: L.LightningModule, outputs: Any, batch: CropBatch, batch_idx: int
    ) -> None:
        assert isinstance(pl_module, PretrainModule)
        seen = pl_module.samples_seen
        # A signal may reach one process before the others, and only the first one looks at the run's health.
        number, stop = pl_module.ranks.largest([self.stopped_by or 0, int(trainer.should_stop)], pl_module.device)
        if number:  # one that came since is kept for the next batch
            self.stopped_by = signal.Signals(number)
        trainer.should_stop = bool(stop or number)
        # Before the checkpoint that a resumed run would start from: past that, nobody comes by here again.
        if seen in self.keep_at:
            trainer.save_checkpoint(branch_point(self.folder.parent, seen))
        if trainer.should_stop or pl_module.passed(self.every_samples):
            trainer.save_checkpoint(checkpoint_path(self.folder, seen))
            if pl_module.ranks.first:
                keep_newest(self.folder)

    def teardown(self, trainer: L.Trainer, pl_module: L.LightningModule, stage: str) -> None:
        for number, handler in self._handlers.items():
            signal.signal(number, handler)
        self._handlers = {}

    def _note(self, number: int, _: FrameType | None) -> None:
        if self.stopped_by is not None and number == signal.SIGINT:
            raise KeyboardInterrupt
        self.stopped_by = signal.Signals(number)
