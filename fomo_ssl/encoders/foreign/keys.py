"""Names of tensors as trainers wrap them, and the checks that formats share."""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from torch import Tensor

from fomo_ssl.core.errors import ForeignWeightsError
from fomo_ssl.encoders.foreign.transfer import TransferReport

_NESTS = ("state_dict", "network_weights", "model")
_WRAPPERS = {"module", "model", "_orig_mod", "backbone"}
_NAMED = 5  # tensors that an error names


def tensors(content: Mapping[str, Any]) -> dict[str, Tensor]:
    """The state dict of a checkpoint, under its own names, wherever it is nested; other values are left out."""
    for nest in _NESTS:
        if isinstance(content.get(nest), Mapping):
            content = content[nest]
            break
    return {name: value for name, value in content.items() if isinstance(name, str) and isinstance(value, Tensor)}


def bare(name: str) -> str:
    """A name without what Lightning, DataParallel, the compiler and model wrappers put before it."""
    head, _, rest = name.partition(".")
    return bare(rest) if rest and head in _WRAPPERS else name


def bare_tensors(content: Mapping[str, Any]) -> dict[str, Tensor]:
    """As `tensors`, under bare names."""
    return {bare(name): value for name, value in tensors(content).items()}


def refuse_leftovers(report: TransferReport, belongs: Callable[[str], bool], where: Path) -> None:
    """An encoder with layers that ours has no place for would give other numbers: an error, and not a report.

    Raises:
        ForeignWeightsError: an unused tensor is part of the foreign encoder, by its bare name.
    """
    left = [name for name in report.unused if belongs(bare(name))]
    if left:
        raise ForeignWeightsError(
            f"{report.format}: its encoder has layers that ours has not: {', '.join(left[:_NAMED])}",
            where=where,
            way_out="The file belongs to another model",
        )


def training_crop(content: Mapping[str, Any], default: int) -> tuple[int, int, int]:
    """Voxels of a training crop, from Lightning's hyper-parameters, or their `config`, where they say it."""
    said = content.get("hyper_parameters", {})
    if isinstance(said, Mapping) and isinstance(said.get("config"), Mapping):
        said = said["config"]
    size = said.get("patch_size") if isinstance(said, Mapping) else None
    match [size] * 3 if isinstance(size, int) else size:
        case [int(x), int(y), int(z)]:
            return x, y, z
    return default, default, default
