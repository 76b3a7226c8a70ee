"""How fast crops come: our store beside nnssl-style blosc2, memory-mapped arrays, torch files, MONAI and torchio.

    python benchmarks/data_loading.py --store STORE_1MM --scratch FOLDER [--scans 15] [--crop 96] [--per-scan 4]

The same scans, converted once into each peer's form. `decode`: one process, one thread, random crops one after another.
`loader`: batches of 8 by `--workers` processes through each one's own loader at its best setting that we know (several
crops of a loaded volume where it can), for `--seconds`; counted after the first batches. Files are in the page cache.
Every row is measured `--rounds` times, one row after another, and the median stands. What other programs on the machine
take shows in crops a second and hardly in CPU time, so a core's rate is stated by CPU time: that of this process and of
its workers together.
"""

import argparse
import math
import os
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import torch
from torch.utils.data import DataLoader, Dataset

from fomo_ssl.core.types import ViewSpec
from fomo_ssl.corpus.store import Store
from fomo_ssl.data.augment.augmenter import normalised
from fomo_ssl.data.index import ScanIndex
from fomo_ssl.data.loader import Transport, make_loader
from fomo_ssl.data.sampling import Sampler

BATCH = 8


def main() -> None:
    parser = arguments(__doc__.split("\n")[0])
    parser.add_argument("--per-scan", type=int, default=4, help="crops that a scan which was loaded gives")
    parser.add_argument("--seconds", type=float, default=10.0)
    parser.add_argument("--only", help="comma-separated parts of names of rows")
    options = parser.parse_args()
    torch.set_num_threads(1)
    store, index, rows = chosen_scans(options)
    volumes = floats(store, index, rows)
    crop, several, scratch = (options.crop,) * 3, options.per_scan, options.scratch / f"{len(rows)}_{options.crop}"
    peers: dict[str, Callable[[], Peer]] = {
        "fomo_ssl": lambda: Ours(store, index, rows, crop, 1),
        "fomo_ssl, to float32 on the CPU": lambda: Ours(store, index, rows, crop, 1, convert=True),
        f"fomo_ssl, {several} crops a scan": lambda: Ours(store, index, rows, crop, several),
        f"fomo_ssl, {several} crops a scan, to float32 on the CPU": lambda: Ours(
            store, index, rows, crop, several, convert=True
        ),
        "fomo_ssl, crops through the queue": lambda: Ours(store, index, rows, crop, 1, transport="queue"),
        "nnssl-style blosc2 float32": lambda: Blosc2Float(scratch, volumes, crop),
        "npy memory map": lambda: MemoryMap(scratch, volumes, crop),
        f"torch.load of whole volumes, {several} crops each": lambda: TorchFile(scratch, volumes, crop, several),
        f"MONAI PersistentDataset, {several} crops each": lambda: Monai(scratch, volumes, crop, several),
        f"torchio SubjectsLoader, Queue, {several} crops each": lambda: TorchIO(scratch, volumes, crop, several),
    }
    wanted = options.only.split(",") if options.only else [""]
    chosen = {name: make() for name, make in peers.items() if any(part in name for part in wanted)}
    measured: dict[str, list[tuple[float, float, float]]] = {name: [] for name in chosen}
    for _ in range(options.rounds):
        for name, peer in chosen.items():
            decode = 1e3 / rate(peer.crops(), options.seconds / 3, 1)[1]
            measured[name].append((decode, *rate(peer.batches(options.workers), options.seconds, BATCH)))
    print(f"{len(rows)} scans, crops of {options.crop}^3, {options.workers} workers, batches of {BATCH}\n")
    print("| form | MB a scan | decode, crops/s a core | loader, crops/s | CPU ms a crop | crops/s a core |")
    print("|---" * 6 + "|")
    for name, peer in chosen.items():
        decode, loader, cpu = np.median(measured[name], axis=0)
        print(f"| {name} | {peer.megabytes:.1f} | {decode:.0f} | {loader:.0f} | {cpu:.2f} | {1e3 / cpu:.0f} |")


def arguments(description: str) -> argparse.ArgumentParser:
    """What every comparison of loaders is asked."""
    parser = argparse.ArgumentParser(description=description)
    parser.add_argument("--store", type=Path, required=True)
    parser.add_argument("--scratch", type=Path, required=True, help="where the peers' forms are written")
    parser.add_argument("--scans", type=int, default=15)
    parser.add_argument("--crop", type=int, default=96)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--workers", type=int, default=len(os.sched_getaffinity(0)))
    return parser


def chosen_scans(options: argparse.Namespace) -> tuple[Store, ScanIndex, np.ndarray]:
    """Rows of a store that hold the crop along every axis: all forms then cut the same number of stored voxels."""
    store = Store.open(options.store)
    index = ScanIndex.of(store)
    fit = np.flatnonzero((index.shape >= options.crop).all(axis=1))
    return store, index, fit[np.linspace(0, len(fit) - 1, min(options.scans, len(fit))).round().astype(int)]


def floats(store: Store, index: ScanIndex, rows: np.ndarray) -> list[np.ndarray]:
    """The scans as the peers keep them."""
    return [store.read(int(row)).astype(np.float32) * index.scale[row] + index.offset[row] for row in rows]


def rate(items: Iterator[object], seconds: float, each: int) -> tuple[float, float]:
    """Crops a second, and CPU milliseconds a crop of this process and its children."""
    # What came before the first batches, starting workers and filling queues, is not counted.
    for _ in range(10):
        next(items)
    count, began, cpu = 0, time.perf_counter(), _cpu_seconds()
    while time.perf_counter() - began < seconds:
        next(items)
        count += each
    return count / (time.perf_counter() - began), 1e3 * (_cpu_seconds() - cpu) / count


def _cpu_seconds() -> float:
    """Of this process and of its living children: `os.times` counts children only once they have ended."""
    ticks = os.sysconf("SC_CLK_TCK")
    total = time.process_time()
    for stat in Path("/proc").glob("[0-9]*/stat"):
        try:
            fields = stat.read_text().rsplit(")", 1)[1].split()
        except OSError:
            continue
        if int(fields[1]) == os.getpid():
            total += (int(fields[11]) + int(fields[12])) / ticks
    return total


class Peer:
    """One way to keep scans and to cut crops from them; `crops` in this process, `batches` by workers."""

    megabytes: float

    def crops(self) -> Iterator[object]:
        raise NotImplementedError

    def batches(self, workers: int) -> Iterator[object]:
        raise NotImplementedError


class Ours(Peer):
    """Batches are integers with a scale, as they go to the device; with `convert` as float32, made by this process."""

    def __init__(
        self,
        store: Store,
        index: ScanIndex,
        rows: np.ndarray,
        crop: tuple[int, int, int],
        per_scan: int,
        *,
        convert: bool = False,
        transport: Transport = "auto",
    ) -> None:
        self.store, self.convert, self.transport = store, convert, transport
        self.sampler = Sampler(index, rows, ViewSpec(), crop, seed=0, crops_per_scan=per_scan)
        files = [store.path / store.index.column("file")[int(row)].as_py() for row in rows]
        self.megabytes = float(np.mean([file.stat().st_size for file in files])) / 1e6

    def crops(self) -> Iterator[object]:
        several = self.sampler.crops_per_scan
        places = list(np.empty((several, *self.sampler.crop), np.int16))
        for first in range(0, 10**9, several):
            requests = [self.sampler.request(first + i) for i in range(several)]
            self.store.read_crops(requests[0].rows[0], [request.origins[0] for request in requests], places)
            yield from places

    def batches(self, workers: int) -> Iterator[object]:
        amount = {"batch_size": BATCH, "start": 0, "stop": 10**6, "workers": workers}
        for batch in make_loader(self.store, self.sampler, **amount, transport=self.transport):
            # As a run does it, there on the device.
            yield normalised(batch.images[0], batch.scale[0], batch.offset[0]) if self.convert else batch


class Files(Peer, Dataset[torch.Tensor]):
    """A file a scan and random crops of it through a plain `DataLoader`.

    Attributes:
        order: the file of every item; None draws one for each.
    """

    order: np.ndarray | None = None

    def __init__(self, scratch: Path, volumes: list[np.ndarray], crop: tuple[int, int, int]) -> None:
        folder = scratch / type(self).__name__
        folder.mkdir(parents=True, exist_ok=True)
        self.files = [self.write(folder / f"{i:03d}", volume) for i, volume in enumerate(volumes)]
        self.shapes, self.crop = [volume.shape for volume in volumes], crop
        self.megabytes = float(np.mean([file.stat().st_size for file in self.files])) / 1e6

    def write(self, path: Path, volume: np.ndarray) -> Path:
        raise NotImplementedError

    def read(self, path: Path, box: tuple[slice, ...]) -> np.ndarray:
        raise NotImplementedError

    def __len__(self) -> int:
        return 10**6 if self.order is None else len(self.order)

    def scan(self, i: int, generator: np.random.Generator) -> int:
        return int(generator.integers(len(self.files))) if self.order is None else int(self.order[i])

    def __getitem__(self, i: int) -> torch.Tensor:
        generator = np.random.default_rng(i)
        scan = self.scan(i, generator)
        corner = [int(generator.integers(n - c + 1)) for n, c in zip(self.shapes[scan], self.crop, strict=True)]
        box = tuple(slice(o, o + c) for o, c in zip(corner, self.crop, strict=True))
        return torch.from_numpy(np.ascontiguousarray(self.read(self.files[scan], box)))

    def crops(self) -> Iterator[object]:
        return (self[i] for i in range(len(self)))

    def batches(self, workers: int) -> Iterator[object]:
        return iter(DataLoader(self, batch_size=BATCH, num_workers=workers, worker_init_fn=_one_thread))


class Blosc2Float(Files):
    """nnssl: float32, ZSTD level 8, blocks for a patch, memory-mapped reading with one thread."""

    def write(self, path: Path, volume: np.ndarray) -> Path:
        import blosc2

        file = path.with_suffix(".b2nd")
        if not file.exists():
            chunks, blocks = _nnunet_blocks(volume.shape, patch=160)
            parameters = {"codec": blosc2.Codec.ZSTD, "clevel": 8}
            blosc2.asarray(volume, chunks=chunks, blocks=blocks, cparams=parameters, urlpath=str(file), mode="w")
        return file

    def read(self, path: Path, box: tuple[slice, ...]) -> np.ndarray:
        import blosc2

        return np.asarray(blosc2.open(str(path), mode="r", mmap_mode="r", dparams={"nthreads": 1})[box])


class MemoryMap(Files):
    """Uncompressed float32, as nnU-Net v1 and many notebooks keep it."""

    def write(self, path: Path, volume: np.ndarray) -> Path:
        file = path.with_suffix(".npy")
        if not file.exists():
            np.save(file, volume)
        return file

    def read(self, path: Path, box: tuple[slice, ...]) -> np.ndarray:
        return np.load(path, mmap_mode="r")[box]


class TorchFile(Files):
    """`torch.save` of whole volumes, several crops of each one that is loaded."""

    def __init__(self, scratch: Path, volumes: list[np.ndarray], crop: tuple[int, int, int], per_volume: int) -> None:
        super().__init__(scratch, volumes, crop)
        self.per_volume = per_volume

    def write(self, path: Path, volume: np.ndarray) -> Path:
        file = path.with_suffix(".pt")
        if not file.exists():
            torch.save(torch.from_numpy(volume), file)
        return file

    def __getitem__(self, i: int) -> torch.Tensor:
        generator = np.random.default_rng(i)
        volume = torch.load(self.files[self.scan(i, generator)])
        found = []
        for _ in range(self.per_volume):
            x, y, z = (int(generator.integers(n - c + 1)) for n, c in zip(volume.shape, self.crop, strict=True))
            found.append(volume[x : x + self.crop[0], y : y + self.crop[1], z : z + self.crop[2]])
        return torch.stack(found)

    def crops(self) -> Iterator[object]:
        return (crop for i in range(len(self)) for crop in self[i])

    def batches(self, workers: int) -> Iterator[object]:
        size = BATCH // self.per_volume
        return iter(DataLoader(self, batch_size=size, num_workers=workers, worker_init_fn=_one_thread))


class Monai(Peer):
    """NIfTI through a `PersistentDataset` (its cache of loaded tensors is warm), several random crops of each."""

    def __init__(self, scratch: Path, volumes: list[np.ndarray], crop: tuple[int, int, int], per_volume: int) -> None:
        from monai.data import PersistentDataset
        from monai.transforms import Compose, EnsureChannelFirstd, LoadImaged, RandSpatialCropSamplesd

        steps = Compose(
            [
                LoadImaged("image"),
                EnsureChannelFirstd("image"),
                RandSpatialCropSamplesd("image", crop, per_volume, random_size=False),
            ]
        )
        self.per_volume = per_volume
        items = [{"image": str(file)} for file in _nifti_files(scratch, volumes)]
        cache = scratch / "monai_cache"
        # As long an epoch as the others have: no pause while workers start again.
        self.data = PersistentDataset(items, steps, cache_dir=cache)
        for i in range(len(items)):
            self.data[i]
        sizes = [file.stat().st_size for file in cache.glob("*.pt")]
        self.megabytes = float(np.mean(sizes)) / 1e6

    def crops(self) -> Iterator[object]:
        return (crop for i in range(10**6) for crop in self.data[i % len(self.data)])

    def batches(self, workers: int) -> Iterator[object]:
        from monai.data import DataLoader as MonaiLoader

        endless = torch.utils.data.RandomSampler(self.data, replacement=True, num_samples=10**6)
        size = BATCH // self.per_volume
        return iter(
            MonaiLoader(self.data, batch_size=size, num_workers=workers, sampler=endless, worker_init_fn=_one_thread)
        )


class TorchIO(Peer):
    """torchio's patch queue: workers load whole subjects, the main process cuts crops from those in the queue."""

    def __init__(self, scratch: Path, volumes: list[np.ndarray], crop: tuple[int, int, int], per_volume: int) -> None:
        import torchio

        self.io, self.crop, self.per_volume = torchio, crop, per_volume
        self.files = _nifti_files(scratch, volumes)
        self.megabytes = float(np.mean([file.stat().st_size for file in self.files])) / 1e6

    def _subjects(self, copies: int) -> object:
        image = self.io.ScalarImage
        return self.io.SubjectsDataset([self.io.Subject(image=image(file)) for file in self.files * copies])

    def crops(self) -> Iterator[object]:
        sampler = self.io.UniformSampler(self.crop)
        subjects = self._subjects(1)
        for i in range(10**6):
            yield from sampler(subjects[i % len(self.files)], num_patches=self.per_volume)

    def batches(self, workers: int) -> Iterator[object]:
        queue = self.io.Queue(
            self._subjects(200),
            max_length=64,
            samples_per_volume=self.per_volume,
            sampler=self.io.UniformSampler(self.crop),
            num_workers=workers,
        )
        return iter(self.io.SubjectsLoader(queue, batch_size=BATCH, num_workers=0))


def _nifti_files(scratch: Path, volumes: list[np.ndarray]) -> list[Path]:
    """Uncompressed NIfTI: faster to read than .nii.gz, and so the better case for the peers that read it."""
    import nibabel

    folder = scratch / "nifti"
    folder.mkdir(parents=True, exist_ok=True)
    files = [folder / f"{i:03d}.nii" for i in range(len(volumes))]
    for file, volume in zip(files, volumes, strict=True):
        if not file.exists():
            nibabel.save(nibabel.Nifti1Image(volume, np.eye(4)), file)
    return files


def _nnunet_blocks(shape: tuple[int, ...], patch: int) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """Blocks that fill the level-1 cache and chunks that fill a share of the level-3 cache, by nnU-Net's rule of sizes.

    Blocks start at a power of two around the patch and shrink along their longest axis until 32 kB times 0.8 hold them;
    chunks grow by whole blocks until 0.8 x 1.4 MB are full.
    """
    itemsize, level1, level3 = 4, 32768 * 0.8, 1441792 * 0.8
    block = [min(2 ** math.ceil(math.log2(patch)), 2 ** math.ceil(math.log2(n))) for n in shape]
    while math.prod(block) * itemsize > level1:
        block[int(np.argmax(block))] //= 2
    block = [min(b, n) for b, n in zip(block, shape, strict=True)]
    chunk = list(block)
    while math.prod(chunk) * itemsize < level3:
        open_axes = [axis for axis in range(3) if chunk[axis] < min(patch, shape[axis])]
        if not open_axes:
            break
        axis = min(open_axes, key=lambda a: chunk[a] / block[a])
        chunk[axis] = min(chunk[axis] + block[axis], shape[axis])
    return tuple(chunk), tuple(block)


def _one_thread(_: int) -> None:
    torch.set_num_threads(1)


if __name__ == "__main__":
    main()
