"""The one preprocessing that everything shares: store, finetuning, prediction, embedding."""

from dataclasses import dataclass, replace

import numpy as np

from fomo_ssl.core.errors import Reason, RejectedScan
from fomo_ssl.core.vocabulary import Spacing, Triple
from fomo_ssl.imaging.foreground import Box, foreground_box, foreground_mask
from fomo_ssl.imaging.intensity import IntensityStats, measure
from fomo_ssl.imaging.nifti import Volume
from fomo_ssl.imaging.orientation import to_ras
from fomo_ssl.imaging.resample import Order, output_shape, resample, resample_to, resampled_affine

MARGIN_MM = 5.0
# A spacing this near the wanted one is kept: resampling would only blur.
SAME_SPACING = 0.01
# Nothing smaller holds anatomy; no encoder could use it.
MIN_SIZE = 4
# Header sizes are checked on reading; this bounds what up-sampling makes of them.
MAX_VOXELS = 2**29


@dataclass(frozen=True)
class CanonicalSpec:
    """How a scan is brought into canonical form.

    Attributes:
        spacing: voxel edge in mm; None keeps the scan's own.
        max_upsample: an axis is never made finer than its own spacing divided by this.
        crop_foreground: cut away the air around the head (5 mm of it stay).
        normalisation: name of the intensity statistics, see `imaging.intensity`.
    """

    spacing: float | None = 1.0
    max_upsample: float = 2.0
    crop_foreground: bool = True
    normalisation: str = "zscore_foreground"


@dataclass(frozen=True)
class CanonicalVolume:
    """A scan in canonical form.

    Attributes:
        data: (x, y, z) float32 in RAS+ at `spacing`, not normalised; use `intensity.normalise(data, stats)`.
        affine: voxel -> mm RAS+.
        spacing: mm.
        stats: intensity range, mean and deviation.
        box: foreground box in voxels of `data`.
        background: intensity of empty space; `stats.low` where the scan has none.
        notes: legal oddities.
        valid: (x, y, z) bool, False where the scan was altered and says nothing of anatomy; None where nowhere.
    """

    data: np.ndarray
    affine: np.ndarray
    spacing: Spacing
    stats: IntensityStats
    box: Box
    background: float
    notes: tuple[str, ...] = ()
    valid: np.ndarray | None = None


def canonicalise(volume: Volume, spec: CanonicalSpec, valid: np.ndarray | None = None) -> CanonicalVolume:
    """RAS+ -> foreground box -> resample -> intensity statistics.

    Args:
        volume: a scan.
        spec: the form wanted.
        valid: bool on the grid of the scan, which goes the same way by nearest neighbour.

    Raises:
        RejectedScan: NOT_3D, CONSTANT, TOO_SMALL or TOO_LARGE.
        UnknownNameError: there is no such normalisation.
    """
    if volume.data.ndim != 3:
        raise RejectedScan(Reason.NOT_3D, f"shape {volume.data.shape}")
    ras = to_ras(volume)
    if not float(ras.data.max()) > float(ras.data.min()):
        raise RejectedScan(Reason.CONSTANT, f"every voxel is {float(ras.data.flat[0]):g}")
    box = _box(ras) if spec.crop_foreground else (slice(None), slice(None), slice(None))
    ras = _cut(ras, box)
    spacing = target_spacing(ras.spacing, spec)
    _check_size(ras, spacing)
    shape: Triple = ras.data.shape
    data = resample(ras.data, ras.spacing, spacing, "cubic")
    # Cubic interpolation rings at edges; no voxel may leave the range of the scan.
    np.clip(data, float(ras.data.min()), float(ras.data.max()), out=data)
    affine = resampled_affine(ras.affine, shape, ras.spacing, spacing)
    canonical = _measured(data, affine, spacing, volume.notes, spec.normalisation)
    if valid is None:
        return canonical
    kept = _cut(to_ras(Volume(valid, volume.affine)), box).data
    return replace(canonical, valid=resample(kept, ras.spacing, spacing, "nearest"))


def target_spacing(native: Spacing, spec: CanonicalSpec) -> Spacing:
    """The spacing a scan gets: the wanted one, but no axis finer than native / max_upsample."""
    if spec.spacing is None:
        return native
    wanted = [max(spec.spacing, edge / spec.max_upsample) for edge in native]
    x, y, z = (n if abs(n - w) <= SAME_SPACING * w else w for n, w in zip(native, wanted, strict=True))
    return (x, y, z)


def from_canonical(
    data: np.ndarray, canonical_affine: np.ndarray, like: Volume, order: Order, fill: float = 0.0
) -> np.ndarray:
    """Bring (x, y, z) from canonical space back onto the grid of the input scan; outside the crop lies `fill`."""
    shape: Triple = like.data.shape[:3]
    return resample_to(data, canonical_affine, like.affine, shape, order, fill)


def _box(volume: Volume) -> Box:
    x, y, z = (int(np.ceil(MARGIN_MM / edge)) for edge in volume.spacing)
    return foreground_box(foreground_mask(volume.data), (x, y, z))


def _cut(volume: Volume, box: Box) -> Volume:
    affine = volume.affine.copy()
    affine[:3, 3] = (volume.affine @ [*(axis.start or 0 for axis in box), 1.0])[:3]
    return Volume(volume.data[box], affine, volume.notes)


def _check_size(volume: Volume, spacing: Spacing) -> None:
    shape: Triple = volume.data.shape
    sizes = output_shape(shape, volume.spacing, spacing)
    if min(sizes) < MIN_SIZE:
        raise RejectedScan(Reason.TOO_SMALL, f"{sizes} voxels at {spacing} mm, at least {MIN_SIZE} along each axis")
    if int(np.prod(sizes, dtype=object)) > MAX_VOXELS:
        raise RejectedScan(Reason.TOO_LARGE, f"{sizes} voxels at {spacing} mm, at most {MAX_VOXELS} in all")


def _measured(
    data: np.ndarray, affine: np.ndarray, spacing: Spacing, notes: tuple[str, ...], normalisation: str
) -> CanonicalVolume:
    mask = foreground_mask(data)
    stats = measure(data, mask, normalisation)
    if not stats.std > 0:
        raise RejectedScan(Reason.CONSTANT, "the foreground is flat")
    air = data[~mask]
    background = float(np.median(air)) if air.size else stats.low
    return CanonicalVolume(data, affine, spacing, stats, foreground_box(mask), background, notes)
