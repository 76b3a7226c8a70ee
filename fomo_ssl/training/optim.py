"""AdamW without decay where decay hurts, and learning-rate schedules over the share of the budget that is done."""

import math
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import nn

Schedule = Literal["cosine", "constant"]


@dataclass(frozen=True)
class OptimConfig:
    """How weights move.

    Attributes:
        lr: peak learning rate.
        weight_decay: AdamW's decoupled decay (Loshchilov and Hutter 2019, arXiv 1711.05101).
        betas, eps: AdamW's moments.
        schedule: `cosine`, or `constant` with a linear decay tail, whose checkpoints before the tail can be continued
            with a larger budget (Hägele et al. 2024, arXiv 2405.18392).
        warmup: share of the budget with a linearly rising rate.
        tail: share of the budget over which `constant` falls.
        final: rate at the end as a share of `lr`.
        clip: largest norm of the gradient over all parameters; 0 clips nothing.
    """

    lr: float = 3e-4
    weight_decay: float = 0.05
    betas: tuple[float, float] = (0.9, 0.95)
    eps: float = 1e-8
    schedule: Schedule = "cosine"
    warmup: float = 0.05
    tail: float = 0.2
    final: float = 0.0
    clip: float = 1.0


def rate_factor(step: int, steps: int, optim: OptimConfig) -> float:
    """The learning rate of step `step` of `steps`, as a share of the peak."""
    warmup = max(1, round(optim.warmup * steps))
    if step < warmup:
        return (step + 1) / warmup
    if optim.schedule == "constant":
        left = (steps - step) / tail_steps(steps, optim)
        return optim.final + (1.0 - optim.final) * min(1.0, max(0.0, left))
    done = min(1.0, (step - warmup) / max(1, steps - warmup))
    return optim.final + (1.0 - optim.final) * 0.5 * (1.0 + math.cos(math.pi * done))


def tail_steps(steps: int, optim: OptimConfig) -> int:
    """Steps over which a `constant` rate falls at the end."""
    return max(1, round(optim.tail * steps))


def parameter_groups(module: nn.Module, no_decay: Iterable[nn.Parameter], weight_decay: float) -> list[dict[str, Any]]:
    """Parameters with and without decay, in the module's order.

    Without: one-dimensional ones (norms, biases), those of `no_decay`, and learned tokens and position tables, which
    are values and not maps: shrinking them to zero regularises nothing.
    """
    spared = {id(parameter) for parameter in no_decay}
    groups: dict[bool, list[nn.Parameter]] = {True: [], False: []}
    for name, parameter in module.named_parameters():
        if parameter.requires_grad:
            leaf = name.rpartition(".")[2]
            decays = parameter.ndim > 1 and id(parameter) not in spared and not ("token" in leaf or "pos" in leaf)
            groups[decays].append(parameter)
    rates = ((True, weight_decay), (False, 0.0))
    return [{"params": groups[decays], "weight_decay": rate} for decays, rate in rates if groups[decays]]


def build_optimizer(
    module: nn.Module, no_decay: Iterable[nn.Parameter], optim: OptimConfig, steps: int
) -> tuple[torch.optim.Optimizer, torch.optim.lr_scheduler.LRScheduler]:
    """The optimizer of a module's trainable parameters and its schedule, to be stepped once a step."""
    groups = parameter_groups(module, no_decay, optim.weight_decay)
    on_gpu = all(parameter.is_cuda for group in groups for parameter in group["params"])
    # One kernel for all parameters on a GPU; None keeps torch's choice elsewhere, and with it the numbers.
    fused = True if on_gpu else None
    optimizer = torch.optim.AdamW(groups, lr=optim.lr, betas=optim.betas, eps=optim.eps, fused=fused)
    return optimizer, torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: rate_factor(step, steps, optim))
