"""Batches of stored integers, read ahead by worker processes: they divide the range of samples and decide nothing.

A scan that cannot be read is replaced by another draw, which is a function of (seed, sample) as well; every such scan
is reported, and too many of them end the loop.
"""

import contextlib
import gc
import math
import signal
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
from jaxtyping import Int16
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from fomo_ssl.core.errors import ConfigError, RunError, StoreError
from fomo_ssl.core.types import CropBatch
from fomo_ssl.corpus.store import Store
from fomo_ssl.data.batch import read_crops, to_batch
from fomo_ssl.data.ring import Ring
from fomo_ssl.data.sampling import Request, Sampler

Transport = Literal["auto", "ring", "queue", "spawn"]
"""How crops come from worker processes. `ring`: forked ones write into memory that all share; `queue`: forked ones send
them through the DataLoader's queue, as bytes; `spawn`: so do fresh ones, which share nothing. `auto` is `ring` on
Linux, and `spawn` where fork is missing or unsafe."""

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

    NumPy arrays travel as bytes; each torch tensor would travel as a file in /dev/shm, which may be too small.
    """

    requests: list[Request]
    unreadable: list[UnreadableScan]
    images: list[Int16[np.ndarray, "b 1 x y z"]]


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
        raw = _Raw([], [], [] if self.ring else [image.numpy() for image in images])
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
    """A `DataLoader` of whole batches, whose workers write into a ring of shared memory where that is the transport.

    In a ring, the crops of a batch stay as they are until `KEPT` - 1 more batches were taken: copy what you keep.

    Attributes:
        on_unreadable: called in the main process for each scan that could not be read.
    """

    def __init__(
        self,
        batches: _Batches,
        workers: int,
        transport: Transport,
        pin_memory: bool,
        on_unreadable: Callable[[UnreadableScan], None] | None,
    ) -> None:
        chosen = choose_transport(transport)
        super().__init__(
            batches,  # type: ignore[arg-type]
            batch_size=None,
            shuffle=False,
            num_workers=workers,
            worker_init_fn=_start_worker if workers else None,
            multiprocessing_context=("spawn" if chosen == "spawn" else "fork") if workers else None,
            # The loader would otherwise draw its workers' seeds from the global generator and so change the run.
            generator=torch.Generator(),
            prefetch_factor=_PREFETCHED if workers else None,
        )
        self.batches, self.pins = batches, pin_memory
        self.uses_ring = bool(workers) and chosen == "ring"
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
                sent = [torch.from_numpy(image) for image in raw.images]
                images = sent if ring is None else ring.views(k, len(raw.requests))
                yield to_batch(batches.sampler.index, raw.requests, images, batches.sampler.views.valid)


def choose_transport(transport: Transport) -> Transport:
    """The transport that `auto` stands for here, or the one that is asked for.

    Raises:
        ConfigError: it forks, and this system does not fork safely.
    """
    forks = sys.platform == "linux"
    if transport == "auto":
        return "ring" if forks else "spawn"
    if transport != "spawn" and not forks:
        raise ConfigError(
            f"data.transport={transport} forks, which is not safe here", way_out="Use data.transport=auto"
        )
    return transport


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
        # The wait for a batch says that a worker is gone, and the error it was raised from by what signal.
        how, _, _ = str(error.__cause__ if isinstance(error.__cause__, RuntimeError) else error).partition(". ")
        why, way_out = "often memory ran out", "Use fewer data.workers or smaller crops"
        if "Bus error" in how:  # scan files are mapped into memory: what a disk does not deliver is no exception
            why = "the disk failed, or a scan file was cut short while it was read"
            way_out = "Check the disk of the store"
        what = f"a loader process died ({how}); {why}"
        raise RunError(what, way_out=f"{way_out}, and continue with resume=auto") from error


def make_loader(
    store: Store,
    sampler: Sampler,
    *,
    batch_size: int,
    start: int,
    stop: int,
    workers: int,
    stride: int | None = None,
    transport: Transport = "auto",
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
        transport: how crops come from the workers; the batches do not depend on it.
        pin_memory: page-lock the ring, for an asynchronous copy to a GPU.
        on_unreadable: hears of every scan that could not be read and was replaced by another draw.

    Raises:
        ConfigError: a transport that this system does not have.
        StoreError: while iterating, where the scans of one sample cannot be read at all.
        RunError: while iterating, a worker process was killed, or the memory cannot be page-locked.
    """
    batches = _Batches(store, sampler, batch_size, start, stop, stride or batch_size)
    return CropLoader(batches, workers, transport, pin_memory, on_unreadable)


def _start_worker(worker: int) -> None:
    """One thread a worker, and Ctrl-C is the main process's business."""
    import blosc2

    blosc2.set_nthreads(1)
    torch.set_num_threads(1)
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    # Torch's handler blames /dev/shm, which is not used.
    signal.signal(signal.SIGBUS, signal.SIG_DFL)
    # What was inherited stays: collecting it again and again would also copy its pages.
    gc.freeze()
