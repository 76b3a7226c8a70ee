import itertools
from collections.abc import Sequence

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import rankdata

from fomo_ssl.downstream.bands import MAX_BANDS, bands
from fomo_ssl.downstream.ranking import Contest, place_shares, places, rank

# The official tables of FOMO25, without the unranked baselines: mean rank, as rounded there; AUROC; Dice, NSD;
# Pearson r, MAE.
METHOD_TRACK = [
    (2.7, 0.782, 0.095, 0.071, 0.651, 10.96),
    (4.8, 0.684, 0.261, 0.232, 0.448, 12.67),
    (5.2, 0.750, 0.046, 0.043, 0.602, 11.96),
    (5.2, 0.688, 0.181, 0.126, 0.599, 16.17),
    (5.3, 0.715, 0.148, 0.113, 0.531, 13.41),
    (5.8, 0.569, 0.171, 0.155, 0.557, 13.31),
    (6.0, 0.473, 0.065, 0.053, 0.632, 11.48),
    (6.2, 0.649, 0.064, 0.047, 0.626, 12.53),
    (6.8, 0.760, 0.006, 0.005, 0.409, 14.85),
    (7.2, 0.789, 0.003, 0.004, 0.370, 17.62),
    (10.8, 0.440, 0.005, 0.002, 0.137, 18.21),
]
OPEN_TRACK = [
    (2.7, 0.659, 0.275, 0.243, 0.558, 16.50),
    (3.7, 0.625, 0.039, 0.040, 0.861, 6.80),
    (4.17, 0.569, 0.252, 0.227, 0.556, 13.67),
    (4.5, 0.639, 0.048, 0.046, 0.320, 14.21),
    (4.7, 0.491, 0.184, 0.141, 0.633, 12.27),
    (4.8, 0.593, 0.110, 0.093, 0.357, 14.31),
    (5.5, 0.671, 0.007, 0.004, 0.229, 16.42),
    (7.3, 0.560, 0.014, 0.007, 0.444, 18.03),
    (7.5, 0.580, 0.006, 0.007, -0.032, 16.79),
]


def contest(task: str, methods: list[str], *metrics: Sequence[float]) -> Contest:
    return Contest(task, methods, np.array(metrics)[:, None, :])


@pytest.mark.parametrize("track", [METHOD_TRACK, OPEN_TRACK])
def test_the_published_tables_of_fomo25_are_reproduced(track):
    table = np.array(track)
    auroc, dice, nsd, r, mae = table[:, 1:].T
    teams = [str(i) for i in range(len(table))]
    standing = rank([contest("1", teams, auroc), contest("2", teams, dice, nsd), contest("3", teams, r, -mae)])
    assert standing.overall[0] == pytest.approx(table[:, 0], abs=0.05)


def test_a_missing_task_ranks_last_plus_one():
    standing = rank([contest("1", ["a", "b"], [0.9, 0.8]), contest("2", ["a", "b", "c"], [1.0, 2.0, 3.0])])
    assert standing.methods == ["a", "b", "c"]
    assert standing.by_contest[:, 0].tolist() == [[1.0, 2.0, 3.0], [3.0, 2.0, 1.0]]
    assert standing.overall[0].tolist() == [2.0, 2.0, 2.0]


def test_tasks_count_the_same_whatever_their_number_of_settings():
    settings_of_one = [contest("1", ["a", "b"], [1.0, 0.0])] * 3
    standing = rank([*settings_of_one, contest("2", ["a", "b"], [0.0, 1.0])])
    assert standing.overall[0].tolist() == [1.5, 1.5]


@settings(deadline=None, max_examples=40)
@given(st.lists(st.sampled_from([0.1, 0.5, 0.9, np.nan]), min_size=1, max_size=6))
def test_places_are_the_ranks_of_scipy(values):
    expected = rankdata(np.nan_to_num(values, nan=np.inf), method="min")
    assert places(np.array([values]))[0].tolist() == expected.tolist()


def test_shares_count_places_and_divide_ties():
    overall = np.array([[1.0, 2.0, 3.0], [2.0, 1.0, 3.0], [1.5, 1.5 + 1e-12, 2.0], [2.0, 2.0, 2.0]])
    shares = place_shares(overall)
    assert shares.sum(axis=0) == pytest.approx(np.ones(3))
    assert shares.sum(axis=1) == pytest.approx(np.ones(3))
    third = 1 / 3
    assert shares[0] == pytest.approx(np.array([1 + 0.5 + third, 1 + 0.5 + third, third]) / 4)
    assert shares[2] == pytest.approx(np.array([third, third, 3 + third]) / 4)


@settings(deadline=None, max_examples=30)
@given(st.lists(st.lists(st.integers(1, 3), min_size=3, max_size=3), min_size=1, max_size=5))
def test_shares_are_those_of_every_order_of_tied_methods(rows):
    counted = np.zeros((3, 3))
    for row in rows:
        orders = [o for o in itertools.permutations(range(3)) if [row[i] for i in o] == sorted(row)]
        for order in orders:
            for place, method in enumerate(order):
                counted[method, place] += 1 / len(orders) / len(rows)
    assert place_shares(np.array(rows, float)) == pytest.approx(counted)


@settings(deadline=None, max_examples=60)
@given(
    st.lists(st.floats(-1e4, 1e4).map(lambda v: round(v, 3)), min_size=2, max_size=60).filter(
        lambda v: max(v) - min(v) > 0.01
    )
)
def test_bands_hold_every_case_once_and_are_few(values):
    target = np.array(values)
    found = bands(target)
    assert len(found) != 1
    assert len(found) <= max(3, min(MAX_BANDS, len(target) // 5))
    if not found:
        # One band holds everything: nothing to compare.
        return
    assert sorted(row for band in found for row in band.rows(target)) == list(range(len(target)))
    assert len({round(band.high - band.low, 6) for band in found}) == 1
    assert all(band.rows(target) for band in found)


@pytest.mark.parametrize("tenths", [(0, 1, 2, 3), (0, 3, 6), (1, 2, 7), (-7, -3, 0)])
def test_a_target_on_the_border_of_bands_is_in_one_of_them(tenths):
    # 0.3 / 0.1 falls short of 3.
    target = np.array(tenths) / 10
    assert sorted(row for band in bands(target) for row in band.rows(target)) == list(range(len(tenths)))


def test_ages_fall_into_decades_and_equal_targets_into_none():
    decades = [f"{age}–{age + 10}" for age in range(10, 90, 10)]
    assert [band.label for band in bands(np.linspace(18.0, 89.9, 40))] == decades
    assert [band.label for band in bands(np.array([18.0, 19.0, 60.0, 89.9]))] == ["0–50", "50–100"]
    assert bands(np.full(4, 50.0)) == []
