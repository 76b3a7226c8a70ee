"""A slow copy of a network: the exponential mean of its weights over the steps of the optimizer."""

import copy
from typing import TypeVar

import torch
from torch import Tensor, nn

_Module = TypeVar("_Module", bound=nn.Module)


def slow_copy(module: _Module) -> _Module:
    """A copy that no gradient reaches. Whoever uses it calls `eval()` first: drop-path is for students."""
    return copy.deepcopy(module).requires_grad_(False)


@torch.no_grad()
def follow(teacher: nn.Module, student: nn.Module, momentum: float) -> None:
    """Move the teacher's weights to momentum * teacher + (1 - momentum) * student; buffers are copied."""
    weights: list[Tensor] = list(teacher.parameters())
    torch._foreach_lerp_(weights, [p.detach().to(w.dtype) for p, w in zip(student.parameters(), weights, strict=True)],
                         1.0 - momentum)  # fmt: skip
    for own, other in zip(teacher.buffers(), student.buffers(), strict=True):
        own.copy_(other)
