"""What every transform shares: recorded parameters, and work only on the samples that drew the transform."""

from collections.abc import Callable
from dataclasses import dataclass, fields, replace
from functools import partial
from typing import Any, Protocol, TypeVar, runtime_checkable

import torch
from jaxtyping import Bool, Float, Int64
from torch import Tensor

from fomo_ssl.core.seeding import fold, uniform

P = TypeVar("P", bound="Params")


@dataclass(frozen=True)
class Grid:
    """The voxels that a transform is drawn for: `shape` of the crop, and `spacing` in mm per sample."""

    shape: torch.Size
    spacing: Float[Tensor, "b 3"]


@dataclass(frozen=True)
class Params:
    """Parameters of one transform for a batch; leaves add tensors whose first axis is the sample.

    They are drawn on the CPU, where a decision costs no wait for the device, and are the same bits for every device.
    """

    applied: Bool[Tensor, "b"]

    def take(self: P, samples: Int64[Tensor, "k"]) -> P:
        """The parameters of some samples."""
        return replace(self, **{f.name: getattr(self, f.name)[samples] for f in fields(self)})

    def to(self: P, device: torch.device) -> P:
        return replace(self, **{f.name: getattr(self, f.name).to(device, non_blocking=True) for f in fields(self)})


@runtime_checkable
class Transform(Protocol):
    """A pair of functions; whatever `sample` returns is what `apply` takes."""

    def sample(self, keys: Int64[Tensor, "b"], grid: Grid) -> Any: ...

    def apply(self, x: Float[Tensor, "b c x y z"], params: Any) -> Float[Tensor, "b c x y z"]: ...


def draw_applied(keys: Int64[Tensor, "b"], p: float) -> Bool[Tensor, "b"]:
    """True with probability `p`, per sample."""
    return uniform(fold(keys, "applied")) < p


def on_applied(
    x: Float[Tensor, "b c x y z"], params: P, apply: Callable[[Tensor, P], Tensor]
) -> Float[Tensor, "b c x y z"]:
    """`apply(x, params)` on the samples that drew the transform; the others, and `x` itself, are left alone."""
    return _on(x, x, params.applied, params, apply)


def on_axes(
    x: Float[Tensor, "b c x y z"],
    params: P,
    axes: Bool[Tensor, "b 3"],
    apply: Callable[[Tensor, P, int], Tensor],
) -> Float[Tensor, "b c x y z"]:
    """`apply(x, params, axis)` along each axis in turn, on the samples that drew the transform and that axis."""
    out = x
    for axis in range(3):
        out = _on(out, x, params.applied & axes[:, axis], params, partial(_along, apply=apply, axis=axis))
    return out


def _along(part: Tensor, params: P, apply: Callable[[Tensor, P, int], Tensor], axis: int) -> Tensor:
    return apply(part, params, axis)


def _on(x: Tensor, kept: Tensor, where: Bool[Tensor, "b"], params: P, apply: Callable[[Tensor, P], Tensor]) -> Tensor:
    """`apply` on some samples of `x`, into `x` itself unless that is `kept`."""
    samples = where.nonzero().flatten()
    if len(samples) == 0:
        return x
    if len(samples) == len(x):
        return apply(x, params.to(x.device))
    chosen = params.take(samples).to(x.device)
    samples = samples.to(x.device, non_blocking=True)
    out = x.clone() if x is kept else x
    out[samples] = apply(x[samples], chosen)
    return out
