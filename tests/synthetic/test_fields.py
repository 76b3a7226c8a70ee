import numpy as np
from scipy.ndimage import map_coordinates

from fomo_ssl.core.seeding import numpy_generator
from fomo_ssl.synthetic.fields import Grid, sample, smooth_noise, upsample

GRID = Grid((20, 24, 18), 3.0, (-30.0, -36.0, -27.0))


def test_sampling_agrees_with_scipy_inside_and_clamps_outside() -> None:
    rng = np.random.default_rng(0)
    field = rng.standard_normal((2, *GRID.shape)).astype(np.float32)
    points = rng.uniform(-45, 45, (3, 5, 6, 7)).astype(np.float32)
    voxels = (points - np.array(GRID.origin, np.float32)[:, None, None, None]) / GRID.edge
    expected = [map_coordinates(channel, voxels, order=1, mode="nearest") for channel in field]
    np.testing.assert_allclose(sample(field, GRID, points), expected, atol=1e-4)


def test_sampling_at_voxel_centres_gives_the_field_back() -> None:
    field = np.random.default_rng(1).standard_normal((1, *GRID.shape)).astype(np.float32)
    np.testing.assert_allclose(sample(field, GRID, GRID.points()), field, atol=1e-4)


def test_points_are_where_the_affine_says() -> None:
    expected = GRID.affine @ [3, 4, 5, 1]
    np.testing.assert_allclose(GRID.points()[:, 3, 4, 5], expected[:3])


def test_noise_has_unit_variance_and_the_asked_smoothness() -> None:
    rough, smooth = (smooth_noise(numpy_generator(0), GRID, width, 2) for width in (4.0, 15.0))
    assert rough.shape == (2, *GRID.shape)
    assert 0.5 < smooth.std() < 1.5
    steps = [np.abs(np.diff(field, axis=1)).mean() / field.std() for field in (rough, smooth)]
    assert steps[1] < 0.6 * steps[0]


def test_upsampling_keeps_corners_and_straight_lines() -> None:
    line = np.linspace(0, 1, 4, dtype=np.float32)
    field = np.broadcast_to(line[None, :, None, None], (1, 4, 3, 3)).copy()
    np.testing.assert_allclose(upsample(field, (10, 5, 5))[0, :, 0, 0], np.linspace(0, 1, 10), atol=1e-6)
