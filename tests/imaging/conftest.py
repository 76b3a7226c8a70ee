from collections.abc import Callable

import numpy as np
import pytest

from fomo_ssl.core.seeding import numpy_generator
from fomo_ssl.imaging.nifti import Volume


@pytest.fixture(scope="session")
def head() -> Callable[..., Volume]:
    """A head-like volume: bright scalp, dark skull, textured brain, off-centre, in noisy air."""

    def make(shape=(48, 56, 44), spacing=(2.0, 2.0, 2.0), noise=0.03, seed=0) -> Volume:
        rng = numpy_generator(seed, 0, "head")
        grid = np.meshgrid(*(np.linspace(-1, 1, n) for n in shape), indexing="ij")
        radius = np.sqrt(((grid[0] - 0.1) / 0.6) ** 2 + (grid[1] / 0.7) ** 2 + ((grid[2] + 0.1) / 0.65) ** 2)
        brain = 0.6 + 0.2 * np.sin(9 * grid[0]) * np.cos(7 * grid[1]) * np.sin(8 * grid[2] + 1)
        data = np.select([radius < 0.8, radius < 0.9, radius < 1], [brain, 0.03, 1.0], 0.0)
        data = np.hypot(data + noise * rng.standard_normal(shape), noise * rng.standard_normal(shape)) * 500
        affine = np.diag([*spacing, 1.0])
        affine[:3, 3] = (-40, -50, -30)
        return Volume(data.astype(np.float32), affine)

    return make
