"""Does the size of a corpus cost anything? Start-up, memory and speed at 1,000 to 300,000 index rows.

    python benchmarks/data_growth.py --store STORE --scratch FOLDER [--rows 1000,10000,100000,300000] [--batches 50000]

The rows are those of a real store, repeated under new subjects: each points at a real scan file. `start` is the time
from opening the store to the first batch with two workers; memory is the proportional set size (shared pages are
divided among those who share them) after the first 500 batches. Growth from there on is that of a worker's anonymous
memory, its own and what it inherited: what it allocates shows there, and no program that comes and goes beside it.
`own` is what it shares with nobody at the end; that also grows by inherited pages that were copied when touched.
"""

import argparse
import os
import shutil
import time
from dataclasses import asdict
from pathlib import Path

import numpy as np
import pyarrow as pa

from fomo_ssl.core.types import ViewSpec
from fomo_ssl.corpus.store import Store, write_index
from fomo_ssl.data.index import ScanIndex, split_by_subject
from fomo_ssl.data.loader import make_loader
from fomo_ssl.data.sampling import Sampler

WORKERS, BATCH = 2, 2
OWN, ALL = ("Private_Clean", "Private_Dirty"), ("Anonymous",)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--store", type=Path, required=True)
    parser.add_argument("--scratch", type=Path, required=True)
    parser.add_argument("--rows", default="1000,10000,100000,300000")
    parser.add_argument("--batches", type=int, default=50_000)
    parser.add_argument("--crop", type=int, default=32)
    options = parser.parse_args()
    print("| rows | index, MB | open, s | start, s | main, MB | worker, MB | own, MB | growth, MB | first/s | last/s |")
    print("|---" * 10 + "|")
    for rows in map(int, options.rows.split(",")):
        path = grown(options.store, options.scratch / f"rows_{rows}", rows)
        print("| " + " | ".join(measure(path, options.crop, options.batches)) + " |", flush=True)


def grown(store: Path, target: Path, rows: int) -> Path:
    """A store of `rows` rows whose scan files are those of `store`."""
    shutil.rmtree(target, ignore_errors=True)
    target.mkdir(parents=True)
    source = Store.open(store)
    (target / "scans").symlink_to((store / "scans").resolve())
    copies = -(-rows // len(source))
    parts = []
    for copy in range(copies):
        names = [f"{name.as_py()}_copy{copy}" for name in source.index.column("subject")]
        at = source.index.schema.get_field_index("subject")
        parts.append(source.index.set_column(at, source.index.schema.field(at), pa.array(names, pa.string())))
    write_index(target, pa.concat_tables(parts).slice(0, rows), source.spec, asdict(source.spec))
    return target


def measure(path: Path, edge: int, batches: int) -> list[str]:
    began = time.perf_counter()
    store = Store.open(path)
    opened = time.perf_counter() - began
    index = ScanIndex.of(store)
    split = split_by_subject(index, 0.05, seed=0)
    sampler = Sampler(index, split.train, ViewSpec(), (edge,) * 3, seed=0)
    loader = make_loader(store, sampler, batch_size=BATCH, start=0, stop=BATCH * batches, workers=WORKERS)
    speeds, early, seen = [], 0.0, 0
    for k, _ in enumerate(loader):
        if k == 0:
            started, mark = time.perf_counter() - began, time.perf_counter()
        seen += BATCH
        if (k + 1) % max(1, batches // 10) == 0:
            speeds.append(seen / (time.perf_counter() - mark))
            mark, seen = time.perf_counter(), 0
        if k == min(500, batches // 2):
            worker_memory, early = workers_memory("Pss"), workers_memory(*ALL)
        if k == batches - 1:
            late, own, main_memory = workers_memory(*ALL), workers_memory(*OWN), memory(os.getpid(), "Pss")
    size = (path / "index.arrow").stat().st_size / 1e6
    numbers = (size, opened, started, main_memory, worker_memory, own, late - early)
    return [f"{len(store):,}", *(f"{n:.2f}" for n in numbers), f"{speeds[0]:.0f}", f"{np.mean(speeds[-2:]):.0f}"]


def memory(process: int, *kinds: str) -> float:
    """The sum of some kinds of memory in MB."""
    lines = Path(f"/proc/{process}/smaps_rollup").read_text().splitlines()
    return sum(int(line.split()[1]) for line in lines if line.split(":")[0] in kinds) / 1e3


def workers_memory(*kinds: str) -> float:
    """Mean over the processes that this one started."""
    children = Path(f"/proc/{os.getpid()}/task/{os.getpid()}/children").read_text().split()
    return float(np.mean([memory(int(child), *kinds) for child in children]))


if __name__ == "__main__":
    main()
