"""Gradient checkpointing (Chen et al. 2016, arXiv 1604.06174): blocks run again in the backward pass, and meanwhile
their activations need no memory. Values and gradients stay the same."""

from collections.abc import Callable
from typing import Any, TypeVar

import torch
from torch import nn
from torch.utils.checkpoint import checkpoint

_T = TypeVar("_T")


def set_grad_checkpointing(module: nn.Module, enable: bool = True) -> int:
    """Switch it on or off in all parts of `module` that know how; returns how many there are."""
    parts: list[Any] = [part for part in module.modules() if hasattr(part, "grad_checkpointing")]
    for part in parts:
        part.grad_checkpointing = enable
    return len(parts)


def run(owner: nn.Module, block: Callable[..., _T], *inputs: Any) -> _T:
    """`block(*inputs)`, run again in the backward pass where `owner.grad_checkpointing` says so."""
    if owner.grad_checkpointing and torch.is_grad_enabled():
        return checkpoint(block, *inputs, use_reentrant=False)
    return block(*inputs)
