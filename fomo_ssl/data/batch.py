"""From requests to a batch: crops are read scan by scan into their places, and the index tells the rest."""

from collections.abc import Mapping

import numpy as np
import torch
from jaxtyping import Int16, Int64
from torch import Tensor

from fomo_ssl.core.errors import StoreError
from fomo_ssl.core.seeding import numpy_generator, sample_key
from fomo_ssl.core.types import CropBatch, Triple
from fomo_ssl.corpus.store import Store
from fomo_ssl.data.index import ScanIndex
from fomo_ssl.data.sampling import Request, Sampler, origin_range


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
