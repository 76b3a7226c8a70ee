"""Early stopping on subjects that are held back from the shots; test subjects are never looked at."""

import math
from dataclasses import replace

import numpy as np
import torch
from torch import Tensor, nn

from fomo_ssl.core.errors import TaskError
from fomo_ssl.downstream.scores import Predictions
from fomo_ssl.downstream.splits import Split
from fomo_ssl.downstream.tasks import Task


class EarlyStopping:
    """Keeps the weights of the lowest validation loss and says when it has not fallen for `patience` looks.

    Attributes:
        best_step: 0 before the first look.
    """

    def __init__(self, patience: int) -> None:
        self.patience, self.best_step, self.best_loss = patience, 0, math.inf
        self._since = 0
        self._weights: list[Tensor] = []

    @torch.no_grad()
    def look(self, step: int, loss: float, model: nn.Module) -> bool:
        """Take note of a loss; True to stop. A tie goes to the earlier weights."""
        if loss < self.best_loss:
            self.best_step, self.best_loss, self._since = step, loss, 0
            self._weights = [parameter.clone() for parameter in model.parameters()]
        else:
            self._since += 1
        return self._since >= self.patience

    @torch.no_grad()
    def restore(self, model: nn.Module) -> None:
        """Put the best weights back; leaves the model alone where no look was finite."""
        for parameter, best in zip(model.parameters(), self._weights, strict=bool(self._weights)):
            parameter.copy_(best)


def hold_out(task: Task, split: Split, share: float) -> Split:
    """The split with the last `share` of its training subjects, at least one, as its validation cases.

    The order of a split's subjects holds the classes in about equal shares everywhere, so its end does too.

    Raises:
        TaskError: one subject to train on cannot be divided, or the split has validation cases of its own.
    """
    if split.validation:
        raise TaskError(
            "early stopping holds back training subjects, beside which validation subjects would not be looked at",
            where=split.name,
            way_out="Set n_validation=0 or early_stopping=false",
        )
    subjects = list(dict.fromkeys(task[name].subject for name in split.train))
    count = max(1, round(share * len(subjects)))
    if count >= len(subjects):
        raise TaskError(
            f"early stopping holds back {count} of {len(subjects)} training subjects: none is left to train on",
            where=split.name,
            way_out="Give more shots, a smaller hold_out, or early_stopping=false",
        )
    held = set(subjects[-count:])
    parts = [tuple(n for n in split.train if (task[n].subject in held) == back) for back in (False, True)]
    return replace(split, train=parts[0], validation=parts[1])


def validation_loss(predictions: Predictions, spread: float = 1.0) -> float:
    """What stopping goes by, finite for a single case too: 1 - Dice, cross entropy, or error in target deviations."""
    columns = predictions.columns
    if predictions.kind == "segmentation":
        return 1.0 - float(np.mean(columns["dice"]))
    if predictions.kind == "regression":
        return float(np.mean(np.abs(columns["prediction"] - columns["target"]))) / spread
    target = columns["target"].astype(int)
    if "probability_0" in columns:
        likely = np.array([columns[f"probability_{label}"][row] for row, label in enumerate(target)])
    else:
        likely = np.where(target == 1, columns["prediction"], 1.0 - columns["prediction"])
    return float(-np.log(np.clip(likely, 1e-12, None)).mean())
