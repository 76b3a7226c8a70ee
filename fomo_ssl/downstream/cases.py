"""From files to what a network sees: all sequences on the first one's canonical grid, normalised, with the label."""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from fomo_ssl.core.errors import Reason, RejectedScan, TaskError
from fomo_ssl.core.types import Spacing, Triple
from fomo_ssl.downstream.masks import read_mask
from fomo_ssl.downstream.tasks import Case
from fomo_ssl.imaging.canonical import CanonicalSpec, CanonicalVolume, canonicalise
from fomo_ssl.imaging.foreground import foreground_mask
from fomo_ssl.imaging.intensity import measure, normalise
from fomo_ssl.imaging.nifti import Volume, read
from fomo_ssl.imaging.resample import resample_to


@dataclass(frozen=True)
class Prepared:
    """A session in canonical form.

    Attributes:
        image: (c, x, y, z) float32, normalised per sequence; zeros for a sequence that is missing.
        background: (c,) normalised intensity of empty space, for padding.
        affine: canonical voxel -> mm.
        spacing: mm.
        grid: grid of the first sequence's file; its data are all zero and take no memory.
    """

    image: np.ndarray
    background: np.ndarray
    affine: np.ndarray
    spacing: Spacing
    grid: Volume


@dataclass(frozen=True)
class Example:
    """A prepared session with its label.

    Attributes:
        mask: (x, y, z) uint8 on the canonical grid; None unless the task is segmentation.
        drawn_mask: the same on the file's own grid, where results are measured.
        value: class index or number; nan for segmentation.
    """

    case: Case
    prepared: Prepared
    mask: np.ndarray | None
    drawn_mask: np.ndarray | None
    value: float


def prepare(images: Mapping[str, Path], sequences: Sequence[str], spec: CanonicalSpec) -> Prepared:
    """Read a session's sequences; the first one present sets the grid, the others are resampled onto it.

    Args:
        images: path by sequence.
        sequences: channels in order; one without a path becomes zeros.
        spec: canonical form.

    Raises:
        RejectedScan: a file cannot be used, or shows nothing where the first sequence lies.
        TaskError: none of the sequences is given.
    """
    present = [name for name in sequences if name in images]
    if not present:
        raise TaskError(f"none of {', '.join(sequences)} is given", way_out="Name at least one of them")
    with _named(images[present[0]]):
        first = read(images[present[0]])
        canonical = canonicalise(first, spec)
    image = np.zeros((len(sequences), *canonical.data.shape), np.float32)
    background = np.zeros(len(sequences), np.float32)
    for channel, name in enumerate(sequences):
        if name == present[0]:
            image[channel] = normalise(canonical.data, canonical.stats)
            empty = np.float32(canonical.background)
            background[channel] = normalise(np.full((1, 1, 1), empty), canonical.stats).item()
        elif name in images:
            with _named(images[name]):
                image[channel], background[channel] = _onto(read(images[name]), canonical, spec.normalisation)
    grid = Volume(np.broadcast_to(np.float32(0), first.data.shape), first.affine)
    return Prepared(image, background, canonical.affine, canonical.spacing, grid)


def load_example(case: Case, sequences: Sequence[str], spec: CanonicalSpec) -> Example:
    """Prepare a case and its label.

    Raises:
        RejectedScan, TaskError: a file cannot be used, or mask and image do not fit.
    """
    prepared = prepare(case.images, sequences, spec)
    if not isinstance(case.label, Path):
        return Example(case, prepared, None, None, float(case.label))
    drawn = read_mask(case.label, prepared.grid)
    shape: Triple = prepared.image.shape[1:]
    mask = resample_to(drawn, prepared.grid.affine, prepared.affine, shape, "nearest")
    return Example(case, prepared, mask, drawn, float("nan"))


@contextmanager
def _named(path: Path) -> Iterator[None]:
    """Every rejection inside the block gets the path."""
    try:
        yield
    except RejectedScan as error:
        raise RejectedScan(error.reason, error.detail, where=path) from error


def _onto(volume: Volume, canonical: CanonicalVolume, normalisation: str) -> tuple[np.ndarray, float]:
    """A further sequence on the canonical grid, normalised by its own statistics; and its empty space."""
    shape: Triple = canonical.data.shape
    low, high = float(volume.data.min()), float(volume.data.max())
    data = resample_to(volume.data, volume.affine, canonical.affine, shape, "cubic", fill=low).clip(low, high)
    mask = foreground_mask(data)
    stats = measure(data, mask, normalisation)
    if not stats.std > 0:  # normalised to zeros it would pass for a sequence that is missing
        what = f"every voxel is {low:g}" if low == high else "nothing of it lies where the first sequence does"
        raise RejectedScan(Reason.CONSTANT, what)
    empty = np.median(data[~mask]) if not mask.all() else stats.low
    return normalise(data, stats), normalise(np.full((1, 1, 1), empty, np.float32), stats).item()


def window(image: np.ndarray, origin: Sequence[int], size: Triple, background: np.ndarray | float) -> np.ndarray:
    """Cut (…, x, y, z) at `origin`; what lies outside is `background` (one value a channel, or one for all)."""
    lead = image.shape[:-3]
    fill = np.asarray(background, image.dtype)
    out = np.broadcast_to(fill.reshape(-1, 1, 1, 1) if lead else fill, (*lead, *size)).copy()
    source, target = [], []
    for start, length, limit in zip(origin, size, image.shape[-3:], strict=True):
        low, high = max(start, 0), min(start + length, limit)
        source.append(slice(low, max(low, high)))
        target.append(slice(low - start, max(low, high) - start))
    (a, b, c), (i, j, k) = target, source
    out[..., a, b, c] = image[..., i, j, k]
    return out


def centre_origin(shape: Sequence[int], size: Triple) -> Triple:
    """Origin of the window of `size` around the centre; negative where the volume is smaller."""
    x, y, z = ((n - s) // 2 for n, s in zip(shape, size, strict=True))
    return x, y, z
