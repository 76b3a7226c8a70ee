"""From requests to batches of stored integers: workers divide the range of samples and decide nothing."""

import math
import signal
import sys
from collections.abc import Iterator, Sequence

import numpy as np
import torch
from jaxtyping import Int64
from torch.utils.data import DataLoader, Dataset

from fomo_ssl.core.errors import StoreError
from fomo_ssl.core.seeding import sample_key
from fomo_ssl.core.types import CropBatch, Triple
from fomo_ssl.corpus.store import Store
from fomo_ssl.data.index import ScanIndex
from fomo_ssl.data.sampling import Request, Sampler, origin_range


def load_batch(store: Store, index: ScanIndex, requests: Sequence[Request], crop: Triple) -> CropBatch:
    """Read the crops of some requests, each into its place in the batch.

    Raises:
        StoreError: a scan cannot be read; the message names its file.
    """
    n_views = len(requests[0].rows)
    rows = np.array([request.rows for request in requests], dtype=np.int64).T
    origins = np.array([request.origins for request in requests], dtype=np.int64).transpose(1, 0, 2)
    images = [np.empty((len(requests), 1, *crop), dtype=np.int16) for _ in range(n_views)]
    for place, request in enumerate(requests):
        for view, (row, origin) in enumerate(zip(request.rows, request.origins, strict=True)):
            images[view][place, 0] = store.read_crop(row, origin, crop)
    return CropBatch(
        images=[torch.from_numpy(image) for image in images],
        scale=torch.from_numpy(index.scale[rows]),
        offset=torch.from_numpy(index.offset[rows]),
        origins=torch.from_numpy(origins.copy()),
        keys=torch.tensor([request.key for request in requests], dtype=torch.int64),
        indices=torch.tensor([request.index for request in requests], dtype=torch.int64),
        rows=torch.from_numpy(rows.copy()),
        spacing=torch.from_numpy(index.spacing[rows[0]]),
        sequences=torch.from_numpy(index.sequence_class[rows]),
        paired=torch.tensor([request.paired for request in requests]),
    )


class _Batches(Dataset[CropBatch | StoreError]):
    """Item k holds the global samples start + k * batch_size and on; the last item may be shorter."""

    def __init__(self, store: Store, sampler: Sampler, batch_size: int, start: int, stop: int) -> None:
        self.store, self.sampler, self.batch_size, self.start, self.stop = store, sampler, batch_size, start, stop

    def __len__(self) -> int:
        return math.ceil((self.stop - self.start) / self.batch_size)

    def __getitem__(self, k: int) -> CropBatch | StoreError:
        first = self.start + k * self.batch_size
        requests = [self.sampler.request(i) for i in range(first, min(first + self.batch_size, self.stop))]
        try:
            return load_batch(self.store, self.sampler.index, requests, self.sampler.crop)
        except StoreError as error:
            # A raised exception would reach the main process with a worker's traceback for a message.
            return error


class CropLoader(DataLoader[CropBatch]):
    """A `DataLoader` of whole batches that raises in the main process what a worker could not read."""

    def __iter__(self) -> Iterator[CropBatch]:  # type: ignore[override]
        for item in super().__iter__():
            if isinstance(item, StoreError):
                raise item
            yield item


def make_loader(
    store: Store, sampler: Sampler, *, batch_size: int, start: int, stop: int, workers: int, pin_memory: bool = False
) -> CropLoader:
    """Batches of the global samples start .. stop - 1, in order, the same for any number of workers.

    Args:
        store: where crops are read.
        sampler: says which crops.
        batch_size: samples a batch; the last batch may be shorter.
        start, stop: range of global sample indices; `start` is the samples seen so far.
        workers: processes that read ahead; 0 reads in this one.
        pin_memory: page-locked batches, for an asynchronous copy to a GPU.

    Raises:
        StoreError: while iterating, naming the file that could not be read.
    """
    return CropLoader(
        _Batches(store, sampler, batch_size, start, stop),  # type: ignore[arg-type]
        batch_size=None,
        shuffle=False,
        num_workers=workers,
        pin_memory=pin_memory,
        worker_init_fn=_start_worker if workers else None,
        # Forked workers share the index's pages; elsewhere fork is unsafe or missing, and everything pickles.
        multiprocessing_context=("fork" if sys.platform == "linux" else "spawn") if workers else None,
        # The loader would otherwise draw its workers' seeds from the global generator and so change the run.
        generator=torch.Generator(),
    )


def _start_worker(worker: int) -> None:
    """One thread a worker, and Ctrl-C is the main process's business."""
    import blosc2

    blosc2.set_nthreads(1)
    torch.set_num_threads(1)
    signal.signal(signal.SIGINT, signal.SIG_IGN)


def preview_batch(
    store: Store, index: ScanIndex, rows: Int64[np.ndarray, "_"], crop: Triple, *, n_views: int = 1, seed: int = 0
) -> CropBatch:
    """Centre crops of the foreground of given (held-out) rows: the same pictures all through a run."""
    requests = []
    for place, row in enumerate(rows.tolist()):
        low, high = origin_range(index.shape[row], crop, index.box_lo[row], index.box_hi[row])
        middle = (low + high) // 2
        origin = (int(middle[0]), int(middle[1]), int(middle[2]))
        key = sample_key(seed, place, "preview")
        requests.append(Request(place, key, (row,) * n_views, (origin,) * n_views, paired=True))
    return load_batch(store, index, requests, crop)
