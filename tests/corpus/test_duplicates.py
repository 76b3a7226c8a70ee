import numpy as np

from fomo_ssl.corpus import duplicates
from fomo_ssl.corpus.descriptor import KEPT, reorientation
from fomo_ssl.corpus.duplicates import BITS, CANDIDATE, Pair, candidates, groups, hashes


def descriptors(n: int) -> np.ndarray:
    return np.random.default_rng(0).normal(size=(n, KEPT**3)).astype(np.float16)


def test_the_same_and_the_mirrored_scan_are_candidates_and_others_are_not():
    made = descriptors(60)
    made[20] = made[3]
    made[40] = made[7] * reorientation((0, 1, 2), (True, False, True))[1]
    found = candidates(hashes(made))
    assert [(pair.first, pair.second) for pair in found] == [(3, 20), (7, 40)]
    assert [pair.mirror for pair in found] == [(False, False, False), (True, False, True)]
    assert found[0].distance == 0


def test_sorted_tables_find_what_all_pairs_find():
    made = descriptors(900)
    rng = np.random.default_rng(1)
    made[600:] = made[:300] + rng.normal(0, 0.25, (300, KEPT**3))
    made[600:700] *= reorientation((0, 1, 2), (True, False, False))[1]
    words = hashes(made)
    limit = round(CANDIDATE * BITS)
    plain = {(a, b) for block in duplicates._among_all(words, limit) for a, b, *_ in block.tolist()}
    fast = {(a, b, m) for block in duplicates._among_neighbours(words, limit) for a, b, m, _ in block.tolist()}
    assert len(plain) >= 300
    assert len(plain & {(a, b) for a, b, _ in fast}) >= 0.99 * len(plain)
    assert {m for a, b, m in fast if b == a + 600 and a < 100} == {duplicates._MIRRORS.index((True, False, False))}


def test_a_few_scans_and_scans_without_content_do_no_harm():
    assert candidates(hashes(descriptors(1))) == []
    assert len(candidates(hashes(np.zeros((3, KEPT**3), np.float16)))) == 3
    flat = np.zeros((32, 32, 32))
    assert duplicates.correlation(flat, flat) == 0


def test_groups_follow_chains():
    pairs = [Pair(a, b, (False, False, False), 0.0) for a, b in ((5, 9), (1, 2), (2, 7), (9, 11))]
    assert groups(pairs) == [[1, 2, 7], [5, 9, 11]]
