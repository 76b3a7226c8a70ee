"""How fast crops come from disk, where a corpus is larger than memory: our store beside other forms of its scans.

    python -m benchmarks.data_loading_cold --store STORE_1MM --scratch FOLDER [--scans 15] [--copies 20] [--crop 96]

Every form is copied until there are scans times copies files, dropped from the page cache, and read once, each file in
its turn, by `--workers` processes through its loader (see `data_loading.py`), with 1 or 4 crops a file; crops a second
from the first batch to the last, the median of `--rounds`. MONAI's persistent cache is of torch files, so that row
stands for it. Needs room for the largest form, 30 MB a file; what is written is deleted.
"""

import argparse
import os
import shutil
import statistics
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import asdict
from functools import partial
from pathlib import Path

import numpy as np
import pyarrow as pa
import torch
from torch.utils.data import DataLoader

from benchmarks.data_loading import (
    BATCH,
    Blosc2Float,
    Files,
    MemoryMap,
    TorchFile,
    arguments,
    chosen_scans,
    floats,
)
from fomo_ssl.core.types import ViewSpec
from fomo_ssl.corpus.store import Store, write_index
from fomo_ssl.data.index import ScanIndex
from fomo_ssl.data.loader import make_loader
from fomo_ssl.data.sampling import Sampler

SEVERAL = 4


def main() -> None:
    parser = arguments(__doc__.split("\n")[0])
    parser.add_argument("--copies", type=int, default=20)
    options = parser.parse_args()
    torch.set_num_threads(1)
    store, index, rows = chosen_scans(options)
    crop = (options.crop,) * 3
    print(f"{len(rows)} scans x {options.copies} copies, crops of {options.crop}^3, {options.workers} workers\n")
    print("| form | MB a scan | crops/s, 1 a scan | 4 a scan |\n" + "|---" * 4 + "|")
    for name, rates, megabytes in measured(store, index, rows, crop, options):
        one, four = (f"{rates[n]:.0f}" if n in rates else "-" for n in (1, SEVERAL))
        print(f"| {name} | {megabytes:.1f} | {one} | {four} |", flush=True)


def measured(
    store: Store, index: ScanIndex, rows: np.ndarray, crop: tuple[int, int, int], options: argparse.Namespace
) -> Iterator[tuple[str, dict[int, float], float]]:
    """Name, crops a second by crops a scan, and MB a file, of one form after another."""
    scratch: Path = options.scratch / "cold"
    shutil.rmtree(scratch, ignore_errors=True)
    ours = grown(store, rows, scratch / "ours", options.copies)
    files = list((ours.path / "scans").iterdir())
    rates = {
        n: median(files, options.rounds, partial(our_batches, ours, crop, n, options.workers)) for n in (1, SEVERAL)
    }
    yield "fomo_ssl", rates, float(np.mean([file.stat().st_size for file in files])) / 1e6
    shutil.rmtree(scratch)
    volumes = floats(store, index, rows)
    for form in (Blosc2Float, MemoryMap, TorchFile):
        peer = form(scratch, volumes, crop, SEVERAL) if form is TorchFile else form(scratch, volumes, crop)
        originals = list(peer.files)
        for copy in range(1, options.copies):
            peer.files += [Path(shutil.copy(file, f"{file}_{copy}")) for file in originals]
        peer.shapes = peer.shapes * options.copies
        each = (SEVERAL,) if form is TorchFile else (1, SEVERAL)
        rates = {n: median(peer.files, options.rounds, partial(their_batches, peer, n, options.workers)) for n in each}
        yield str(form.__doc__).split("\n")[0].rstrip("."), rates, peer.megabytes
        shutil.rmtree(scratch)


def grown(store: Store, rows: np.ndarray, target: Path, copies: int) -> Store:
    """A store with several copies of some scans, each in a file of its own."""
    (target / "scans").mkdir(parents=True)
    table, parts = store.index.take(pa.array(rows)), []
    for copy in range(copies):
        names = [f"scans/{copy}_{Path(name.as_py()).name}" for name in table.column("file")]
        for name, new in zip(table.column("file"), names, strict=True):
            shutil.copy(store.path / name.as_py(), target / new)
        at = table.schema.get_field_index("file")
        parts.append(table.set_column(at, table.schema.field(at), pa.array(names, pa.string())))
    write_index(target, pa.concat_tables(parts), store.spec, asdict(store.spec))
    return Store.open(target)


def our_batches(store: Store, crop: tuple[int, int, int], per_scan: int, workers: int) -> Iterator[object]:
    rows = np.arange(len(store))
    sampler = Sampler(ScanIndex.of(store), rows, ViewSpec(), crop, seed=0, crops_per_scan=per_scan)
    stop = len(sampler) // BATCH * BATCH
    return iter(make_loader(store, sampler, batch_size=BATCH, start=0, stop=stop, workers=workers))


def their_batches(peer: Files, per_scan: int, workers: int) -> Iterator[object]:
    order = np.random.default_rng(0).permutation(len(peer.files))
    whole = isinstance(peer, TorchFile)  # an item of it holds all crops of a file
    peer.order = order if whole else np.repeat(order, per_scan)
    size = BATCH // per_scan if whole else BATCH
    return iter(DataLoader(peer, batch_size=size, num_workers=workers, drop_last=True))


def median(files: Iterable[Path], rounds: int, batches: Callable[[], Iterator[object]]) -> float:
    """Crops a second of a pass over files that are not in memory; `batches` begins one."""
    found = []
    for _ in range(rounds):
        drop(files)
        count = 0
        for _ in batches():
            if not count:
                began = time.perf_counter()
            count += BATCH
        found.append((count - BATCH) / (time.perf_counter() - began))
    return statistics.median(found)


def drop(files: Iterable[Path]) -> None:
    """Take files out of the page cache, which wants them on disk first."""
    for file in files:
        descriptor = os.open(file, os.O_RDONLY)
        try:
            os.fsync(descriptor)
            os.posix_fadvise(descriptor, 0, 0, os.POSIX_FADV_DONTNEED)
        finally:
            os.close(descriptor)


if __name__ == "__main__":
    main()
