"""A small head-like volume in milliseconds, for tests of code that only needs something with anatomy in it."""

import numpy as np
from jaxtyping import Float32, Int8
from scipy.ndimage import gaussian_filter

from fomo_ssl.core.seeding import numpy_generator
from fomo_ssl.core.types import Triple
from fomo_ssl.imaging.nifti import Volume
from fomo_ssl.synthetic.contrasts import B_VALUE, PROPERTIES, TISSUES, signals

_FIELD_OF_VIEW = 224.0
_SHELLS = (("fat", 1.0), ("bone", 0.9), ("csf", 0.82), ("gm", 0.78), ("wm", 0.62))


def phantom(seed: int, shape: Triple = (32, 32, 32), sequence: str = "t1") -> Volume:
    """A head of nested, folded shells with two ventricles; deterministic in all arguments.

    Anatomy depends on the seed only, so two sequences of one seed show the same head.

    Args:
        seed: which head.
        shape: voxels along x, y, z; the field of view is about 224 mm whatever the shape.
        sequence: t1, t1c, t2, flair, dwi_b0, dwi_b1000, adc or swi.

    Returns:
        float32 volume in RAS+, air near zero, brain at a few hundred (ADC in 1e-6 mm2/s).

    Raises:
        ValueError: unknown sequence.
    """
    labels = _labels(seed, shape)
    data = gaussian_filter(_values(sequence)[labels], 0.5)
    rng = numpy_generator(seed, 0, f"phantom/{sequence}")
    noise = rng.standard_normal((2, *shape), dtype=np.float32) * np.float32(12.0)
    data = np.hypot(data + noise[0], noise[1])
    return Volume(data.astype(np.float32), _affine(shape))


def _labels(seed: int, shape: Triple) -> Int8[np.ndarray, "x y z"]:
    """Tissue index + 1 per voxel, 0 = air."""
    rng = numpy_generator(seed, 0, "phantom/shape")
    axes = (np.linspace(-1.1, 1.1, n, dtype=np.float32) for n in shape)
    x, y, z = np.meshgrid(*axes, indexing="ij", sparse=True)
    x, y, z = (axis + rng.uniform(-0.06, 0.06) for axis in (x, y, z))
    semi = np.array([0.78, 0.97, 0.85]) * rng.uniform(0.92, 1.08, 3)
    radius = np.sqrt((x / semi[0]) ** 2 + (y / semi[1]) ** 2 + (z / semi[2]) ** 2)
    folds = np.sin(9 * x + rng.uniform(0, 6)) * np.sin(8 * y + rng.uniform(0, 6)) * np.sin(9 * z + rng.uniform(0, 6))
    labels = np.zeros(shape, dtype=np.int8)
    for tissue, outer in _SHELLS:
        inside = radius + (0.09 * folds if tissue in ("gm", "wm") else 0.0) < outer
        labels[inside] = TISSUES.index(tissue) + 1
    size = rng.uniform(0.8, 1.3)
    ventricle = ((np.abs(x) - 0.13) / 0.08) ** 2 + (y / 0.36) ** 2 + ((z - 0.05) / 0.16) ** 2 < size
    labels[ventricle] = TISSUES.index("csf") + 1
    return labels


def _values(sequence: str) -> Float32[np.ndarray, "_"]:
    """Intensity of air and of each tissue; magnitude images scaled so that water in grey matter is near 300."""
    if sequence == "adc":
        values = np.array([PROPERTIES[name].adc for name in TISSUES], dtype=np.float32) * np.float32(B_VALUE)
    else:
        values = signals(sequence)
        values = values * np.float32(300.0) / values[TISSUES.index("gm")]
    return np.concatenate([np.zeros(1, np.float32), values])


def _affine(shape: Triple) -> np.ndarray:
    affine = np.eye(4)
    affine[:3, :3] = np.diag([_FIELD_OF_VIEW / n for n in shape])
    affine[:3, 3] = -_FIELD_OF_VIEW / 2
    return affine
