"""Good files, damaged: each ends in a typed reason or in the scan that it was, within bounded memory."""

import csv
import tracemalloc
from collections.abc import Iterator
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
# What the interpreter and the pieces that are read cost however small the file is.
_PIECES = 3_500_000


@pytest.fixture(scope="module")
def image(tmp_path_factory, make_ball) -> bytes:
    """A good .nii of 16-bit integers."""
    path = tmp_path_factory.mktemp("good") / "a.nii"
    volume = make_ball(3, shape=(24, 26, 22))
    write(path, (volume.data * 10).astype(np.int16), volume.affine)
    return path.read_bytes()


def mutants(image: bytes, amount: int) -> Iterator[Mutant]:
    rng = numpy_generator(2, 0, "mutants")
    return (mutant(image, number, rng) for number in range(amount))


def traced_read(path: str) -> tuple[Volume | RejectedScan, int]:
    """The scan or its rejection, and the peak of memory in bytes."""
    tracemalloc.start()
    try:
        return read(path), tracemalloc.get_traced_memory()[1]
    except RejectedScan as error:
        return error, tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()


@pytest.mark.parametrize("amount", AMOUNTS)
def test_each_file_is_what_it_says_or_has_a_typed_reason(image: bytes, amount: int, tmp_path: Path):
    (tmp_path / "good.nii").write_bytes(image)
    good, usual = traced_read(str(tmp_path / "good.nii"))
    rejected = 0
    for damaged in mutants(image, amount):
        (tmp_path / damaged.name).write_bytes(damaged.content)
        path = f"{tmp_path / damaged.name}" + (f"!{damaged.member}" if damaged.member else "")
        result, peak = traced_read(path)
        assert peak < 2 * usual + _PIECES, damaged.what
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
