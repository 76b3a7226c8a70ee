"""Good files, damaged: each ends in a typed reason or in the scan that it was, within bounded memory."""

import csv
import struct
import subprocess
import sys
import tracemalloc
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
from mutants import KINDS, Mutant, mutant, packed, plainly_read

from fomo_ssl.core.errors import Reason, RejectedScan
from fomo_ssl.core.seeding import numpy_generator
from fomo_ssl.corpus.preprocess import preprocess
from fomo_ssl.corpus.store import Store
from fomo_ssl.imaging.canonical import CanonicalSpec
from fomo_ssl.imaging.nifti import Volume, read, write

AMOUNTS = [pytest.param(42, id="quick"), pytest.param(510, id="all", marks=pytest.mark.slow)]
MEMORY_AMOUNTS = [pytest.param(48, id="quick"), pytest.param(510, id="all", marks=pytest.mark.slow)]

# Kilobytes, on Linux.
_PEAKS = """
import resource
from pathlib import Path
from fomo_ssl.corpus.preprocess import preprocess
from fomo_ssl.imaging.canonical import CanonicalSpec
if __name__ == "__main__":
    for folder in ("small", "good", "damaged"):
        preprocess(Path(folder), Path(folder + "_store"), CanonicalSpec(4.0))
        print(resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss)
"""


@pytest.fixture(scope="module")
def image(tmp_path_factory, make_ball) -> bytes:
    """A good .nii of 16-bit integers."""
    path = tmp_path_factory.mktemp("good") / "a.nii"
    volume = make_ball(3, shape=(24, 26, 22))
    write(path, (volume.data * 10).astype(np.int16), volume.affine)
    return path.read_bytes()


@pytest.fixture(scope="module")
def large_image(tmp_path_factory, make_ball) -> bytes:
    """A good .nii of 20 MB once decoded, beside which the pieces that are read of any file weigh nothing."""
    path = tmp_path_factory.mktemp("large") / "a.nii"
    volume = make_ball(3, shape=(24, 26, 22))
    write(path, np.kron((volume.data * 10).astype(np.int16), np.ones((7, 7, 8), np.int16)), volume.affine)
    return path.read_bytes()


def mutants(image: bytes, amount: int) -> Iterator[Mutant]:
    rng = numpy_generator(2, 0, "mutants")
    return (mutant(image, number, rng) for number in range(amount))


def read_or_rejection(path: str) -> Volume | RejectedScan:
    try:
        return read(path)
    except RejectedScan as error:
        return error


def peak_memory(work: Callable[[], object]) -> int:
    """The most bytes in use at once while `work` runs, of those that Python and NumPy ask for."""
    tracemalloc.start()
    try:
        work()
        return tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()


@pytest.mark.parametrize("amount", AMOUNTS)
def test_each_file_is_what_it_says_or_has_a_typed_reason(image: bytes, amount: int, tmp_path: Path):
    (tmp_path / "good.nii").write_bytes(image)
    good = read(tmp_path / "good.nii")
    rejected = 0
    for damaged in mutants(image, amount):
        (tmp_path / damaged.name).write_bytes(damaged.content)
        path = f"{tmp_path / damaged.name}" + (f"!{damaged.member}" if damaged.member else "")
        result = read_or_rejection(path)
        if isinstance(result, RejectedScan):
            assert isinstance(result.reason, Reason)
            rejected += 1
        elif damaged.image is not None or not damaged.has_check_value:
            # Another header is another image, and a plain file has no check value: what is read is what is written.
            wanted = plainly_read(damaged.image or damaged.content)
            np.testing.assert_allclose(result.data, wanted, rtol=1e-5, err_msg=damaged.what)
        else:
            np.testing.assert_array_equal(result.data, good.data, err_msg=damaged.what)
            np.testing.assert_array_equal(result.affine, good.affine, err_msg=damaged.what)
        (tmp_path / damaged.name).unlink()
    assert rejected > amount // 2


@pytest.mark.parametrize("amount", AMOUNTS)
def test_a_run_over_damaged_files_accounts_for_each(image: bytes, amount: int, tmp_path: Path):
    source, store = tmp_path / "source", tmp_path / "store"
    source.mkdir()
    for number, kind in enumerate(KINDS):
        name, content, _ = packed(image, kind, number)
        (source / f"good_{name}").write_bytes(content)
    checked = {}
    for damaged in mutants(image, amount):
        (source / damaged.name).write_bytes(damaged.content)
        checked[damaged.name] = damaged.has_check_value and damaged.image is None
    summary = preprocess(source, store, CanonicalSpec(2.0))
    index = Store.open(store).index
    paths = [path.split("!")[0] for path in index.column("path").to_pylist()]
    lines = list(csv.DictReader((store / "quarantine.csv").read_text().splitlines()))
    assert sorted({*paths, *(line["path"].split("!")[0] for line in lines)}) == sorted(p.name for p in source.iterdir())
    assert all(Reason(line["reason"]) for line in lines)
    assert summary.accepted + sum(summary.rejected.values()) == amount + len(KINDS)
    digests = dict(zip(paths, index.column("file_digest").to_pylist(), strict=True))
    (good,) = {digest for path, digest in digests.items() if path.startswith("good_")}
    assert sum(path.startswith("good_") for path in digests) == len(KINDS)
    assert {digests[path] for path in digests if checked.get(path)} <= {good}


@pytest.mark.parametrize("amount", MEMORY_AMOUNTS)
def test_no_file_takes_twice_the_memory_of_the_largest_good_one(large_image: bytes, amount: int, tmp_path: Path):
    def peak_of(name: str, content: bytes, member: str | None) -> int:
        (tmp_path / name).write_bytes(content)
        path = f"{tmp_path / name}" + (f"!{member}" if member else "")
        peak = peak_memory(lambda: read_or_rejection(path))
        (tmp_path / name).unlink()
        return peak

    usual = min(peak_of(*packed(large_image, kind, 0)) for kind in KINDS)
    assert usual > 20_000_000
    for damaged in mutants(large_image, amount):
        assert peak_of(damaged.name, damaged.content, damaged.member) < 2 * usual, damaged.what
    bold = bytearray(large_image)
    struct.pack_into("<3h", bold, 42, 600, 600, 600)  # fewer than are refused by number alone
    for kind in KINDS:
        assert peak_of(*packed(bytes(bold), kind, 0)) < 2 * usual, kind


def test_a_run_over_damaged_files_takes_no_more_memory(image: bytes, large_image: bytes, tmp_path: Path):
    """Each number is the peak of the largest worker so far: with a small scan, a large good one, its mutants."""
    for folder, content in (("small", image), ("good", large_image), ("damaged", large_image)):
        (tmp_path / folder).mkdir()
        (tmp_path / folder / "good.nii").write_bytes(content)
    for damaged in mutants(large_image, 48):
        (tmp_path / "damaged" / damaged.name).write_bytes(damaged.content)
    script = tmp_path / "peaks.py"
    script.write_text(_PEAKS)
    run = subprocess.run([sys.executable, script], cwd=tmp_path, capture_output=True, text=True, check=True)
    small, good, largest = map(int, run.stdout.split())
    assert good - small > 20_000
    assert largest - small < 2 * (good - small)
