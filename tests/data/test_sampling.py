"""Requests: pure functions of (seed, i), crops where the head is, overlap by construction, pairs at one place."""

from collections import Counter
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fomo_ssl.core.errors import ConfigError
from fomo_ssl.core.types import ViewSpec
from fomo_ssl.data.index import sampling_weights
from fomo_ssl.data.sampling import Sampler, apply_affine, origin_range

CROP = (16, 16, 16)
SINGLE = ViewSpec()


def _all(index):
    return np.arange(len(index))


def test_a_request_depends_on_seed_and_number_only(index):
    spec = ViewSpec(2, "session")
    sampler, other = (Sampler(index, _all(index), spec, CROP, seed=3) for _ in range(2))
    backwards = {i: other.request(i) for i in reversed(range(60))}
    assert all(sampler.request(i) == backwards[i] for i in range(60))
    reseeded = Sampler(index, _all(index), spec, CROP, seed=4)
    assert len({sampler.request(i).key for i in range(60)} | {reseeded.request(i).key for i in range(60)}) == 120


def test_every_epoch_visits_each_row_once_in_its_own_order(index):
    rows = np.array([2, 3, 5, 7, 11, 13, 17])
    sampler = Sampler(index, rows, SINGLE, CROP, seed=0)
    epochs = [[sampler.request(e * 7 + p).rows[0] for p in range(7)] for e in range(6)]
    assert all(sorted(epoch) == rows.tolist() for epoch in epochs)
    assert len({tuple(epoch) for epoch in epochs}) > 4


def test_weights_are_the_shares(index):
    rows = _all(index)
    weights = sampling_weights(index, rows, sequence={"flair": 4.0, "t2": 0.0})
    sampler = Sampler(index, rows, SINGLE, CROP, seed=0, weights=weights)
    drawn = [index.sequence_names[index.sequence[sampler.request(i).rows[0]]] for i in range(1500)]
    count = Counter(drawn)
    assert count["t2"] == 0
    assert count["flair"] / 1500 == pytest.approx(32 / 41, abs=0.04)


_edge = st.integers(1, 60)


@given(shape=st.tuples(_edge, _edge, _edge), crop=st.tuples(_edge, _edge, _edge), data=st.data())
@settings(max_examples=200, deadline=None)
def test_crops_lie_in_the_volume_or_centre_it(shape, crop, data):
    lo = np.array([data.draw(st.integers(0, n - 1)) for n in shape])
    hi = np.array([data.draw(st.integers(a + 1, n)) for a, n in zip(lo, shape, strict=True)])
    low, high = origin_range(np.array(shape), crop, lo, hi)
    for axis in range(3):
        n, c = shape[axis], crop[axis]
        allowed = range(low[axis], high[axis] + 1)
        assert len(allowed) >= 1
        if n <= c:
            before, after = -allowed[0], c - n + allowed[0]
            assert len(allowed) == 1
            assert abs(before - after) <= 1
            continue
        inside = [o for o in range(n - c + 1) if lo[axis] <= o + c // 2 < hi[axis]]
        assert list(allowed) == inside or (not inside and len(allowed) == 1 and 0 <= allowed[0] <= n - c)


def test_crops_centre_on_the_head_and_not_on_air(index):
    shape, lo, hi = np.array([[64, 64, 64]]), np.array([[0, 20, 40]]), np.array([[24, 44, 64]])
    rows = np.zeros(len(index), dtype=np.int64)
    away = replace(index, shape=shape[rows], box_lo=lo[rows], box_hi=hi[rows])
    sampler = Sampler(away, _all(index), SINGLE, CROP, seed=0)
    centres = np.array([sampler.request(i).origins[0] for i in range(300)]) + 8
    assert (centres >= lo).all()
    assert (centres < hi).all()
    assert (centres.max(0) - centres.min(0) >= 13).all()


def _shared(origins, crop):
    """Fraction of a crop's volume that all crops share."""
    corners, crop = np.array(origins), np.array(crop)
    edges = corners.min(0) + crop - corners.max(0)
    return np.prod(np.clip(edges, 0, None) / crop)


@given(
    n=st.integers(2, 4),
    least=st.floats(0.0, 1.0),
    crop=st.tuples(*[st.integers(4, 40)] * 3),
    shape=st.tuples(*[st.integers(4, 90)] * 3),
    seed=st.integers(0, 2**32),
)
@settings(max_examples=150, deadline=None)
def test_overlapping_crops_share_what_was_asked(index, n, least, crop, shape, seed):
    shapes = np.array([shape] * len(index))
    sized = replace(index, shape=shapes, box_lo=np.zeros_like(shapes), box_hi=shapes)
    sampler = Sampler(sized, _all(index), ViewSpec(n, "overlap", least), crop, seed)
    for i in range(5):
        request = sampler.request(i)
        assert len(request.origins) == n
        assert request.paired
        assert len(set(request.rows)) == 1
        assert _shared(request.origins, crop) >= least - 1e-9
        for origin in request.origins:
            assert all(0 <= o <= s - c for o, s, c in zip(origin, shape, crop, strict=True) if s > c)


def test_overlapping_crops_use_the_freedom_they_have(index):
    shapes = np.full((len(index), 3), 200)
    sized = replace(index, shape=shapes, box_lo=np.zeros_like(shapes), box_hi=shapes)
    sampler = Sampler(sized, _all(index), ViewSpec(2, "overlap", 0.3), (48, 48, 48), seed=0)
    shared = np.array([_shared(sampler.request(i).origins, (48, 48, 48)) for i in range(300)])
    assert shared.min() < 0.35
    assert shared.mean() == pytest.approx(0.65, abs=0.05)


def test_a_session_pair_shows_one_place_in_two_sequences(index):
    sampler = Sampler(index, _all(index), ViewSpec(2, "session"), CROP, seed=0)
    half = (np.array(CROP) - 1) / 2
    pairs = 0
    for i in range(150):
        request = sampler.request(i)
        first, second = request.rows
        if not request.paired:
            continue
        pairs += 1
        assert index.session[first] == index.session[second]
        assert index.sequence[first] != index.sequence[second]
        there, here = (
            apply_affine(index.affine[row], np.array(origin) + half)
            for row, origin in zip(request.rows, request.origins, strict=True)
        )
        # The corner is rounded to a voxel of the second scan: at most half a voxel along each of its axes.
        voxel = np.abs(np.linalg.solve(index.affine[second][:, :3], there - here))
        assert (voxel <= 0.5 + 1e-6).all()
    assert pairs > 100


def test_without_a_second_sequence_a_pair_is_an_overlap_and_says_so(index):
    lone = np.flatnonzero([len(index.siblings(row)) == 0 for row in range(len(index))])
    sampler = Sampler(index, lone, ViewSpec(2, "session", 0.5), CROP, seed=0)
    for i in range(20):
        request = sampler.request(i)
        assert not request.paired
        assert request.rows[0] == request.rows[1]
        assert _shared(request.origins, CROP) >= 0.5


def test_a_second_sequence_comes_from_the_selected_rows_only(index):
    t1 = np.flatnonzero(index.sequence == index.sequence_names.index("t1"))
    sampler = Sampler(index, t1, ViewSpec(2, "session"), CROP, seed=0)
    assert not any(sampler.request(i).paired for i in range(20))


def test_three_views_of_a_session_take_every_sequence_there_is(index):
    sampler = Sampler(index, _all(index), ViewSpec(3, "session"), CROP, seed=0)
    rich = [request for request in map(sampler.request, range(60)) if len(set(request.rows)) == 3]
    assert len(rich) > 20
    assert all(len(sampler.request(i).rows) == 3 for i in range(60))


def test_a_subject_pair_shows_one_place_in_two_sessions(index):
    twice = np.flatnonzero([len(index.other_sessions(row)) > 0 for row in range(len(index))])
    assert len(twice) == 6
    sampler = Sampler(index, _all(index), ViewSpec(2, "subject", 0.5), CROP, seed=0)
    half = (np.array(CROP) - 1) / 2
    pairs = 0
    for request in map(sampler.request, range(150)):
        first, second = request.rows
        assert request.paired == (first in twice)
        if not request.paired:
            assert first == second
            assert _shared(request.origins, CROP) >= 0.5
            continue
        pairs += 1
        assert index.subject[first] == index.subject[second]
        assert index.session[first] != index.session[second]
        assert index.sequence[first] == index.sequence[second], "both sessions have all sequences"
        lo, hi = index.box_lo[[first, second]], index.box_hi[[first, second]]
        places = (np.array(request.origins) + half - lo) / (hi - lo)
        free = (index.shape[[first, second]] > np.array(CROP)).all(axis=0)
        assert (np.abs(places[0] - places[1]) * (hi - lo)[1] <= 2.0)[free].all()
    assert pairs > 20


def test_another_session_without_the_sequence_gives_another_sequence(index):
    t1 = index.sequence == index.sequence_names.index("t1")
    flair = index.sequence == index.sequence_names.index("flair")
    rows = np.flatnonzero((t1 & (index.session == index.session[0])) | (flair & (index.session != index.session[0])))
    sampler = Sampler(index, rows, ViewSpec(2, "subject"), CROP, seed=0)
    paired = [request for request in map(sampler.request, range(60)) if request.paired]
    assert paired
    assert all(index.sequence[r.rows[0]] != index.sequence[r.rows[1]] for r in paired)


@pytest.mark.parametrize("weights", [False, True])
def test_several_crops_of_a_scan_in_a_row(index, weights: bool):
    values = np.arange(1.0, len(index) + 1) if weights else None
    one, three = (Sampler(index, _all(index), SINGLE, CROP, 0, values, crops_per_scan=n) for n in (1, 3))
    assert len(three) == 3 * len(one)
    for scan in range(40):
        requests = [three.request(3 * scan + crop) for crop in range(3)]
        assert {request.rows for request in requests} == {one.request(scan).rows}
        assert len({request.key for request in requests}) == 3
    origins = {request.origins for request in map(three.request, range(90))}
    assert len(origins) > 40


def test_no_rows_is_an_error(index):
    with pytest.raises(ConfigError, match="no scan"):
        Sampler(index, np.array([], dtype=np.int64), SINGLE, CROP, seed=0)
