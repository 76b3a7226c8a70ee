"""From requests to batches of stored integers: workers divide the range of samples and decide nothing.

A scan that cannot be read is replaced by another draw, which is a function of (seed, sample) as well; every such scan
is reported, and too many of them end the loop.
"""

import contextlib
import gc
import math
import signal
import sys
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field

import numpy as np
import torch
from jaxtyping import Int16, Int64
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from fomo_ssl.core.errors import RunError, StoreError
from fomo_ssl.core.seeding import numpy_generator, sample_key
from fomo_ssl.core.types import CropBatch, Triple
from fomo_ssl.corpus.store import Store
from fomo_ssl.data.index import ScanIndex
from fomo_ssl.data.ring import Ring
from fomo_ssl.data.sampling import Request, Sampler, origin_range

ATTEMPTS = 4
"""Draws for one sample before the store as a whole is called unreadable."""

KEPT = 4
"""Batches from worker processes whose crops stay untouched: the newest and those before it."""

_PREFETCHED = 2  # batches a worker reads ahead


@dataclass(frozen=True)
class UnreadableScan:
    """A scan that a loader met and could not read.

    Attributes:
        sample: the global sample that asked for it.
        error: what the store said, naming the file.
    """

    sample: int
    error: StoreError


@dataclass
class _Raw:
    """What a worker sends: everything of a batch but the crops, which stay in the ring where there is one.

    NumPy arrays travel as bytes; each torch tensor would travel as a file in /dev/shm.
    """

    requests: list[Request]
    unreadable: list[UnreadableScan]
    images: list[Int16[Tensor, "b 1 x y z"]] | None = field(default=None)


def read_crops(
    store: Store,
    requests: Mapping[int, Request],
    images: list[Int16[Tensor, "b 1 x y z"]],
    flagged: bool,
) -> dict[int, StoreError]:
    """Read the crops of some requests into their places of a batch, each scan once, however many crops it gives.

    Args:
        store: where crops are read.
        requests: by their place in the batch.
        images: the batch, a tensor per view.
        flagged: leave the flags of voxels that do not count.

    Returns:
        What went wrong, naming the file, by place; such a place holds no crops.
    """
    arrays = [image.numpy()[:, 0] for image in images]
    wanted: dict[int, list[tuple[int, Triple, np.ndarray]]] = {}
    for place, request in requests.items():
        for array, row, origin in zip(arrays, request.rows, request.origins, strict=True):
            wanted.setdefault(row, []).append((place, origin, array[place]))
    failed: dict[int, StoreError] = {}
    for row, crops in wanted.items():
        places, origins, targets = zip(*crops, strict=True)
        try:
            store.read_crops(row, origins, targets, flagged=flagged)
        except StoreError:
            # A scan may be damaged in part: what becomes of a sample must not depend on the others of its batch.
            for place, origin, target in zip(places, origins, targets, strict=True):
                try:
                    store.read_crops(row, [origin], [target], flagged=flagged)
                except StoreError as error:
                    failed[place] = error
    return failed


def to_batch(
    index: ScanIndex, requests: list[Request], images: list[Int16[Tensor, "b 1 x y z"]], flagged: bool
) -> CropBatch:
    """A batch of crops that were read, with what the index knows of their scans."""
    rows = np.array([request.rows for request in requests], dtype=np.int64).T
    origins = np.array([request.origins for request in requests], dtype=np.int64).transpose(1, 0, 2)
    return CropBatch(
        images=images,
        scale=torch.from_numpy(index.scale[rows]),
        offset=torch.from_numpy(index.offset[rows]),
        origins=torch.from_numpy(origins.copy()),
        keys=torch.tensor([request.key for request in requests], dtype=torch.int64),
        indices=torch.tensor([request.index for request in requests], dtype=torch.int64),
        rows=torch.from_numpy(rows.copy()),
        spacing=torch.from_numpy(index.spacing[rows[0]]),
        sequences=torch.from_numpy(index.sequence_class[rows]),
        paired=torch.tensor([request.paired for request in requests]),
        # Known here without a look at the voxels: most batches of a mixed corpus are spared the work.
        flagged=flagged and bool(index.flagged[rows].any()),
    )


class _Batches(Dataset[_Raw | StoreError]):
    """Item k holds the `batch_size` global samples from start + k * stride on; the last item may be shorter."""

    def __init__(self, store: Store, sampler: Sampler, batch_size: int, start: int, stop: int, stride: int) -> None:
        self.store, self.sampler, self.batch_size, self.start, self.stop = store, sampler, batch_size, start, stop
        self.stride = stride
        self.ring: Ring | None = None

    def __len__(self) -> int:
        return math.ceil((self.stop - self.start) / self.stride)

    def __getitem__(self, k: int) -> _Raw | StoreError:
        first = self.start + k * self.stride
        samples = range(first, min(first + self.batch_size, self.stop))
        images = self.ring.views(k, len(samples)) if self.ring else self.empty(len(samples))
        raw = _Raw([], [], None if self.ring else images)
        requests, waiting = dict[int, Request](), dict(enumerate(samples))
        for attempt in range(ATTEMPTS):
            asked = {place: self.sampler.request(sample, attempt) for place, sample in waiting.items()}
            failed = read_crops(self.store, asked, images, self.sampler.views.valid)
            raw.unreadable += [UnreadableScan(samples[place], error) for place, error in failed.items()]
            waiting = {place: samples[place] for place in failed}
            requests |= asked
            if not waiting:
                raw.requests = [requests[place] for place in range(len(samples))]
                return raw
        # A raised exception would reach the main process with a worker's traceback for a message.
        return StoreError(
            f"{ATTEMPTS} scans in a row cannot be read; the last: {raw.unreadable[-1].error}",
            way_out="Is the disk still there?",
        )

    def empty(self, samples: int) -> list[Int16[Tensor, "b 1 x y z"]]:
        shape = (samples, 1, *self.sampler.crop)
        return [torch.empty(shape, dtype=torch.int16) for _ in range(self.sampler.views.n)]


class CropLoader(DataLoader[CropBatch]):
    """A `DataLoader` of whole batches whose workers write into a ring of shared memory.

    With workers, the crops of a batch stay as they are until `KEPT` - 1 more batches were taken: copy what you keep.

    Attributes:
        on_unreadable: called in the main process for each scan that could not be read.
    """

    def __init__(
        self,
        batches: _Batches,
        workers: int,
        pin_memory: bool,
        on_unreadable: Callable[[UnreadableScan], None] | None,
    ) -> None:
        # Forked workers share the ring and the index's pages; elsewhere fork is unsafe or missing, everything pickles,
        # and crops travel through the queue.
        forks = sys.platform == "linux"
        super().__init__(
            batches,  # type: ignore[arg-type]
            batch_size=None,
            shuffle=False,
            num_workers=workers,
            worker_init_fn=_start_worker if workers else None,
            multiprocessing_context=("fork" if forks else "spawn") if workers else None,
            # The loader would otherwise draw its workers' seeds from the global generator and so change the run.
            generator=torch.Generator(),
            prefetch_factor=_PREFETCHED if workers else None,
        )
        self.batches, self.pins = batches, pin_memory
        self.uses_ring = bool(workers) and forks
        self.on_unreadable = on_unreadable

    def __iter__(self) -> Iterator[CropBatch]:  # type: ignore[override]
        batches = self.batches
        ring = None
        if self.uses_ring and len(batches):
            import blosc2  # noqa: F401 - once here, and its pages are shared with the workers

            # A batch is asked for when the one `ahead` places before it is handed over: with KEPT slots more than
            # that, what is written now was handed over KEPT batches ago.
            ahead = _PREFETCHED * self.num_workers
            ring = Ring.allocate(ahead + KEPT, batches.sampler.views.n, batches.batch_size, batches.sampler.crop)
        batches.ring = ring
        # Training waits for the device once a step, to look at the loss: copies of KEPT batches ago are done.
        locked = ring.pinned() if ring is not None and self.pins else contextlib.nullcontext()
        with locked, named_worker_death():
            for k, raw in enumerate(super().__iter__()):
                if isinstance(raw, StoreError):
                    raise raw
                for scan in raw.unreadable:
                    if self.on_unreadable is not None:
                        self.on_unreadable(scan)
                images = raw.images if ring is None else ring.views(k, len(raw.requests))
                assert images is not None
                yield to_batch(batches.sampler.index, raw.requests, images, batches.sampler.views.valid)


@contextlib.contextmanager
def named_worker_death() -> Iterator[None]:
    """Turn the death of a loader process into an error for people.

    Torch notices it by a signal and raises in whatever the main process is at, which may as well be a backward pass as
    the wait for a batch: whoever trains on a loader wraps the training in this, too.

    Raises:
        RunError: a loader process died.
    """
    try:
        yield
    except RuntimeError as error:
        if "DataLoader worker" not in str(error):
            raise
        raise RunError(
            f"a loader process died ({str(error).splitlines()[0]}); often memory ran out",
            way_out="Use fewer data.workers or smaller crops, and continue with resume=auto",
        ) from error


def make_loader(
    store: Store,
    sampler: Sampler,
    *,
    batch_size: int,
    start: int,
    stop: int,
    workers: int,
    stride: int | None = None,
    pin_memory: bool = False,
    on_unreadable: Callable[[UnreadableScan], None] | None = None,
) -> CropLoader:
    """Batches of the global samples start .. stop - 1, in order, the same for any number of workers.

    Args:
        store: where crops are read.
        sampler: says which crops.
        batch_size: samples a batch; the last batch may be shorter.
        start, stop: range of global sample indices; `start` is the samples seen so far.
        workers: processes that read ahead; 0 reads in this one.
        stride: samples from the start of a batch to that of the next, by default `batch_size`; more where other ranks
            read those between.
        pin_memory: page-locked crops, for an asynchronous copy to a GPU.
        on_unreadable: hears of every scan that could not be read and was replaced by another draw.

    Raises:
        StoreError: while iterating, where the scans of one sample cannot be read at all.
        RunError: while iterating, a worker process was killed, or the memory cannot be page-locked.
    """
    return CropLoader(
        _Batches(store, sampler, batch_size, start, stop, stride or batch_size), workers, pin_memory, on_unreadable
    )


def _start_worker(worker: int) -> None:
    """One thread a worker, and Ctrl-C is the main process's business."""
    import blosc2

    blosc2.set_nthreads(1)
    torch.set_num_threads(1)
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    # What was inherited stays: collecting it again and again would also copy its pages.
    gc.freeze()


def preview_batch(store: Store, sampler: Sampler, rows: Int64[np.ndarray, "_"]) -> CropBatch:
    """Centre crops of the foreground of given (held-out) rows: the same pictures all through a run.

    Further views are the same crop again, or the second scans that the sampler's pairing asks for, where there are any
    among its rows.

    Raises:
        StoreError: one of them cannot be read.
    """
    index, crop, n = sampler.index, sampler.crop, sampler.views.n
    requests = []
    for place, row in enumerate(rows.tolist()):
        low, high = origin_range(index.shape[row], crop, index.box_lo[row], index.box_hi[row])
        middle = (low + high) // 2
        partners = sampler.partners(numpy_generator(sampler.seed, place, "preview"), row, middle) if n > 1 else []
        crops = [(row, middle), *(partners or [(row, middle)]) * n][:n]
        origins = tuple((int(o[0]), int(o[1]), int(o[2])) for _, o in crops)
        key = sample_key(sampler.seed, place, "preview")
        paired = bool(partners) or sampler.views.pairing not in ("session", "subject")
        requests.append(Request(place, key, tuple(r for r, _ in crops), origins, paired))
    images = [torch.empty((len(requests), 1, *crop), dtype=torch.int16) for _ in range(n)]
    for error in read_crops(store, dict(enumerate(requests)), images, sampler.views.valid).values():
        raise error
    return to_batch(index, requests, images, sampler.views.valid)
