"""What training costs the machine: operations a sample, memory, and the share of the device's peak that is used."""

import copy
import resource
import sys
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import lightning as L
import torch
from torch.utils.flop_counter import FlopCounterMode

from fomo_ssl.core.errors import ConfigError
from fomo_ssl.core.types import CropBatch, Views
from fomo_ssl.layers.recompute import set_grad_checkpointing
from fomo_ssl.objectives.base import Objective
from fomo_ssl.objectives.gather import apart
from fomo_ssl.training.module import PretrainModule
from fomo_ssl.training.peaks import peak_flops

COUNTED = 2
"""Samples on which operations are counted: a contrast needs two."""


class Cost(L.Callback):
    """Counts once, before the first step of a process, on a copy of the objective; afterwards it only divides.

    Args:
        precision: Lightning's name.

    Attributes:
        flops_per_sample: of a training step (a teacher's too, no recomputation), or None: not counted.
    """

    def __init__(self, precision: str) -> None:
        self.precision = precision
        self.flops_per_sample: float | None = None
        self._counted = False
        self._peak: float | None = None

    def on_train_batch_start(
        self, trainer: L.Trainer, pl_module: L.LightningModule, batch: CropBatch, batch_idx: int
    ) -> None:
        if self._counted:
            return
        assert isinstance(pl_module, PretrainModule)
        self._counted = True
        views = pl_module.augment(batch.cut(slice(0, COUNTED)))
        self.flops_per_sample = flops_per_sample(
            pl_module.whole, views, pl_module.global_step, trainer.precision_plugin.forward_context()
        )
        if pl_module.device.type == "cuda":
            torch.cuda.reset_peak_memory_stats()
            name = torch.cuda.get_device_name()
            peak = peak_flops(name, self.precision)
            if peak is None:
                print(f"MFU is left out: no peak FLOP/s of {name} at {self.precision} is known", file=sys.stderr)
            else:
                self._peak = peak * pl_module.ranks.world

    def numbers(self, samples_per_second: float) -> dict[str, float]:
        """For the log: `memory_gib`, largest so far of this process's GPU, or of the process where there is none;
        and `mfu`, where the device's peak is known."""
        found = {"memory_gib": _memory() / 2**30}
        if self._peak is not None and self.flops_per_sample is not None:
            found["mfu"] = self.flops_per_sample * samples_per_second / self._peak
        return found


def flops_per_sample(
    objective: Objective, views: Views, step: int, context: AbstractContextManager[Any] | None = None
) -> float | None:
    """Floating-point operations of a forward and backward pass, a multiplication and an addition each counted.

    The objective, its gradients and all random states stay as they are; products, convolutions and attention count,
    element-wise operations do not. None where the objective needs more samples than there are.
    """
    images = views.images[0]
    # A copy is not compiled, so that every operation is seen, and keeps its buffers for itself.
    twin = copy.deepcopy(objective).to(images.device)
    set_grad_checkpointing(twin, False)
    devices = [images.device] if images.device.type == "cuda" else []
    counter = FlopCounterMode(display=False)
    try:
        with torch.random.fork_rng(devices), apart(), counter, context or nullcontext():
            twin(views, step).loss.backward()
    except ConfigError:
        return None
    return float(counter.get_total_flops()) / len(images)


def _memory() -> float:
    if torch.cuda.is_available() and torch.cuda.max_memory_allocated():
        return float(torch.cuda.max_memory_allocated())
    largest = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return float(largest if sys.platform == "darwin" else largest * 1024)
