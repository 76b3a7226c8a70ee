"""The Lightning module: augment on the device, ask the objective, step; the objective owns the maths."""

from collections.abc import Callable, Mapping, Sequence
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
from fomo_ssl.training.ranks import ALONE, Ranks, full


class PretrainModule(L.LightningModule):
    """One objective on its way through the budget.

    Args:
        objective: with its encoder.
        augment: turns a `CropBatch` into `Views` on the batch's device.
        optim: optimizer and schedule.
        steps: length of the run.
        name_scans: names a batch's scans, for errors.
        accumulate: micro-batches whose gradients are averaged into one step; a batch is split into as many.
        ranks: the processes that train together.

    Attributes:
        objective: what is trained.
        whole: the objective with all its weights; another one than `objective` where that is shared out over the ranks.
        samples_seen: samples whose gradients have moved the weights.
        metrics: detached scalars of the last step, means over the ranks.
    """

    whole: Objective

    def __init__(
        self,
        objective: Objective,
        augment: Callable[[CropBatch], Views],
        optim: OptimConfig,
        steps: int,
        name_scans: Callable[[CropBatch], str],
        accumulate: int = 1,
        ranks: Ranks = ALONE,
    ) -> None:
        super().__init__()
        self.objective, self.augment, self.optim, self.steps = objective, augment, optim, steps
        object.__setattr__(self, "whole", objective)  # no part of the module: not to be saved twice
        self.name_scans, self.accumulate, self.ranks = name_scans, accumulate, ranks
        self.samples_seen = 0
        self.metrics: dict[str, Tensor] = {}
        self._batch: CropBatch | None = None
        self._restored_random_state: dict[str, Any] | None = None

    def transfer_batch_to_device(self, batch: CropBatch, device: torch.device, dataloader_idx: int) -> CropBatch:
        """Without a wait for each tensor: Lightning asks for that of bare tensors only, and the crops are pinned."""
        return batch.to(device, non_blocking=device.type == "cuda")

    def training_step(self, batch: CropBatch, batch_idx: int) -> Float[Tensor, ""]:
        """The loss of one batch: its last micro-batch's share, because the others go backward here.

        Raises:
            NonFiniteLossError: naming the scans of the micro-batch.
        """
        self.objective.zero_grad()
        parts = batch.parts(self.accumulate)
        measured: list[dict[str, Tensor]] = []
        for part in parts:
            self._batch = part
            output = self.objective(self.augment(part), self.global_step)
            self._check(output.loss.detach(), "loss")
            measured.append({k: v.detach() for k, v in ({"loss": output.loss} | output.terms | output.health).items()})
            loss: Tensor = output.loss / len(parts)
            if part is not parts[-1]:
                # As Lightning does for the last one: autocast is for the forward pass.
                with torch.autocast(self.device.type, enabled=False):
                    self.trainer.strategy.backward(loss, None)
        self._batch = batch
        self.metrics = self.ranks.means(measured[0] if len(measured) == 1 else _means(measured))
        return loss

    def optimizer_zero_grad(self, *_: Any, **__: Any) -> None:
        """Nothing: Lightning would call it when all micro-batches but the last have left their gradients."""

    def configure_gradient_clipping(self, optimizer: Any, *_: Any, **__: Any) -> None:
        """Clip by the norm over all parameters, which is logged and must be finite before it moves the weights.

        At 16-mixed a gradient may overflow because the loss is scaled: the scaler skips such a step and halves the
        scale. Where it is down to 1, the gradient itself is at fault.
        """
        scaler = getattr(self.trainer.precision_plugin, "scaler", None)
        if scaler is not None and optimizer.defaults.get("fused"):
            scaler.unscale_(optimizer)  # Lightning leaves it to the fused step, which comes after the clipping
        limit = self.optim.clip if self.optim.clip > 0 else torch.inf
        norm = full(nn.utils.clip_grad_norm_(self.objective.parameters(), limit))
        if scaler is None or scaler.get_scale() <= 1.0:
            self._check(norm.detach(), "gradient")
        self.metrics["grad_norm"] = norm.detach()
        self.metrics["lr"] = torch.tensor(optimizer.param_groups[0]["lr"])

    def optimizer_step(self, *args: Any, **kwargs: Any) -> None:
        """Step, then move teachers and queues: before any callback sees the batch's end and may save the state."""
        super().optimizer_step(*args, **kwargs)
        assert self._batch is not None
        self.objective.after_step(self.global_step)
        self.samples_seen += len(self._batch) * self.ranks.world

    def passed(self, every: int) -> bool:
        """Whether the last step passed a multiple of `every` samples, or was the last of the run.

        Not by distance, so that a resumed run looks and saves where an undisturbed one does.
        """
        assert self._batch is not None
        before = self.samples_seen - len(self._batch) * self.ranks.world
        return self.samples_seen // every > before // every or self.global_step >= self.steps

    def configure_optimizers(self) -> Any:
        encoder = self.objective.encoder
        named = dict(encoder.named_parameters())
        no_decay = [named[name] for name in sorted(encoder.no_weight_decay())]
        optimizer, schedule = build_optimizer(self.objective, no_decay, self.optim, self.steps)
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": schedule, "interval": "step"}}

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        states = self.ranks.collect(random_state())
        checkpoint["fomo_ssl"] = {"samples_seen": self.samples_seen, "random": states}

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        self.samples_seen = checkpoint["fomo_ssl"]["samples_seen"]
        states = checkpoint["fomo_ssl"]["random"]
        # With another number of ranks than before, a new one keeps the state that it was seeded with.
        self._restored_random_state = states[self.ranks.rank] if self.ranks.rank < len(states) else None

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


def _means(measured: Sequence[Mapping[str, Tensor]]) -> dict[str, Tensor]:
    return {name: torch.stack([one[name] for one in measured]).mean(0) for name in measured[0]}
