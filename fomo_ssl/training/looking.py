"""A look at the model in the middle of a run that leaves no trace in it."""

import contextlib
from collections.abc import Iterator

import lightning as L
import torch

from fomo_ssl.objectives.base import Objective
from fomo_ssl.objectives.gather import apart
from fomo_ssl.training.compiling import as_compiled
from fomo_ssl.training.module import PretrainModule


@contextlib.contextmanager
def looking(trainer: L.Trainer, module: PretrainModule) -> Iterator[Objective]:
    """The whole objective on the module's device, in eval mode, at the run's precision and without gradients.

    One process may look alone: nobody is waited for.
    """
    objective = module.whole.to(module.device)
    was_training = objective.training
    objective.eval()
    # The run's random states must not depend on whether anybody looks.
    devices = [module.device] if module.device.type == "cuda" else []
    with (
        torch.random.fork_rng(devices),
        torch.no_grad(),
        as_compiled(objective),
        apart(),
        trainer.precision_plugin.forward_context(),
    ):
        yield objective
    objective.train(was_training)
    if objective is not module.objective:
        objective.cpu()  # the copy of weights that are shared out gives its memory back
