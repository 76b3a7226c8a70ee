"""The Lightning module of finetuning: augment, loss, step; and the learning curve."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import lightning as L
import torch
from jaxtyping import Float
from torch import Tensor

from fomo_ssl.core.errors import NonFiniteLossError
from fomo_ssl.data.augment import Augmenter
from fomo_ssl.downstream.batches import TaskBatch
from fomo_ssl.downstream.losses import task_loss
from fomo_ssl.downstream.models import TaskModel
from fomo_ssl.downstream.recipe import Recipe
from fomo_ssl.training.optim import OptimConfig, parameter_groups, rate_factor


@dataclass
class CurvePoint:
    """One step: the training loss, the head's learning rate, and the validation figure where it was looked at."""

    step: int
    loss: float
    lr: float
    validation: float | None = None


class FinetuneModule(L.LightningModule):
    """A task model on its way through the steps of its recipe.

    Args:
        model: trained in place; holds the averaged weights at the end where the recipe averages.
        recipe: the values.
        validate: a figure of the model on validation cases; None where there are none.

    Attributes:
        curve: one point a step.
    """

    def __init__(self, model: TaskModel, recipe: Recipe, validate: Callable[[TaskModel], float] | None = None) -> None:
        super().__init__()
        self.model, self.recipe, self.validate = model, recipe, validate
        self.augment = Augmenter(recipe.augment, None, **recipe.switches)
        self.curve: list[CurvePoint] = []
        self._averaged: list[Tensor] = []

    def training_step(self, batch: TaskBatch, batch_idx: int) -> Float[Tensor, ""]:
        """The loss of one batch.

        Raises:
            NonFiniteLossError: it is NaN or infinite.
        """
        images, masks = self.augment.pair(batch.images, batch.masks, batch.keys, batch.spacing)
        # A missing sequence is zero at prediction; noise on it would teach the network another absence.
        images = images * batch.images.flatten(2).ne(0).any(dim=2)[..., None, None, None]
        outputs = self.model(images)
        loss = task_loss(self.model.spec.kind, outputs, masks, self.model.spec.standardise(batch.values))
        value = float(loss.detach())
        if not torch.isfinite(loss.detach()):
            raise NonFiniteLossError(f"the loss is {value} at step {batch_idx}", way_out="Lower lr")
        lr = self.trainer.optimizers[0].param_groups[-1]["lr"]
        self.curve.append(CurvePoint(batch_idx + 1, value, lr))
        return loss

    def configure_optimizers(self) -> Any:
        """AdamW with one rate for the head and a scaled one for the encoder, which may stand still at first."""
        recipe, encoder = self.recipe, self.model.encoder
        optim = OptimConfig(recipe.lr, recipe.weight_decay, (0.9, 0.999), warmup=recipe.warmup)
        named = dict(encoder.named_parameters())
        no_decay = [named[name] for name in sorted(encoder.no_weight_decay())]
        of_encoder = parameter_groups(encoder, no_decay, recipe.weight_decay)
        of_head = parameter_groups(self.model.head, (), recipe.weight_decay)
        for group in of_encoder:
            group["lr"] = recipe.lr * recipe.encoder_lr_scale

        def head_factor(step: int) -> float:
            return rate_factor(step, recipe.steps, optim)

        def encoder_factor(step: int) -> float:
            return 0.0 if step < recipe.freeze * recipe.steps else head_factor(step)

        factors: list[Callable[[int], float]] = [*[encoder_factor] * len(of_encoder), *[head_factor] * len(of_head)]
        optimizer = torch.optim.AdamW([*of_encoder, *of_head], lr=recipe.lr, betas=optim.betas)
        schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, factors)
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": schedule, "interval": "step"}}

    @torch.no_grad()
    def on_train_batch_end(self, outputs: Any, batch: TaskBatch, batch_idx: int) -> None:
        """Average the weights, and look at the validation cases."""
        if self.recipe.ema:
            self._average(batch_idx)
        step = batch_idx + 1
        if self.validate is not None and (step % self.recipe.validate_every == 0 or step == self.recipe.steps):
            self.model.eval()
            self._exchange()
            self.curve[-1].validation = self.validate(self.model)
            self._exchange()
            self.model.train()

    @torch.no_grad()
    def on_train_end(self) -> None:
        """Leave the averaged weights in the model, where the recipe averages."""
        self._exchange()

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
