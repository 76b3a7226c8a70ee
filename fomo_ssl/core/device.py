"""Which device a command runs on."""

from collections.abc import Sequence

import torch
from torch import Tensor

from fomo_ssl.core.errors import ConfigError


def choose_device(name: str | None = None) -> torch.device:
    """The named device, or CUDA where there is a card, else the CPU.

    Raises:
        ConfigError: torch knows no such device, or this machine has none.
    """
    if name is None:
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(name)
        torch.empty(0, device=device)
    except (RuntimeError, AssertionError) as error:
        reason = str(error).split("\n")[0]
        raise ConfigError(
            f"no device {name!r} ({reason})", way_out="use cpu, or see python -m fomo_ssl.doctor"
        ) from error
    return device


def uses_gpu(accelerator: str | None = None) -> bool:
    """Whether what Lightning calls by this name (None: auto) is a CUDA device here. One may be there and not be wanted.

    What is done for a GPU beside the training, such as locking memory, opens a context on it, which takes memory there.
    """
    return accelerator in (None, "auto", "gpu", "cuda") and torch.cuda.is_available()


def few_numbers(values: Sequence[int], device: torch.device, dtype: torch.dtype | None = None) -> Tensor:
    """`torch.tensor(values, device=device)` without its wait until a GPU has done all that it was given before."""
    return torch.tensor(values, dtype=dtype).to(device, non_blocking=True)
