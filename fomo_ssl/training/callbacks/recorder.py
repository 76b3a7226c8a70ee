"""Means of what the module measured over a few steps, to every logger, by samples seen."""

import time
from collections.abc import Callable, Mapping
from typing import Any

import lightning as L
from torch import Tensor

from fomo_ssl.core.types import CropBatch
from fomo_ssl.training.module import PretrainModule


class Recorder(L.Callback):
    """Adds up metrics on the device, and every `every` steps sends their means to the loggers.

    The sums are part of the checkpoint: a resumed run writes the rows that an undisturbed one writes.

    Args:
        every: steps in a mean.
        waited: gives the seconds waited for data so far.
        cost: gives further numbers about the machine at a pace in samples/s.

    Attributes:
        latest: the last means sent, among them `samples_per_second` and `data_wait`, the share of time without a
            batch.
        samples_per_second: of the whole process, its first step (which warms up) left out.
    """

    def __init__(
        self, every: int, waited: Callable[[], float], cost: Callable[[float], Mapping[str, float]] | None = None
    ) -> None:
        self.every, self.waited, self.cost = every, waited, cost
        self.latest: dict[str, float] = {}
        self._sums: dict[str, Tensor] = {}
        self._steps = 0
        self._since, self._waited_before, self._seen_before = time.perf_counter(), 0.0, 0
        self._first_end: tuple[float, int] | None = None
        self._last_end: tuple[float, int] | None = None

    @property
    def samples_per_second(self) -> float:
        if self._first_end is None or self._last_end is None or self._last_end == self._first_end:
            return 0.0
        return (self._last_end[1] - self._first_end[1]) / (self._last_end[0] - self._first_end[0])

    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        assert isinstance(pl_module, PretrainModule)
        self._reset_clock(pl_module.samples_seen)

    def on_train_batch_end(
        self, trainer: L.Trainer, pl_module: L.LightningModule, outputs: Any, batch: CropBatch, batch_idx: int
    ) -> None:
        assert isinstance(pl_module, PretrainModule)
        for name, value in pl_module.metrics.items():
            self._sums[name] = value + self._sums[name].to(value.device) if name in self._sums else value
        self._steps += 1
        now = time.perf_counter()
        self._first_end = self._first_end or (now, pl_module.samples_seen)
        self._last_end = (now, pl_module.samples_seen)
        if self._steps == self.every or trainer.global_step == pl_module.steps:
            self._send(trainer, pl_module.samples_seen)

    def state_dict(self) -> dict[str, Any]:
        return {"sums": {name: value.cpu() for name, value in self._sums.items()}, "steps": self._steps}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self._sums, self._steps = state_dict["sums"], state_dict["steps"]

    def _send(self, trainer: L.Trainer, samples_seen: int) -> None:
        means = {name: float(value) / self._steps for name, value in self._sums.items()}
        elapsed = max(time.perf_counter() - self._since, 1e-9)
        means["samples_per_second"] = (samples_seen - self._seen_before) / elapsed
        means["data_wait"] = (self.waited() - self._waited_before) / elapsed
        if self.cost is not None:
            means |= self.cost(means["samples_per_second"])
        self.latest = means
        for logger in trainer.loggers:
            logger.log_metrics(means, step=samples_seen)
        self._sums, self._steps = {}, 0
        self._reset_clock(samples_seen)

    def _reset_clock(self, samples_seen: int) -> None:
        self._since, self._waited_before, self._seen_before = time.perf_counter(), self.waited(), samples_seen
