from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from fomo_ssl.corpus.layouts import ScanRow
from fomo_ssl.corpus.store import Store, StoreWriter
from fomo_ssl.data.index import ScanIndex
from fomo_ssl.imaging.canonical import CanonicalSpec, canonicalise
from fomo_ssl.imaging.nifti import Volume
from fomo_ssl.synthetic.phantoms import phantom

SHAPES = {"t1": (32, 32, 32), "t2": (26, 30, 20), "flair": (20, 36, 28)}


def _scans() -> Iterator[tuple[ScanRow, Volume]]:
    """Eight subjects of two data sets, one with two sessions, one with a single sequence; grids differ by sequence."""
    for number in range(8):
        dataset = "site_a" if number < 5 else "site_b"
        for session in ("ses_1", "ses_2") if number == 0 else ("ses_1",):
            for sequence in ("t1",) if number == 7 else SHAPES:
                volume = phantom(number, SHAPES[sequence], sequence)
                name = f"{dataset}/sub_{number % 5}/{session}/{sequence}.nii.gz"
                shifted = volume.affine + np.eye(4)[3] * np.array([[3.0], [-2.0], [1.0], [0.0]]) * number
                yield ScanRow(dataset, f"sub_{number % 5}", session, sequence, name), Volume(volume.data, shifted)


@pytest.fixture(scope="session")
def store(tmp_path_factory: pytest.TempPathFactory) -> Store:
    path: Path = tmp_path_factory.mktemp("store")
    spec = CanonicalSpec(spacing=None)
    with StoreWriter.create(path, spec) as writer:
        for row, volume in _scans():
            writer.add(row, canonicalise(volume, spec))
    return Store.open(path)


@pytest.fixture(scope="session")
def index(store: Store) -> ScanIndex:
    return ScanIndex.of(store)
