"""On real scans: the two crops of a session pair show the same anatomy."""

import numpy as np

from fomo_ssl.core.types import ViewSpec
from fomo_ssl.corpus.layouts import find_scans
from fomo_ssl.corpus.store import Store, StoreWriter
from fomo_ssl.data.index import ScanIndex
from fomo_ssl.data.sampling import Sampler
from fomo_ssl.imaging.canonical import CanonicalSpec, canonicalise
from fomo_ssl.imaging.nifti import read

CROP = (40, 40, 40)


def _mutual_information(first, second):
    joint = np.histogram2d(first.ravel(), second.ravel(), 24)[0]
    joint /= joint.sum()
    apart = joint.sum(1, keepdims=True) * joint.sum(0, keepdims=True)
    seen = joint > 0
    return float((joint[seen] * np.log(joint[seen] / apart[seen])).sum())


def test_a_session_pair_matches_better_in_place_than_moved(real_data, tmp_path):
    root, spec = real_data / "fomo_flat", CanonicalSpec(spacing=2.0)
    with StoreWriter.create(tmp_path, spec) as writer:
        for row in find_scans(root):
            if row.subject in ("sub_1", "sub_9"):
                writer.add(row, canonicalise(read(root / row.path), spec))
    store = Store.open(tmp_path)
    index = ScanIndex.of(store)
    sampler = Sampler(index, np.arange(len(index)), ViewSpec(2, "session"), CROP, seed=0)
    for i in range(10):
        request = sampler.request(i)
        assert request.paired
        first = store.read_crop(request.rows[0], request.origins[0], CROP)
        moves = [(0, 0, 0), (8, 0, 0), (-8, 0, 0), (0, 8, 0), (0, -8, 0), (0, 0, 8), (0, 0, -8)]
        corners = [tuple(o + m for o, m in zip(request.origins[1], move, strict=True)) for move in moves]
        match = [_mutual_information(first, store.read_crop(request.rows[1], corner, CROP)) for corner in corners]
        assert match[0] == max(match)
