"""Words every room shares: what an objective asks for (`ViewSpec`) and what it receives (`Views`).

Array axes are x, y, z in RAS+; shapes are written `b c x y z`; spacing is in mm.
"""

from dataclasses import dataclass, fields, replace
from typing import Literal, TypeVar, get_args

import torch
from jaxtyping import Bool, Float, Float32, Int16, Int64
from torch import Tensor

from fomo_ssl.core.errors import ConfigError
from fomo_ssl.core.vocabulary import SEQUENCES as SEQUENCES
from fomo_ssl.core.vocabulary import Spacing as Spacing
from fomo_ssl.core.vocabulary import Triple as Triple
from fomo_ssl.core.vocabulary import sequence_class as sequence_class


@dataclass(frozen=True)
class FeatureInfo:
    """One level of an encoder's pyramid: channels, and voxels of input per voxel of map along x, y, z."""

    channels: int
    stride: Triple


Pairing = Literal["single", "overlap", "session", "subject"]


@dataclass(frozen=True)
class ViewSpec:
    """The crops that an objective wants of each sample.

    Attributes:
        n: number of views.
        pairing: `single` one crop; `overlap` n crops of one scan that share at least `min_overlap` of their volume;
            `session` two sequences of one session on the same physical region where the session has several;
            `subject` two sessions of one subject, at the same place of their foreground boxes, in the same sequence
            where the other session has it; both fall back to `overlap` (the batch says which it got in `paired`).
        min_overlap: least shared fraction of the crop's volume, 0 to 1.
        valid: whether `Views.valid` is wanted.
        together: the spatial augmentation of a sample is the same for all its views, so that views of one region still
            match voxel by voxel.
        placed: `Views.placement` says where the views lie in their scans.

    Raises:
        ConfigError: no such pairing, no view, or an overlap outside [0, 1].
    """

    n: int = 1
    pairing: Pairing = "single"
    min_overlap: float = 0.4
    valid: bool = False
    together: bool = False
    placed: bool = False

    def __post_init__(self) -> None:
        if self.pairing not in get_args(Pairing):
            raise ConfigError(f"pairing is {self.pairing!r}", way_out=f"One of {', '.join(get_args(Pairing))}")
        if self.n < 1 or not 0.0 <= self.min_overlap <= 1.0:
            raise ConfigError(f"{self.n} views that share {self.min_overlap} of their volume cannot be cut")


_Self = TypeVar("_Self", bound="_OnDevice")


@dataclass
class _OnDevice:
    """A record of tensors that moves as one."""

    def to(self: _Self, device: torch.device | str, non_blocking: bool = False) -> _Self:
        return replace(self, **{f.name: _move(getattr(self, f.name), device, non_blocking) for f in fields(self)})

    def pin_memory(self: _Self) -> _Self:
        return replace(self, **{f.name: _pin(getattr(self, f.name)) for f in fields(self)})


def _move(value: object, device: torch.device | str, non_blocking: bool) -> object:
    if isinstance(value, Tensor):
        return value.to(device, non_blocking=non_blocking)
    if isinstance(value, _OnDevice):
        return value.to(device, non_blocking)
    return [_move(v, device, non_blocking) for v in value] if isinstance(value, list) else value


def _pin(value: object) -> object:
    if isinstance(value, Tensor | _OnDevice):
        return value.pin_memory()
    return [_pin(v) for v in value] if isinstance(value, list) else value


@dataclass
class CropBatch(_OnDevice):
    """Crops as the loader sends them: stored integers, converted on the device.

    Attributes:
        images: one tensor per view; voxel value = image * scale + offset gives the normalised intensity.
        scale, offset: per view and sample, float32.
        origins: corner of each crop in store voxels, per view (may be negative where the crop was padded).
        keys: random key of each sample, a function of (seed, global sample index) only.
        indices: global sample index.
        rows: row of the store's index, per view.
        spacing: voxel edges of each sample in mm.
        sequences: sequence class index, per view.
        paired: True where a `session` or `subject` pair was found (or the pairing asked for no second scan).
        flagged: whether the images carry `corpus.codec.NOT_VALID` in voxels that do not count; False where all count.
    """

    images: list[Int16[Tensor, "b c x y z"]]
    scale: Float32[Tensor, "v b"]
    offset: Float32[Tensor, "v b"]
    origins: Int64[Tensor, "v b 3"]
    keys: Int64[Tensor, "b"]
    indices: Int64[Tensor, "b"]
    rows: Int64[Tensor, "v b"]
    spacing: Float32[Tensor, "b 3"]
    sequences: Int64[Tensor, "v b"]
    paired: Bool[Tensor, "b"]
    flagged: bool = False

    def __len__(self) -> int:
        return len(self.keys)

    def parts(self, n: int) -> list["CropBatch"]:
        """The batch in `n` batches of equally many samples, in order; tensors share memory.

        Raises:
            ValueError: `n` does not divide the number of samples.
        """
        if n == 1:
            return [self]
        if len(self) % n:
            raise ValueError(f"{len(self)} samples do not make {n} equal parts")
        size = len(self) // n
        return [self.cut(slice(k * size, (k + 1) * size)) for k in range(n)]

    def cut(self, some: slice) -> "CropBatch":
        """Some of the samples; tensors share memory."""
        by_view = {name: getattr(self, name)[:, some] for name in ("scale", "offset", "origins", "rows", "sequences")}
        by_sample = {name: getattr(self, name)[some] for name in ("keys", "indices", "spacing", "paired")}
        return replace(self, images=[image[some] for image in self.images], **by_view, **by_sample)


@dataclass
class Placement(_OnDevice):
    """Where places of a scan are found in its views, after crops were cut out, mirrored, turned, zoomed and bent.

    Attributes:
        origins: corner of each crop in voxels of its scan, as in `CropBatch`.
        landmarks: where a lattice of n^3 points of each crop came to lie, in voxels of the view along x, y, z; points
            that left the view lie outside it. The lattice reaches from the centre of the crop's first voxel to that
            of its last along each axis; between its points, interpolate.
    """

    origins: Int64[Tensor, "v b 3"]
    landmarks: Float32[Tensor, "v b 3 n n n"]


@dataclass
class Views(_OnDevice):
    """What an objective sees: augmented views, normalised float, on the device.

    Attributes:
        images: augmented crops, one tensor per view.
        targets: the same crops with the spatial part of the augmentation only: what a reconstruction aims at.
        keys: random key per sample; objectives draw masks from `fold(keys, name)`.
        spacing: mm, per sample.
        sequences: sequence class index, per view and sample.
        paired: see `CropBatch`.
        valid: per view, True in voxels that count; None where all do. Defaced regions do not: what they show is no
            anatomy. They are not hidden from the encoder, only left out of losses.
        placement: where the views lie in their scans; only where the objective's `ViewSpec` asks for it.
    """

    images: list[Float[Tensor, "b c x y z"]]
    targets: list[Float[Tensor, "b c x y z"]]
    keys: Int64[Tensor, "b"]
    spacing: Float32[Tensor, "b 3"]
    sequences: Int64[Tensor, "v b"]
    paired: Bool[Tensor, "b"]
    valid: list[Bool[Tensor, "b 1 x y z"]] | None = None
    placement: Placement | None = None

    def __len__(self) -> int:
        return len(self.keys)
