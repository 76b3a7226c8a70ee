import nibabel as nib
import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from fomo_ssl.core.seeding import numpy_generator
from fomo_ssl.imaging.nifti import Volume
from fomo_ssl.imaging.orientation import orientation, to_ras


@st.composite
def affines(draw, oblique: bool = True):
    order = draw(st.permutations([0, 1, 2]))
    signs = draw(st.tuples(*[st.sampled_from([-1.0, 1.0])] * 3))
    spacing = draw(st.tuples(*[st.floats(0.3, 6.0)] * 3))
    axes = np.eye(3)[:, order] * signs * spacing
    if oblique:
        angle = draw(st.floats(-0.6, 0.6))
        turn = np.array([[np.cos(angle), -np.sin(angle), 0], [np.sin(angle), np.cos(angle), 0], [0, 0, 1]])
        axes = turn @ axes
    affine = np.eye(4)
    affine[:3, :3] = axes
    affine[:3, 3] = draw(st.tuples(*[st.floats(-100, 100)] * 3))
    return affine


@given(affines())
def test_letters_are_those_of_nibabel(affine):
    assert orientation(affine) == "".join(nib.aff2axcodes(affine))


@settings(deadline=None)
@given(affines(), st.integers(0, 2**31))
def test_every_voxel_keeps_its_place_in_the_world(affine, seed):
    data = numpy_generator(seed).normal(size=(4, 5, 6))
    ras = to_ras(Volume(data, affine))
    assert orientation(ras.affine) == "RAS"
    assert np.shares_memory(ras.data, data)
    for index in [(0, 0, 0), (3, 4, 5), (1, 2, 3)]:
        world = affine @ [*index, 1]
        place = np.rint(np.linalg.inv(ras.affine) @ world)[:3].astype(int)
        np.testing.assert_allclose(ras.affine @ [*place, 1], world, atol=1e-6)
        assert ras.data[tuple(place)] == data[index]


def test_an_axis_at_45_degrees_still_gets_three_different_axes():
    affine = np.eye(4)
    turn = np.array([[1, -1, 0], [1, 1, 0], [0, 0, np.sqrt(2)]]) / np.sqrt(2)
    affine[:3, :3] = turn @ np.diag([1, 1, 2])
    assert orientation(affine) in ("RAS", "ALS", "ARS", "RPS", "LAS")
    assert orientation(to_ras(Volume(np.zeros((2, 3, 4)), affine)).affine) == "RAS"


def test_time_stays_last():
    assert to_ras(Volume(np.zeros((2, 3, 4, 5)), np.diag([-1.0, 1, -1, 1]))).data.shape == (2, 3, 4, 5)
