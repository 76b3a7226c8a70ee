"""The keyed permutation is a bijection of every range, and its orders differ by key."""

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from fomo_ssl.data.sampling import permute


@settings(deadline=None)
@given(n=st.integers(1, 300), key=st.integers(-(2**63), 2**63 - 1))
def test_every_place_is_reached_once(n, key):
    assert sorted(permute(i, n, key) for i in range(n)) == list(range(n))


@settings(deadline=None)
@given(n=st.integers(1, 2**40), key=st.integers(0, 2**63 - 1), data=st.data())
def test_large_ranges_are_not_left(n, key, data):
    assert 0 <= permute(data.draw(st.integers(0, n - 1)), n, key) < n


def test_every_place_is_as_likely_and_epochs_differ():
    n, orders = 10, np.array([[permute(i, 10, key) for i in range(10)] for key in range(800)])
    counts = np.stack([np.bincount(orders[:, place], minlength=n) for place in range(n)])
    assert counts.min() > 45
    assert counts.max() < 120
    assert len(np.unique(orders, axis=0)) > 780


def test_neighbours_do_not_stay_neighbours():
    order = np.array([permute(i, 5000, 3) for i in range(5000)])
    assert abs(np.corrcoef(order[:-1], order[1:])[0, 1]) < 0.05
    assert abs(np.corrcoef(order, np.arange(5000))[0, 1]) < 0.05
