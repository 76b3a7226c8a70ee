"""The limits of the duplicate check hold on real scans; docs/how-to/check_your_data.md states the figures."""

from pathlib import Path

import numpy as np
import pytest
from alterations import CHANGES, found_after, is_found

from fomo_ssl.corpus.duplicates import _Look, candidates, hashes, look
from fomo_ssl.corpus.layouts import find_scans
from fomo_ssl.corpus.measurements import StoredFile, measure, stored_files
from fomo_ssl.corpus.store import Store, StoreWriter
from fomo_ssl.imaging.canonical import CanonicalSpec, canonicalise
from fomo_ssl.imaging.nifti import read

FEW = ("sub_1/ses_1/flair", "sub_1/ses_1/t1", "sub_15/ses_1/t1", "sub_16/ses_1/t1")


def stored(real_data: Path, folder: Path, names: tuple[str, ...] | None) -> tuple[list[StoredFile], np.ndarray]:
    """The scan files of a 2 mm store of some or all real scans, and their descriptors."""
    spec = CanonicalSpec(2.0)
    with StoreWriter.create(folder / "store", spec) as writer:
        for row in find_scans(real_data / "fomo_flat"):
            if names is None or row.path.removesuffix(".nii.gz") in names:
                writer.add(row, canonicalise(read(real_data / "fomo_flat" / row.path), spec))
    files = stored_files(Store.open(folder / "store"))
    return files, np.stack([measure(file)["descriptor"] for file in files])


def test_copies_are_found_and_other_heads_and_sequences_are_not(real_data: Path, tmp_path: Path):
    files, descriptors = stored(real_data, tmp_path, FEW)
    assert candidates(hashes(descriptors)) == []
    nearest = look(_Look(files[2], files[3], (False, False, False)))["correlation"]
    assert nearest < 0.7
    for name in ("another grid", "noise, 5 % of the range", "upside down and backwards", "5 % cut off one side"):
        assert is_found(*found_after(CHANGES[name], files[2:3], descriptors[2:], tmp_path)).all(), name


@pytest.mark.slow
def test_share_of_copies_that_are_found(real_data: Path, tmp_path: Path):
    files, descriptors = stored(real_data, tmp_path, None)
    for name, change in CHANGES.items():
        found = is_found(*found_after(change, files, descriptors, tmp_path))
        print(f"{name}: {found.sum()} of {len(files)}")
        least = {"10 % cut off one side": 0.7, "15 % cut off one side": 0.0}.get(name, 0.95)
        assert found.mean() >= least, name
