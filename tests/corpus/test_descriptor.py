import numpy as np
import pytest

from fomo_ssl.corpus.descriptor import describe, mask_of, orientations, reorientation


@pytest.mark.parametrize("number", [0, 5, 13, 22, 31, 47])
def test_a_turned_volume_has_the_turned_descriptor(number: int, make_ball):
    values = make_ball(3, shape=(24, 24, 24)).data
    values[:8, :9, :10] += 60
    mask = mask_of(values)
    order, flips = orientations()[number]
    axes = [axis for axis in range(3) if flips[axis]]
    turned, turned_mask = (np.flip(a, axes).transpose(order) for a in (values, mask))
    positions, signs = reorientation(order, flips)
    upright = describe(values, mask, (2.0, 2.0, 2.0), 0.0).ravel()
    got = describe(turned, turned_mask, (2.0, 2.0, 2.0), 0.0).ravel()
    np.testing.assert_allclose(got, upright[positions] * signs, atol=2e-5)


def test_there_are_48_orientations_and_descriptors_have_length_1(make_ball):
    values = make_ball(1).data
    assert len(set(orientations())) == 48
    assert np.linalg.norm(describe(values, mask_of(values), (2.0, 2.0, 2.0), 0.0)) == pytest.approx(1.0, abs=1e-5)


def test_a_volume_of_one_value_has_a_descriptor_of_zeros():
    values = np.full((10, 10, 10), 7, np.int16)
    assert not np.any(describe(values, mask_of(values), (1.0, 1.0, 1.0), 7.0) != 0)
