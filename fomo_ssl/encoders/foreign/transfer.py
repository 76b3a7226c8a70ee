"""Move foreign tensors into an encoder and account for each: what went where, what was left over, what is missing.

A silent partial load looks like pretraining that does not help. So every tensor of the encoder must be filled, and the
report names every tensor that was not used.
"""

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from fomo_ssl.core.errors import ForeignWeightsError
from fomo_ssl.core.types import Triple
from fomo_ssl.encoders.base import Encoder

_NAMED = 5  # tensors that an error names before it counts the rest
_STARTS = (b"PK", b"\x80")
"""First bytes of what torch.save writes: a zip archive, and before release 1.6 a pickle."""
_REFUSED = re.compile(r"GLOBAL ([\w.]+)")
"""What torch says of a class or function that it does not build without being told to trust the file."""


@dataclass(frozen=True)
class Moved:
    """One tensor's way: its name there, its name here, its shape, and what was done to it on the way."""

    source: str
    target: str
    shape: tuple[int, ...]
    how: str = "copied"


@dataclass(frozen=True)
class TransferReport:
    """What became of every tensor.

    Attributes:
        format: name of the foreign format.
        moved: one entry per tensor of the encoder.
        unused: foreign names that the encoder has no place for, such as those of a decoder.
    """

    format: str
    moved: tuple[Moved, ...]
    unused: tuple[str, ...]

    @property
    def parameters(self) -> int:
        """Numbers that were moved."""
        return sum(torch.Size(entry.shape).numel() for entry in self.moved)

    def table(self) -> str:
        """One line a tensor, and what was left over."""
        rows = [f"{m.target:<48} {'x'.join(map(str, m.shape)) or '1':>20}  {m.how:<9} {m.source}" for m in self.moved]
        rest = [f"not used: {name}" for name in self.unused]
        summary = f"{len(self.moved)} tensors, {self.parameters / 1e6:.2f} M numbers moved; {len(rest)} not used"
        return "\n".join([*rows, *rest, summary])


@dataclass(frozen=True)
class Imported:
    """An encoder with foreign weights, and what those weights expect of their input.

    Attributes:
        encoder: built by `create_encoder`, so that a bundle can build it again.
        report: what became of each tensor.
        spacing: mm; None = the scan's own.
        crop: voxels of a training crop.
        normalisation: name of the intensity normalisation, as in a bundle's input contract.
        sequences: names of the sequences it was trained on; empty where nobody says.
        source: for the model card: project, objective, citation.
        max_upsample: no axis is resampled finer than its own spacing divided by this; the projects known know no limit.
        crop_foreground: whether the air around the head is cut away; the projects known do.
    """

    encoder: Encoder
    report: TransferReport
    spacing: float | None
    crop: Triple
    normalisation: str
    sequences: tuple[str, ...]
    source: Mapping[str, Any]
    max_upsample: float = 100.0
    crop_foreground: bool = True


@dataclass(frozen=True)
class Facts:
    """What an exporter tells of an encoder beside its weights; fields as in a bundle's input contract.

    Attributes:
        training: summary of the pretraining.
    """

    spacing: float | None
    crop: Triple
    normalisation: str
    sequences: tuple[str, ...]
    training: Mapping[str, Any]
    max_upsample: float
    crop_foreground: bool


def read_tensors(path: Path) -> dict[str, Any]:
    """The dictionary of a PyTorch checkpoint, read without running code from it.

    Raises:
        ForeignWeightsError: no such file, no PyTorch checkpoint, a damaged one, or one that only running code from the
            file would open; names the class that was refused.
    """
    path = Path(path)
    if not path.is_file():
        raise ForeignWeightsError("no such file", where=path, way_out="Give the checkpoint itself, not its folder")
    try:
        content = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # the unpickler raises whatever a broken file makes of it: KeyError, IndexError, …
        raise _unreadable(path, error) from error
    if not isinstance(content, dict):
        raise ForeignWeightsError(f"holds a {type(content).__name__} and no dictionary", where=path)
    return content


def _unreadable(path: Path, error: Exception) -> ForeignWeightsError:
    """Why torch could not read a file, in one line; torch itself takes a page, and for any text it advises to trust."""
    if isinstance(error, OSError):
        return ForeignWeightsError(f"cannot be read: {error.strerror}", where=path)
    with path.open("rb") as file:
        head = file.read(2)
    if not head.startswith(_STARTS):
        what, way_out = "not a PyTorch checkpoint", "Give the file that torch.save wrote, often *.pth, *.pt or *.ckpt"
    elif refused := _REFUSED.search(str(error)):
        what = f"a pickle that carries code, {refused[1]}, which was not run"
        way_out = (
            "Where you trust it, save its tensors: torch.save(torch.load(FILE, weights_only=False)['state_dict'], NEW)"
        )
    elif "TorchScript" in str(error):
        what = "a TorchScript program and no checkpoint"
        way_out = "Save its tensors: torch.save(torch.jit.load(FILE).state_dict(), NEW)"
    else:
        what, way_out = "a damaged PyTorch checkpoint, or another archive or pickle", "Copy or download it again"
    return ForeignWeightsError(what, where=path, way_out=way_out)


@torch.no_grad()
def transfer(
    encoder: Encoder,
    state: Mapping[str, Tensor],
    rename: Callable[[str], str | None],
    *,
    source: str,
    where: Path,
    change: Callable[[str, Tensor], tuple[Tensor, str]] | None = None,
) -> TransferReport:
    """Fill every tensor of an encoder from a foreign state dict.

    Args:
        encoder: filled in place.
        state: foreign tensors under their own names.
        rename: the encoder's name of a foreign one; None leaves the tensor out. Two foreign names of one tensor are
            fine where their values are the same, as aliases are.
        source: name of the format, for the report.
        where: the file, for errors.
        change: given the encoder's name and the foreign tensor, what to copy and a word for what was done to it.

    Raises:
        ForeignWeightsError: a tensor of the encoder found no partner, a shape differs, or two partners differ.
    """
    own = encoder.state_dict()
    moved: dict[str, Moved] = {}
    values: dict[str, Tensor] = {}
    unused = []
    for name, tensor in state.items():
        target = rename(name)
        if target is None or target not in own:
            unused.append(name)
            continue
        value, how = (tensor, "copied") if change is None else change(target, tensor)
        if value.shape != own[target].shape:
            shapes = f"{tuple(value.shape)} where the encoder has {tuple(own[target].shape)}"
            raise ForeignWeightsError(f"{source}: {name} is {shapes}", where=where, way_out="Choose another encoder")
        if target in values and not torch.equal(values[target], value):
            raise ForeignWeightsError(f"{source}: two different tensors for {target}, one is {name}", where=where)
        values[target] = value
        moved.setdefault(target, Moved(name, target, tuple(value.shape), how))
    missing = [name for name in own if name not in values]
    if missing:
        named = ", ".join(missing[:_NAMED]) + (f" and {len(missing) - _NAMED} more" if len(missing) > _NAMED else "")
        raise ForeignWeightsError(
            f"{source}: {len(missing)} of {len(own)} tensors of the encoder are not in the file: {named}",
            where=where,
            way_out="The file belongs to another model; nothing was loaded",
        )
    encoder.load_state_dict(values)
    return TransferReport(source, tuple(moved[name] for name in own), tuple(unused))
