"""The Lightning module: augment on the device, ask the objective, step; the objective owns the maths."""

from collections.abc import Callable
from typing import Any

import lightning as L
import torch
from jaxtyping import Float
from torch import Tensor, nn

from fomo_ssl.core.errors import NonFiniteLossError
from fomo_ssl.core.types import CropBatch, Views
from fomo_ssl.objectives.base import Objective
from fomo_ssl.training.checkpoint import random_state, set_random_state
from fomo_ssl.training.optim import OptimConfig, build_optimizer


class PretrainModule(L.LightningModule):
    """One objective on its way through the budget.

    Args:
        objective: with its encoder.
        augment: turns a `CropBatch` into `Views` on the batch's device.
        optim: optimizer and schedule.
        steps: length of the run.
        name_scans: names a batch's scans, for errors.

    Attributes:
        samples_seen: samples whose gradients have moved the weights.
        metrics: detached scalars of the last step.
    """

    def __init__(
        self,
        objective: Objective,
        augment: Callable[[CropBatch], Views],
        optim: OptimConfig,
        steps: int,
        name_scans: Callable[[CropBatch], str],
    ) -> None:
        super().__init__()
        self.objective, self.augment, self.optim, self.steps = objective, augment, optim, steps
        self.name_scans = name_scans
        self.samples_seen = 0
        self.metrics: dict[str, Tensor] = {}
        self._batch: CropBatch | None = None
        self._restored_random_state: dict[str, Any] | None = None

    def training_step(self, batch: CropBatch, batch_idx: int) -> Float[Tensor, ""]:
        """The loss of one batch.

        Raises:
            NonFiniteLossError: naming the batch's scans.
        """
        self._batch = batch
        output = self.objective(self.augment(batch), self.global_step)
        self._check(output.loss.detach(), "loss")
        self.metrics = {
            "loss": output.loss.detach(),
            **{name: value.detach() for name, value in (output.terms | output.health).items()},
        }
        loss: Tensor = output.loss
        return loss

    def configure_gradient_clipping(self, optimizer: Any, *_: Any, **__: Any) -> None:
        """Clip by the norm over all parameters, which is logged and must be finite before it moves the weights."""
        limit = self.optim.clip if self.optim.clip > 0 else torch.inf
        norm = nn.utils.clip_grad_norm_(self.objective.parameters(), limit)
        self._check(norm.detach(), "gradient")
        self.metrics["grad_norm"] = norm.detach()
        self.metrics["lr"] = torch.tensor(optimizer.param_groups[0]["lr"])

    def optimizer_step(self, *args: Any, **kwargs: Any) -> None:
        """Step, then move teachers and queues: before any callback sees the batch's end and may save the state."""
        super().optimizer_step(*args, **kwargs)
        assert self._batch is not None
        self.objective.after_step(self.global_step)
        self.samples_seen += len(self._batch)

    def configure_optimizers(self) -> Any:
        encoder = self.objective.encoder
        named = dict(encoder.named_parameters())
        no_decay = [named[name] for name in sorted(encoder.no_weight_decay())]
        optimizer, schedule = build_optimizer(self.objective, no_decay, self.optim, self.steps)
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": schedule, "interval": "step"}}

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        checkpoint["fomo_ssl"] = {"samples_seen": self.samples_seen, "random": random_state()}

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        self.samples_seen = checkpoint["fomo_ssl"]["samples_seen"]
        self._restored_random_state = checkpoint["fomo_ssl"]["random"]

    def on_train_start(self) -> None:
        # Last of all, because setting up a run draws numbers too.
        if self._restored_random_state is not None:
            set_random_state(self._restored_random_state)

    def _check(self, value: Tensor, what: str) -> None:
        # One wait for the device a step: small beside a 3D network's step, and a NaN stops before the weights take it.
        if not bool(torch.isfinite(value)):
            assert self._batch is not None
            raise NonFiniteLossError(
                f"the {what} is {float(value)} after {self.samples_seen} samples, on {self.name_scans(self._batch)}",
                way_out="Lower optim.lr, or look at these scans and remove them from the source",
            )
