"""Two sites with their scanners: from tissue fractions to the image that lies on disk."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from types import MappingProxyType

import numpy as np
from jaxtyping import Float32, Float64, Int16

from fomo_ssl.core.types import Spacing
from fomo_ssl.synthetic.anatomy import Anatomy
from fomo_ssl.synthetic.contrasts import TISSUES, Protocol, signals
from fomo_ssl.synthetic.fields import Grid, smooth_noise

_Map = Float32[np.ndarray, "x y z"]
_Any3D = Float32[np.ndarray, "_ _ _"]


@dataclass(frozen=True)
class Site:
    """A hospital: its protocol and what its images look like in a file.

    Attributes:
        name: the `dataset` of its subjects.
        protocol: timings, which set the contrast.
        gain: stored intensity of grey matter.
        noise: sd of the noise as a fraction of grey matter's signal, per sequence; "" is the rest.
        bias: sd of the logarithm of the coil's sensitivity.
        orientation: axis codes of the stored array.
        slice_factor: slice distance over in-plane spacing.
        thick: further factor of the slice distance, per sequence, where a session's sequences may differ in grid.
        stripped, defaced: share of subjects without skull, and of the others without face.
    """

    name: str
    protocol: Protocol
    gain: float
    noise: Mapping[str, float]
    bias: float
    orientation: str
    slice_factor: float = 1.0
    thick: Mapping[str, float] = field(default_factory=lambda: MappingProxyType({}))
    stripped: float = 0.0
    defaced: float = 0.0


NORTH = Site(
    name="north",
    protocol=Protocol(),
    gain=420.0,
    noise=MappingProxyType({"": 0.025, "dwi": 0.05}),
    bias=0.07,
    orientation="LAS",
    stripped=0.1,
    defaced=0.5,
)
SOUTH = Site(
    name="south",
    protocol=Protocol(t1_ti=1000.0, t2_te=85.0, flair_te=105.0, flair_ti=2400.0, dwi_te=90.0, swi_te=28.0),
    gain=1150.0,
    noise=MappingProxyType({"": 0.045, "dwi": 0.075}),
    bias=0.14,
    orientation="PSR",
    slice_factor=1.25,
    thick=MappingProxyType({"flair": 1.6, "dwi_b1000": 1.6, "adc": 1.6}),
    stripped=0.75,
)
SITES = (NORTH, SOUTH)


@dataclass(frozen=True)
class Image:
    """A scan as it is stored: integers, and the affine that places them (voxel -> mm RAS+)."""

    data: np.ndarray
    affine: Float64[np.ndarray, "4 4"]


@dataclass(frozen=True)
class Exam:
    """One visit to a scanner: who, where, and how the head was prepared."""

    anatomy: Anatomy
    site: Site
    spacing: Spacing
    stripped: bool
    defaced: bool


def scan(exam: Exam, sequence: str, rng: np.random.Generator) -> Image:
    """Acquire one sequence: signal, texture, coil, slices, Rician noise, gain, stored as int16 in the site's order.

    An ADC map is computed from a noisy b=0 and b=1000 image, in 1e-6 mm2/s, as a scanner does.
    """
    if sequence == "adc":
        return _store(exam, _adc(exam, rng))
    reference = float(signals(sequence, exam.site.protocol)[TISSUES.index("gm")])
    image = _magnitude(exam, sequence, rng) * np.float32(exam.site.gain * rng.uniform(0.85, 1.15) / reference)
    return _store(exam, image)


def label_map(exam: Exam) -> Image:
    """The lesion's mask on the exam's grid: uint8, 1 where it fills at least half of a voxel."""
    fraction = to_grid(exam.anatomy.lesion, exam.anatomy.grid, exam.spacing)
    return _orient((fraction >= 0.5).astype(np.uint8), _affine(exam.anatomy.grid, exam.spacing), exam.site.orientation)


def _magnitude(exam: Exam, sequence: str, rng: np.random.Generator) -> _Map:
    """Noisy magnitude image on the exam's grid, relative to fully relaxed water."""
    anatomy, site = exam.anatomy, exam.site
    values = signals(sequence, site.protocol)
    signal = np.zeros(anatomy.grid.shape, np.float32)
    for name, fraction in anatomy.tissues.items():
        signal += fraction * values[TISSUES.index(name)]
    image = to_grid(signal, anatomy.grid, exam.spacing)
    image *= np.exp(_coil(exam, rng))
    level = site.noise.get(sequence.split("_")[0], site.noise[""]) * float(values[TISSUES.index("gm")])
    noise = rng.standard_normal((2, *image.shape), dtype=np.float32) * np.float32(level)
    noisy: _Map = np.hypot(image + noise[0], noise[1]) * _kept(exam)
    return noisy


def _coil(exam: Exam, rng: np.random.Generator) -> _Map:
    """Logarithm of the coil's smooth sensitivity, plus a fine texture of tissue."""
    grid, shape = exam.anatomy.grid, output_shape(exam.anatomy.grid, exam.spacing)
    sensitivity: _Map = smooth_noise(rng, grid, 45.0, shape=shape)[0] * np.float32(exam.site.bias)
    sensitivity += smooth_noise(rng, grid, 4.5, shape=shape)[0] * np.float32(0.02)
    return sensitivity


def _kept(exam: Exam) -> _Map:
    """1 where the image is kept: inside the brain if stripped, outside the face if defaced."""
    grid, spacing = exam.anatomy.grid, exam.spacing
    if exam.stripped:
        return (to_grid(exam.anatomy.brain, grid, spacing) >= 0.5).astype(np.float32)
    shape = output_shape(grid, spacing)
    if exam.defaced:
        return (to_grid(exam.anatomy.face, grid, spacing) < 0.5).astype(np.float32)
    return np.ones(shape, np.float32)


def _adc(exam: Exam, rng: np.random.Generator) -> _Map:
    plain, weighted = _magnitude(exam, "dwi_b0", rng), _magnitude(exam, "dwi_b1000", rng)
    floor = 0.4 * float(signals("dwi_b0", exam.site.protocol)[TISSUES.index("gm")])
    ratio = np.log(np.maximum(plain, 1e-6) / np.maximum(weighted, 1e-6))
    return np.where(plain > floor, np.clip(ratio * 1000.0, 0.0, 3500.0), 0.0).astype(np.float32)


def output_shape(grid: Grid, spacing: Spacing) -> tuple[int, int, int]:
    """Voxels of a scan that covers the box of `grid` at `spacing`."""
    x, y, z = (int(n * grid.edge / s) for n, s in zip(grid.shape, spacing, strict=True))
    return x, y, z


def to_grid(data: _Any3D, grid: Grid, spacing: Spacing) -> _Any3D:
    """Average the fine grid over the scanner's voxels: partial volume and slice thickness."""
    for axis, size in enumerate(output_shape(grid, spacing)):
        data = _average(data, axis, spacing[axis] / grid.edge, size)
    return data


def _average(data: _Any3D, axis: int, width: float, size: int) -> _Any3D:
    """Means over `size` windows of `width` fine voxels along an axis, fractions of voxels at the ends included."""
    starts = np.arange(size) * width
    first = np.floor(starts + 1e-9).astype(int)
    shape = [1, 1, 1]
    shape[axis] = size
    total = np.zeros([size if i == axis else n for i, n in enumerate(data.shape)], np.float32)
    for tap in range(int(np.ceil(width)) + 1):
        index = first + tap
        overlap = np.clip(np.minimum(index + 1, starts + width) - np.maximum(index, starts), 0.0, None) / width
        taken = data.take(np.minimum(index, data.shape[axis] - 1), axis=axis)
        total += taken * overlap.astype(np.float32).reshape(shape)
    return total


def _affine(grid: Grid, spacing: Spacing) -> Float64[np.ndarray, "4 4"]:
    affine = np.diag([*spacing, 1.0])
    affine[:3, 3] = [o + (s - grid.edge) / 2 for o, s in zip(grid.origin, spacing, strict=True)]
    return affine


def _store(exam: Exam, image: _Map) -> Image:
    stored: Int16[np.ndarray, "x y z"] = np.rint(np.clip(image, 0, 32767)).astype(np.int16)
    return _orient(stored, _affine(exam.anatomy.grid, exam.spacing), exam.site.orientation)


def _orient(data: np.ndarray, affine: Float64[np.ndarray, "4 4"], codes: str) -> Image:
    """Reorder a RAS array to other axis codes; every voxel keeps its place in the world."""
    axes = [next(i for i, pair in enumerate(("RL", "AP", "SI")) if code in pair) for code in codes]
    turned = data.transpose(axes)
    placed = affine.copy()
    placed[:, :3] = affine[:, axes]
    for column, code in enumerate(codes):
        if code in "LPI":
            placed[:3, 3] += placed[:3, column] * (turned.shape[column] - 1)
            placed[:3, column] *= -1
            turned = np.flip(turned, column)
    return Image(np.ascontiguousarray(turned), placed)
