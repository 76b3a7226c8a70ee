"""The Lightning module of finetuning: augment, loss, step; and the learning curve."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import lightning as L
import torch
from jaxtyping import Float, Int16
from torch import Tensor

from fomo_ssl.core.errors import NonFiniteLossError
from fomo_ssl.data.augment import Augmenter
from fomo_ssl.downstream.batches import TaskBatch
from fomo_ssl.downstream.losses import task_loss
from fomo_ssl.downstream.models import TaskModel
from fomo_ssl.downstream.recipe import Recipe
from fomo_ssl.downstream.schedules import optimizer_groups
from fomo_ssl.downstream.stopping import EarlyStopping


@dataclass
class CurvePoint:
    """One step: the training loss, the head's rate, and the leading metric and loss of validation, where looked at."""

    step: int
    loss: float
    lr: float
    validation: float | None = None
    validation_loss: float | None = None


class FinetuneModule(L.LightningModule):
    """A task model on its way through the steps of its recipe.

    Args:
        model: trained in place; holds the averaged weights at the end where the recipe averages.
        recipe: the values.
        validate: the leading metric and the loss of the model on validation cases; None where there are none.
        stopping: decides by that loss when to stop; None trains to the end.
        on_step: hears the number of every step.

    Attributes:
        curve: one point a step.
    """

    def __init__(
        self,
        model: TaskModel,
        recipe: Recipe,
        validate: Callable[[TaskModel], tuple[float, float]] | None = None,
        stopping: EarlyStopping | None = None,
        on_step: Callable[[int], None] | None = None,
    ) -> None:
        super().__init__()
        self.model, self.recipe, self.validate, self.stopping = model, recipe, validate, stopping
        self.on_step = on_step
        self.augment = Augmenter(recipe.augment, None, **recipe.switches)
        self.curve: list[CurvePoint] = []
        self._averaged: list[Tensor] = []

    def augmented(self, batch: TaskBatch) -> tuple[Float[Tensor, "b c x y z"], Int16[Tensor, "b x y z"] | None]:
        """Images and masks as the network sees them.

        A missing sequence stays zero, as it is at prediction: noise on it would teach the network another absence.
        """
        images, masks = self.augment.pair(batch.images, batch.masks, batch.keys, batch.spacing)
        return images * batch.images.flatten(2).ne(0).any(dim=2)[..., None, None, None], masks

    def training_step(self, batch: TaskBatch, batch_idx: int) -> Float[Tensor, ""]:
        """The loss of one batch.

        Raises:
            NonFiniteLossError: it is NaN or infinite.
        """
        images, masks = self.augmented(batch)
        outputs = self.model(images)
        loss = task_loss(self.model.spec.kind, outputs, masks, self.model.spec.standardise(batch.values))
        value = float(loss.detach())
        if not torch.isfinite(loss.detach()):
            raise NonFiniteLossError(f"the loss is {value} at step {batch_idx + 1}", way_out="Lower lr")
        lr = self.trainer.optimizers[0].param_groups[-1]["lr"]
        self.curve.append(CurvePoint(batch_idx + 1, value, lr))
        return loss

    def configure_optimizers(self) -> Any:
        """AdamW with the rates and schedules of `optimizer_groups`."""
        groups, factors = optimizer_groups(self.model, self.recipe)
        optimizer = torch.optim.AdamW(groups, lr=self.recipe.lr, betas=(0.9, 0.999))
        schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, factors)
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": schedule, "interval": "step"}}

    @torch.no_grad()
    def on_train_batch_end(self, outputs: Any, batch: TaskBatch, batch_idx: int) -> None:
        """Average the weights, and look at the validation cases."""
        if self.recipe.ema:
            self._average(batch_idx)
        step = batch_idx + 1
        if self.on_step is not None:
            self.on_step(step)
        if self.validate is not None and (step % self.recipe.validate_every == 0 or step == self.recipe.steps):
            self.model.eval()
            self._exchange()
            self.curve[-1].validation, loss = self.validate(self.model)
            self.curve[-1].validation_loss = loss
            if self.stopping is not None:
                self.trainer.should_stop = self.stopping.look(step, loss, self.model)
            self._exchange()
            self.model.train()

    @torch.no_grad()
    def on_train_end(self) -> None:
        """Leave the averaged weights in the model, where the recipe averages, or the best where it stops early."""
        self._exchange()
        if self.stopping is not None:
            self.stopping.restore(self.model)

    def _exchange(self) -> None:
        """Put the averaged weights where the last ones are, and the other way round."""
        if self._averaged:
            for parameter, mean in zip(self.model.parameters(), self._averaged, strict=True):
                last = parameter.clone()
                parameter.copy_(mean)
                mean.copy_(last)

    def _average(self, step: int) -> None:
        weights = [parameter.detach() for parameter in self.model.parameters()]
        if not self._averaged:
            self._averaged = [weight.clone() for weight in weights]
        # A short memory at first: the mean must not drag the random start along.
        decay = min(self.recipe.ema, (1 + step) / (10 + step))
        torch._foreach_lerp_(self._averaged, weights, 1.0 - decay)
