"""Collect rows of every rank, with gradients back to the rank they came from."""

import contextlib
from collections.abc import Iterator
from typing import Any

import torch
import torch.distributed as dist
from jaxtyping import Float, Int64
from torch import Tensor


class _Gather(torch.autograd.Function):
    """all_gather forward; backward sums what all ranks' losses say about this rank's rows.

    The sum is what makes data-parallel training exact: DDP then averages over ranks, which gives the gradient of the
    mean of the ranks' losses, the same as one process with the whole batch.
    """

    @staticmethod
    def forward(ctx: Any, rows: Tensor) -> Tensor:
        parts = [torch.empty_like(rows) for _ in range(dist.get_world_size())]
        dist.all_gather(parts, rows.contiguous())
        return torch.cat(parts)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> Tensor:
        grad = grads[0].clone(memory_format=torch.contiguous_format)
        dist.all_reduce(grad)
        return grad.chunk(dist.get_world_size())[dist.get_rank()]


_apart = False


@contextlib.contextmanager
def apart() -> Iterator[None]:
    """Let this process look at rows of its own: inside, nothing is gathered and nobody is waited for."""
    global _apart
    before, _apart = _apart, True
    try:
        yield
    finally:
        _apart = before


def gather_rows(rows: Float[Tensor, "n d"]) -> tuple[Float[Tensor, "m d"], Int64[Tensor, "n"]]:
    """Rows of all ranks in rank order (m = n x ranks), and which of them are this rank's own.

    Every rank must bring the same number of rows. Without an initialised process group, and inside `apart`, the rows
    come back as they are.
    """
    own = torch.arange(len(rows), device=rows.device)
    if _apart or not (dist.is_available() and dist.is_initialized()) or dist.get_world_size() == 1:
        return rows, own
    gathered: Tensor = _Gather.apply(rows)
    return gathered, dist.get_rank() * len(rows) + own
