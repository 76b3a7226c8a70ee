import csv
import io
from pathlib import Path

import numpy as np
import pytest

from fomo_ssl.core.errors import StoreError
from fomo_ssl.corpus import cache
from fomo_ssl.corpus.cache import cache_folder
from fomo_ssl.corpus.layouts import ScanRow
from fomo_ssl.corpus.measurements import count_blank_slices
from fomo_ssl.corpus.quality import Quality, assess, flags_csv
from fomo_ssl.corpus.store import Store, StoreWriter
from fomo_ssl.imaging.canonical import CanonicalSpec, canonicalise
from fomo_ssl.imaging.nifti import Volume

SPEC = CanonicalSpec(2.0)


def textured(seed: int, shape=(60, 64, 56)) -> Volume:
    """A head-sized ball with detail of its own at every scale down to 3 mm."""
    rng = np.random.default_rng(seed)
    grid = np.meshgrid(*(np.linspace(-1, 1, n) for n in shape), indexing="ij")
    coarse = rng.normal(size=(15, 16, 14)).repeat(4, 0).repeat(4, 1).repeat(4, 2)
    inside = sum(g**2 for g in grid) < 0.8
    data = np.where(inside, 300 + 80 * coarse + 20 * rng.normal(size=shape), 0.0)
    return Volume(data.astype(np.float32), np.diag([2.5, 2.5, 2.5, 1.0]))


def row(subject: str, sequence: str = "t1") -> ScanRow:
    return ScanRow("Alpha", subject, "ses_1", sequence, f"{subject}/ses_1/{sequence}.nii.gz")


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Store:
    """Ten heads; sub_90 has the one of sub_0 mirrored, sub_1 has its own scan twice, sub_92 lacks slices."""
    path = tmp_path_factory.mktemp("quality") / "store"
    with StoreWriter.create(path, SPEC) as writer:
        for number in range(8):
            writer.add(row(f"sub_{number}"), canonicalise(textured(number), SPEC))
        first, second = textured(0), textured(1)
        writer.add(row("sub_90"), canonicalise(Volume(first.data[::-1].copy(), first.affine), SPEC))
        writer.add(row("sub_1", "flair"), canonicalise(second, SPEC))
        third = textured(78)
        third.data[:, 30:34] = 0
        writer.add(row("sub_91", "t2"), canonicalise(textured(77), SPEC))
        writer.add(row("sub_92", "t2"), canonicalise(third, SPEC))
    return Store.open(path)


@pytest.fixture(scope="module")
def found(store: Store) -> Quality:
    return assess(store)


def test_each_fault_is_flagged_once_and_nothing_else(found: Quality):
    lines = list(csv.DictReader(io.StringIO(flags_csv(found))))
    flags = [(line["flag"], line["subject"], line["sequence"], line["other_path"]) for line in lines]
    assert flags == [
        ("duplicate", "sub_90", "t1", "sub_0/ses_1/t1.nii.gz"),
        ("repeated", "sub_1", "flair", "sub_1/ses_1/t1.nii.gz"),
        ("blank_slices", "sub_92", "t2", ""),
    ]
    assert "mirrored along x" in lines[0]["detail"]
    assert lines[1]["detail"] == "the same stored bytes"


def test_the_store_is_left_alone_and_a_second_run_computes_nothing(
    store: Store, found: Quality, monkeypatch: pytest.MonkeyPatch
):
    before = {p: p.stat().st_mtime_ns for p in store.path.rglob("*")}

    def forbidden(*args, **kwargs):
        raise AssertionError

    monkeypatch.setattr(cache, "run_local", forbidden)
    again = assess(store)
    assert again.findings == found.findings
    assert {p: p.stat().st_mtime_ns for p in store.path.rglob("*")} == before


def test_an_interrupted_run_goes_on_and_a_torn_shard_is_done_again(
    store: Store, found: Quality, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    done: list[int] = []

    def some(function, jobs, workers):
        for job in jobs:
            done.append(1)
            yield function(job)
            if len(done) == 5:
                raise KeyboardInterrupt

    monkeypatch.setattr(cache, "run_local", some)
    with pytest.raises(KeyboardInterrupt):
        assess(store, cache=tmp_path)
    again = assess(store, cache=tmp_path)
    # The scan that is stored twice is measured once; nothing that came before the interrupt is done again.
    assert len(done) == len(store) - 1 + found.candidates
    assert flags_csv(again) == flags_csv(found)
    for shard in tmp_path.glob("*.arrow"):
        shard.write_bytes(b"torn")
    assert flags_csv(assess(store, cache=tmp_path)) == flags_csv(found)


def test_blank_slices_are_those_inside_the_head(make_ball):
    data = (10 * make_ball(2).data).astype(np.int16)
    inner = data[3:-3, 3:-3, 3:-3]
    assert count_blank_slices(inner, 0) == 0
    inner[:, 8] = 0
    inner[5] = 400
    assert count_blank_slices(inner, 0) == 2


def test_the_cache_lies_beside_the_store_and_a_place_that_cannot_be_written_is_named(store: Store, tmp_path: Path):
    assert cache_folder(store.path) == store.path.parent / "store.quality"
    (tmp_path / "file").touch()
    with pytest.raises(StoreError, match="--cache"):
        assess(store, cache=tmp_path / "file" / "cache")
