import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import ndimage

from fomo_ssl.core.seeding import numpy_generator
from fomo_ssl.imaging.resample import axis_weights, output_shape, resample, resample_to, resampled_affine

SPACINGS = st.tuples(*[st.floats(0.6, 3.0)] * 3)


def noise(shape, seed=0) -> np.ndarray:
    return numpy_generator(seed).normal(size=shape).astype(np.float32)


def keys(x: float) -> float:
    """Keys 1981, equation 15, written out."""
    x = abs(x)
    if x < 1:
        return 1.5 * x**3 - 2.5 * x**2 + 1
    return -0.5 * x**3 + 2.5 * x**2 - 4 * x + 2 if x < 2 else 0.0


def reference_1d(values: np.ndarray, positions, step: float, kernel) -> np.ndarray:
    """One output at a time, one tap at a time."""
    width, out = max(step, 1.0), []
    for place in positions:
        total = weight_sum = 0.0
        for tap in range(int(np.floor(place - 3 * width)), int(np.ceil(place + 3 * width)) + 1):
            weight = kernel((tap - place) / width)
            total += weight * float(values[min(max(tap, 0), len(values) - 1)])
            weight_sum += weight
        out.append(total / weight_sum)
    return np.array(out)


@pytest.mark.parametrize("step", [0.37, 1.0, 2.0, 2.6])
@pytest.mark.parametrize(("order", "kernel"), [("cubic", keys), ("linear", lambda x: max(0.0, 1 - abs(x)))])
def test_weights_are_those_of_the_slow_reference(step, order, kernel):
    values = noise(23)
    positions = np.arange(int(23 / step)) * step + 0.2
    fast = axis_weights(positions, 23, step, order) @ values
    np.testing.assert_allclose(fast, reference_1d(values, positions, step, kernel), atol=1e-5)


def test_three_axes_are_the_reference_axis_by_axis():
    data = noise((9, 8, 11))
    spacing, new = (2.0, 1.0, 1.5), (1.0, 1.7, 1.5)
    slow = data.astype(np.float64)
    for axis in range(3):
        size = output_shape(data.shape, spacing, new)[axis]
        step = new[axis] / spacing[axis]
        positions = (np.arange(size) - (size - 1) / 2) * step + (data.shape[axis] - 1) / 2
        slow = np.apply_along_axis(reference_1d, axis, slow, positions, step, keys)
    np.testing.assert_allclose(resample(data, spacing, new, "cubic"), slow, atol=1e-4)


def test_smooth_images_come_out_as_with_scipy():
    data = ndimage.gaussian_filter(noise((40, 36, 30)), 3)
    ours = resample(data, (2.0, 2.0, 2.0), (1.0, 1.0, 1.0), "cubic")
    scipys = ndimage.zoom(data, 2, order=3, mode="grid-constant", grid_mode=True)
    inside = (slice(8, -8),) * 3
    assert np.abs(ours - scipys)[inside].max() < 0.01 * np.ptp(data)


@settings(deadline=None, max_examples=40)
@given(SPACINGS, SPACINGS)
def test_world_coordinates_survive(spacing, new):
    """An image of the x coordinate in mm, resampled, is the image of the x coordinate on the new grid."""
    shape = (17, 18, 19)
    affine = np.diag([*spacing, 1.0])
    affine[:3, 3] = (-7, 3, 11)
    for axis in range(3):
        index = np.indices(shape)[axis]
        world = (index * spacing[axis] + affine[axis, 3]).astype(np.float32)
        result = resample(world, spacing, new, "cubic")
        assert result.shape == output_shape(shape, spacing, new)
        grid = resampled_affine(affine, shape, spacing, new)
        wanted = np.indices(result.shape)[axis] * grid[axis, axis] + grid[axis, 3]
        margin = 2 * max(spacing[axis], new[axis])
        inside = (wanted > world.min() + margin) & (wanted < world.max() - margin)
        # A widened kernel at an uneven step is off by up to 2 % of a voxel.
        tolerance = 1e-3 if new[axis] <= spacing[axis] else 0.03 * new[axis]
        np.testing.assert_allclose(result[inside], wanted[inside], atol=tolerance)


@given(SPACINGS)
@settings(deadline=None, max_examples=30)
def test_flipping_and_resampling_commute(new):
    data = noise((11, 12, 13))
    flipped = np.flip(data, (0, 2))
    once = resample(flipped, (1.0, 1.0, 1.0), new, "cubic")
    np.testing.assert_allclose(once, np.flip(resample(data, (1.0, 1.0, 1.0), new, "cubic"), (0, 2)), atol=1e-4)


def test_a_constant_stays_constant_and_a_halved_grid_averages():
    assert np.allclose(resample(np.full((7, 8, 9), 3.0), (1.0, 1.0, 1.0), (0.7, 1.9, 3.0), "cubic"), 3.0)
    pattern = np.tile([0.0, 1.0], 16)[:, None, None] * np.ones((1, 4, 4))
    shrunk = resample(pattern, (1.0, 1.0, 1.0), (2.0, 1.0, 1.0), "cubic")
    assert np.allclose(shrunk[2:-2], 0.5, atol=0.02)


def test_nearest_keeps_labels_and_type():
    labels = numpy_generator(1).integers(0, 5, (9, 10, 11)).astype(np.uint8)
    result = resample(labels, (2.0, 2.0, 2.0), (0.9, 1.3, 3.1), "nearest")
    assert result.dtype == np.uint8
    assert set(np.unique(result)) <= set(np.unique(labels))
    np.testing.assert_array_equal(
        resample(labels, (2.0, 2.0, 2.0), (1.0, 1.0, 1.0), "nearest"), labels.repeat(2, 0).repeat(2, 1).repeat(2, 2)
    )


def test_the_same_spacing_is_a_copy():
    data = noise((4, 5, 6))
    result = resample(data, (1.0, 1.0, 1.0), (1.0, 1.0, 1.0), "cubic")
    np.testing.assert_array_equal(result, data)
    assert not np.shares_memory(result, data)


def test_a_permuted_and_flipped_grid_is_met_exactly():
    data = noise((6, 7, 8))
    affine = np.diag([1.0, 2.0, 3.0, 1.0])
    target = affine[:, [2, 0, 1, 3]].copy()
    target[:3, 3] = affine[:3, :3] @ [5, 0, 0]
    target[:3, 1] *= -1
    result = resample_to(data, affine, target, (8, 6, 7), "cubic")
    np.testing.assert_allclose(result, np.flip(data.transpose(2, 0, 1), 1), atol=1e-5)


@pytest.mark.parametrize("order", ["cubic", "linear", "nearest"])
def test_outside_the_input_lies_the_fill(order):
    data = np.ones((5, 5, 5), np.float32)
    target = np.eye(4)
    target[:3, 3] = -3
    result = resample_to(data, np.eye(4), target, (11, 11, 11), order, fill=-7.0)
    inside = np.zeros((11, 11, 11), bool)
    inside[3:8, 3:8, 3:8] = True
    assert (result[inside] == 1).all()
    assert (result[~inside] == -7).all()


@pytest.mark.parametrize("order", ["cubic", "linear", "nearest"])
def test_an_oblique_grid_and_back(order):
    data = ndimage.gaussian_filter(noise((24, 24, 24)), 3) * 10
    angle = 0.3
    turn = np.eye(4)
    turn[:2, :2] = [[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]]
    turn[:3, 3] = np.full(3, 11.5) - turn[:3, :3] @ np.full(3, 11.5)
    there = resample_to(data, np.eye(4), turn, (24, 24, 24), order)
    back = resample_to(there, turn, np.eye(4), (24, 24, 24), order)
    inside = (slice(8, -8),) * 3
    tolerance = {"cubic": 0.01, "linear": 0.1, "nearest": 0.5}[order] * float(np.ptp(data))
    assert np.abs(back - data)[inside].max() < tolerance
    assert np.abs(there - data)[inside].max() > tolerance / 10
