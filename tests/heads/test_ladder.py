from itertools import pairwise

from hypothesis import given
from hypothesis import strategies as st

from fomo_ssl.core.types import FeatureInfo
from fomo_ssl.heads.ladder import Rung, ladder, step


def test_a_pyramid_has_a_rung_per_map():
    info = [FeatureInfo(16, (1, 1, 1)), FeatureInfo(32, (2, 2, 2)), FeatureInfo(64, (4, 4, 4))]
    assert ladder(info) == [Rung(16, (1, 1, 1), (0,)), Rung(32, (2, 2, 2), (1,)), Rung(64, (4, 4, 4), (2,))]


def test_maps_of_one_stride_share_a_rung_above_levels_that_are_filled_in():
    assert ladder([FeatureInfo(384, (8, 8, 2))] * 4) == [
        Rung(32, (1, 1, 1), ()),
        Rung(64, (2, 2, 1), ()),
        Rung(128, (4, 4, 1), ()),
        Rung(384, (8, 8, 2), (0, 1, 2, 3)),
    ]


@given(stride=st.tuples(*[st.integers(1, 24)] * 3), channels=st.integers(1, 1024))
def test_steps_multiply_to_the_stride(stride, channels):
    rungs = ladder([FeatureInfo(channels, stride)] * 2)
    assert rungs[0].stride == (1, 1, 1)
    product = [1, 1, 1]
    for fine, coarse in pairwise(rungs):
        factors = step(coarse.stride, fine.stride)
        assert all(f * s == c for f, s, c in zip(factors, fine.stride, coarse.stride, strict=True))
        product = [a * b for a, b in zip(product, factors, strict=True)]
        assert 1 <= fine.channels <= max(channels, 1)
    assert tuple(product) == stride
