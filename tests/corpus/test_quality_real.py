"""The limits of the duplicate check hold on real scans; docs/how-to/check_your_data.md states the figures."""

from pathlib import Path

import numpy as np
import pytest
from alterations import CHANGES, found_after, is_found

from fomo_ssl.corpus.duplicates import _MIRRORS, BITS, CANDIDATE, SAME_HEAD, _Look, candidates, hashes, look
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


@pytest.fixture(scope="module")
def everyone(real_data: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[list[StoredFile], np.ndarray, list]:
    """All real scans: files, descriptors and subjects, which the flat tree numbers throughout."""
    folder = tmp_path_factory.mktemp("everyone")
    files, descriptors = stored(real_data, folder, None)
    people = Store.open(folder / "store").index.column("subject").to_pylist()
    return files, descriptors, people


@pytest.mark.slow
def test_share_of_copies_that_are_found(everyone, tmp_path: Path):
    """Prints the table of the page."""
    files, descriptors, _ = everyone
    for name, change in CHANGES.items():
        distances, correlations = found_after(change, files, descriptors, tmp_path)
        found = is_found(distances, correlations)
        bits = " %, ".join(f"{100 * value:.2g}" for value in np.quantile(distances, (0.5, 0.95, 1.0)))
        print(
            f"| {name} | {bits} % | {np.median(correlations):.2f}, {correlations.min():.2f} "
            f"| {found.sum()} of {len(files)} |",
            flush=True,
        )
        least = {"10 % cut off one side": 0.7, "15 % cut off one side": 0.0}.get(name, 0.95)
        assert found.mean() >= least, name


@pytest.mark.slow
def test_two_subjects_are_two_heads(everyone):
    """Prints the last line of the table, and the pairs within a subject that are reported."""
    files, descriptors, people = everyone
    words = hashes(descriptors)
    pairs = []
    for second in range(1, len(files)):
        bits = np.bitwise_count(words[:, :second] ^ words[0, second]).sum(axis=2)
        pairs += [(int(bits[:, first].min()), first, second, int(bits[:, first].argmin())) for first in range(second)]
    others = sorted(pair for pair in pairs if people[pair[1]] != people[pair[2]])
    own = [pair for pair in pairs if people[pair[1]] == people[pair[2]]]
    drawn = np.random.default_rng(0).choice(len(others), 60, replace=False)
    looked = others[:60] + [others[at] for at in drawn]
    greatest = max(look(_Look(files[a], files[b], _MIRRORS[m]))["correlation"] for _, a, b, m in looked)
    shares = np.array([pair[0] for pair in others]) / BITS
    print(f"{len(others)} pairs of two subjects: {np.median(shares):.2f}, least {shares.min():.3f}; {greatest:.2f}")
    near = [(a, b, m, bits / BITS) for bits, a, b, m in own if bits <= CANDIDATE * BITS]
    print(
        f"{len(own)} pairs of one subject, {len(near)} within the limit of bits, the next at "
        f"{min(bits for bits, *_ in own if bits > CANDIDATE * BITS) / BITS:.3f}"
    )
    for a, b, m, share in near:
        print(
            people[a],
            files[a].path.name,
            files[b].path.name,
            f"{share:.3f}",
            look(_Look(files[a], files[b], _MIRRORS[m])),
        )
    assert shares.min() > CANDIDATE
    assert greatest < SAME_HEAD
