"""A device that computes on the CPU but behaves as a GPU: it refuses tensors of the host, and notes who waits for it.

    python tests/contracts/pretend_gpu.py

A step of every objective, and augmentation, on that device: a line of JSON for each, with the places that waited. A
process of its own, since torch takes one further device for good.
"""

import collections
import dataclasses
import json
import traceback
from typing import Any

import torch
from objective_cases import build, make_views
from torch import Tensor
from torch.utils import backend_registration
from torch.utils._python_dispatch import TorchDispatchMode, return_and_correct_aliasing
from torch.utils._pytree import tree_flatten, tree_map

from fomo_ssl.core.types import CropBatch, ViewSpec
from fomo_ssl.data.augment import Augmenter
from fomo_ssl.objectives import list_objectives


class _Module(backend_registration._DummyBackendModule):
    def get_amp_supported_dtype(self) -> list[torch.dtype]:
        return [torch.float16, torch.bfloat16]


backend_registration._setup_privateuseone_for_python_backend("pretend", _Module())
DEVICE = torch.device("pretend", 0)
WAITING = {"_local_scalar_dense", "nonzero", "masked_select", "_unique2", "unique_dim", "equal"}
"""Operators whose result the host has to see."""
INDEXING = {"index", "index_put", "index_put_", "_index_put_impl_", "_unsafe_index"}

waits: collections.Counter[str] = collections.Counter()


def note_wait() -> None:
    """Count a wait for the innermost function of ours that is running."""
    frames = [frame for frame in traceback.extract_stack() if "/fomo_ssl/" in frame.filename]
    waits[f"{frames[-1].filename.split('/fomo_ssl/')[1]} {frames[-1].name}" if frames else "torch"] += 1


class OnDevice(Tensor):
    """A tensor of the device; its numbers are in `host`."""

    host: Tensor
    __torch_function__ = torch._C._disabled_torch_function_impl

    @staticmethod
    def __new__(cls, host: Tensor) -> "OnDevice":
        like = {"strides": host.stride(), "storage_offset": host.storage_offset(), "dtype": host.dtype}
        return Tensor._make_wrapper_subclass(cls, host.shape, device=DEVICE, **like)

    def __init__(self, host: Tensor) -> None:
        self.host = host

    @classmethod
    def __torch_dispatch__(cls, operator: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        return compute(operator, args, kwargs or {})

    def new_tensor(self, values: Any, **options: Any) -> Tensor:
        return torch.tensor(values, device=DEVICE, dtype=options.get("dtype", self.dtype))


class Watching(TorchDispatchMode):
    """Sends every operator through `compute`, those that make tensors too."""

    def __torch_dispatch__(self, operator: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        return compute(operator, args, kwargs or {})


def compute(operator: Any, args: Any, kwargs: dict[str, Any]) -> Any:
    name, wanted = operator.overloadpacket.__name__, kwargs.get("device")
    there = wanted is not None and torch.device(wanted).type == DEVICE.type
    tensors = [each for each in tree_flatten((args, kwargs))[0] if isinstance(each, Tensor)]
    ours = [each for each in tensors if isinstance(each, OnDevice)]
    if not ours and not there:
        return operator(*args, **kwargs)
    if wanted is not None:
        kwargs = kwargs | {"device": torch.device("cpu")}
    moves = name == "_to_copy" and wanted is not None and there != bool(ours)
    if moves or (name == "copy_" and len(ours) == 1):
        asynchronous = kwargs.get("non_blocking") or (name == "copy_" and len(args) > 2 and args[2])
        if (ours and name == "_to_copy") or not asynchronous:  # whoever reads on the host has waited
            note_wait()
    elif name in INDEXING:
        # On the host they are copied over; of booleans, the number that are true is read.
        if any(each is not None and (each.dtype == torch.bool or not isinstance(each, OnDevice)) for each in args[1]):
            note_wait()
    elif ours and any(each.ndim for each in tensors if not isinstance(each, OnDevice)):
        raise RuntimeError(f"{operator} mixes tensors of the host and of the device")
    if name in WAITING:
        note_wait()
    result = operator(*tree_map(_host, args), **tree_map(_host, kwargs))
    if moves and ours:
        return result
    wrapped = tree_map(lambda each: OnDevice(each) if isinstance(each, Tensor) else each, result)
    # Views share memory, and autograd must know: it adds up in place what nobody else holds.
    return return_and_correct_aliasing(operator, args, kwargs, wrapped)


def _host(each: Any) -> Any:
    return each.host if isinstance(each, OnDevice) else each


_make = torch.tensor


def _tensor(values: Any, *, device: Any = None, **options: Any) -> Tensor:
    """torch builds it on the host, copies it over and waits, all below what `Watching` sees."""
    if device is None or torch.device(device).type != DEVICE.type:
        return _make(values, device=device, **options)
    note_wait()
    return OnDevice(_make(values, **options))


torch.tensor = _tensor


def tell(case: str) -> None:
    print(json.dumps({"case": case, "waits": dict(waits)}), flush=True)


def step(name: str, family: str) -> None:
    """Loss, gradients, what follows the optimizer's step, another loss, and a preview."""
    reference = build(name, family)
    views = make_views(reference.views.n)
    if reference.views.valid:
        views = dataclasses.replace(views, valid=[target > -1.0 for target in views.targets])
    expected = reference(views, 0).loss
    expected.backward()
    with Watching():
        objective, moved = build(name, family).to(DEVICE), views.to(DEVICE)
        waits.clear()
        output = objective(moved, 0)
        output.loss.backward()
        objective.after_step(1)
        objective(moved, 1)
        objective.eval().preview(moved)
        counted = waits.copy()
        found = output.loss.detach().cpu()
        for (label, one), other in zip(objective.named_parameters(), reference.parameters(), strict=True):
            if other.grad is not None:
                assert one.grad is not None, label
                torch.testing.assert_close(one.grad.cpu(), other.grad, rtol=1e-3, atol=1e-4)
    torch.testing.assert_close(found, expected.detach(), rtol=1e-4, atol=1e-5)
    waits.clear()
    waits.update(counted)
    tell(f"{name}-{family}")


def augment(spec: ViewSpec, b: int = 8) -> None:
    """Every transform on some of the samples."""
    generator = torch.Generator().manual_seed(0)
    stored = [torch.randint(0, 4096, (b, 1, 16, 16, 16), generator=generator).short() for _ in range(spec.n)]
    of_views, nowhere = torch.zeros(spec.n, b, dtype=torch.int64), torch.zeros(spec.n, b, 3, dtype=torch.int64)
    paired = torch.ones(b, dtype=torch.bool)
    batch = CropBatch(
        stored, of_views + 1e-3, of_views * 1.0, nowhere, torch.arange(b), torch.arange(b), of_views, torch.ones(b, 3),
        of_views, paired, flagged=spec.valid,
    )  # fmt: skip
    augmenter = Augmenter("all", spec)
    expected = augmenter(batch)
    with Watching():
        moved = batch.to(DEVICE)
        waits.clear()
        views = augmenter(moved)
        counted = waits.copy()
        found = [image.cpu() for image in views.images + views.targets]
    torch.testing.assert_close(found, expected.images + expected.targets, rtol=1e-4, atol=1e-4)
    waits.clear()
    waits.update(counted)
    tell(f"augment-{spec.n}")


if __name__ == "__main__":
    for each in list_objectives():
        step(each, "vit_t_p8")
    for each in ("mae", "alignment", "self_distillation"):
        step(each, "resenc_t")
    step("contrastive", "swin_t")
    augment(ViewSpec(valid=True))
    augment(ViewSpec(n=2, pairing="overlap", placed=True))
