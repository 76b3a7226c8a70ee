"""Where a run's batches come from: a store, split by subject, as one stream of samples that can begin anywhere."""

import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from fomo_ssl.core.errors import StoreError
from fomo_ssl.core.seeding import numpy_generator
from fomo_ssl.core.seen import SeenData, file_id
from fomo_ssl.core.types import CropBatch, Triple, ViewSpec
from fomo_ssl.corpus.store import Store
from fomo_ssl.data.batch import preview_batch
from fomo_ssl.data.index import ScanIndex, Split, excluded_scans, sampling_weights, select_sequences, split_by_subject
from fomo_ssl.data.loader import Transport, UnreadableScan, make_loader
from fomo_ssl.data.sampling import Sampler
from fomo_ssl.training.ranks import ALONE, Ranks

PREVIEW_CROPS = 8


@dataclass(frozen=True)
class DataConfig:
    """What is drawn from the store, and how it is read.

    Attributes:
        held_out: fraction (float) or number (int) of subjects kept out of training.
        sequences: names of the sequences to use; None takes all.
        dataset_weights, sequence_weights: relative weights of scans; with any, samples are drawn with replacement.
        exclude: CSV of scans to leave out, by the columns `path` and `volume`, or else by `dataset` and `subject`; the
            split of the others does not change.
        crops_per_scan: samples in a row that come from one scan.
        workers: processes that read ahead; the batches do not depend on it.
        transport: how crops come from them, see `data.loader`; the batches do not depend on it.
        max_unreadable: scans that may be missing or damaged before the run stops; up to there each is reported and
            replaced by another draw.
    """

    held_out: float | int = 0.05
    sequences: tuple[str, ...] | None = None
    dataset_weights: Mapping[str, float] = field(default_factory=dict)
    sequence_weights: Mapping[str, float] = field(default_factory=dict)
    exclude: Path | None = None
    crops_per_scan: int = 1
    workers: int = 2
    transport: Transport = "auto"
    max_unreadable: int = 10


@dataclass(frozen=True)
class CropSource:
    """An open store with its split and sampler."""

    store: Store
    index: ScanIndex
    split: Split
    sampler: Sampler
    workers: int
    transport: Transport
    seed: int
    excluded: np.ndarray

    @classmethod
    def open(cls, path: Path, data: DataConfig, views: ViewSpec, crop: Triple, seed: int) -> "CropSource":
        """Open a store for an objective.

        Raises:
            StoreError: no whole store there.
            ConfigError: the settings leave nothing to train on, or name what the store does not hold.
        """
        store = Store.open(path)
        index = ScanIndex.of(store)
        split = split_by_subject(index, data.held_out, seed)
        if data.sequences is not None:
            names = list(data.sequences)
            kept = (select_sequences(index, rows, names) for rows in (split.train, split.held_out))
            split = Split(*kept)
        excluded = np.array([], dtype=np.int64) if data.exclude is None else excluded_scans(store, data.exclude)
        split = Split(*(rows[~np.isin(rows, excluded)] for rows in (split.train, split.held_out)))
        weighted = bool(data.dataset_weights or data.sequence_weights)
        weights = sampling_weights(index, split.train, data.dataset_weights, data.sequence_weights)
        sampler = Sampler(index, split.train, views, crop, seed, weights if weighted else None, data.crops_per_scan)
        return cls(store, index, split, sampler, data.workers, data.transport, seed, excluded)

    def stream(
        self,
        batch_size: int,
        steps: int,
        start: int,
        on_unreadable: Callable[[UnreadableScan], None],
        ranks: Ranks = ALONE,
        pin_memory: bool = False,
    ) -> "SampleStream":
        """Global samples `start` .. `steps * batch_size` - 1 in batches, of which each rank reads its own part.

        `pin_memory` is for training on a GPU, see `make_loader`.
        """
        own = batch_size // ranks.world

        def batches(first: int) -> Iterable[CropBatch]:
            return make_loader(
                self.store,
                self.sampler,
                batch_size=own,
                start=first + ranks.rank * own,
                stop=steps * batch_size,
                stride=batch_size,
                workers=self.workers,
                transport=self.transport,
                pin_memory=pin_memory,
                on_unreadable=on_unreadable,
            )

        return SampleStream(batches, steps, start)

    def held_out_batch(self, on_unreadable: Callable[[StoreError], None]) -> CropBatch | None:
        """Centre crops of a few held-out scans, the same all through a run; None where nobody is held out.

        Scans that cannot be read are told and left out.
        """
        rows, files = self.split.held_out, self.store.index.column("file")
        while len(rows):
            chosen = rows[np.unique(np.linspace(0, len(rows) - 1, PREVIEW_CROPS).round().astype(int))]
            sampler = Sampler(self.index, rows, self.sampler.views, self.sampler.crop, self.seed)
            try:
                return preview_batch(self.store, sampler, chosen)
            except StoreError as error:
                lost = [str(self.store.path / files[row].as_py()) == error.where for row in rows.tolist()]
                if not any(lost):
                    raise
                on_unreadable(error)
                rows = rows[~np.array(lost)]
        return None

    def looked_at(self, count: int) -> Split:
        """Up to `count` scans of training subjects and as many of held-out ones, the same all through a run.

        Every subject gives one scan before any gives a second, so that the scans are of as many subjects as there are.
        """
        drawn = []
        for side, rows in (("train", self.split.train), ("held_out", self.split.held_out)):
            shuffled = numpy_generator(self.seed, stream=f"health/{side}").permutation(rows)
            by_subject = np.argsort(self.index.subject[shuffled], kind="stable")
            _, starts, sizes = np.unique(
                self.index.subject[shuffled][by_subject], return_index=True, return_counts=True
            )
            turn = np.empty(len(rows), dtype=np.int64)
            turn[by_subject] = np.arange(len(rows)) - np.repeat(starts, sizes)
            drawn.append(shuffled[np.argsort(turn, kind="stable")][:count])
        return Split(*drawn)

    def centre_crops(self, rows: np.ndarray) -> CropBatch:
        """One crop of each row, at the centre of its foreground.

        Raises:
            StoreError: one of them cannot be read.
        """
        return preview_batch(self.store, Sampler(self.index, rows, ViewSpec(), self.sampler.crop, self.seed), rows)

    def name_scans(self, batch: CropBatch) -> str:
        """dataset/subject/session/sequence of every scan of a batch."""
        columns = [self.store.index.column(name) for name in ("dataset", "subject", "session", "sequence")]
        rows = dict.fromkeys(batch.rows.flatten().tolist())
        return ", ".join("/".join(str(column[row].as_py()) for column in columns) for row in rows)

    def seen(self) -> SeenData:
        """What training may draw from: all scans of the subjects of whom any scan has a weight above zero."""
        rows = self.split.train
        drawn = np.unique(self.index.subject[rows[self.sampler.drawn]])
        digests = self.store.index.column("source_digest").take(rows[np.isin(self.index.subject[rows], drawn)])
        # Scans that were added from memory have no file.
        files = np.array([file_id(digest) for digest in digests.to_pylist() if digest], dtype=np.int64)
        return SeenData(np.sort(drawn.view(np.int64)), np.unique(files))

    @property
    def sequences(self) -> tuple[str, ...]:
        """Names of the sequences trained on, sorted."""
        codes = np.unique(self.index.sequence[self.split.train])
        return tuple(sorted(self.index.sequence_names[code] for code in codes))

    def summary(self) -> dict[str, Any]:
        """What the run is trained on, for records and model cards."""
        train = self.split.train
        datasets = np.unique(self.index.dataset[train])
        return {
            "data_fingerprint": self.store.fingerprint,
            "scans": len(train),
            "excluded_scans": len(self.excluded),
            "subjects": len(np.unique(self.index.subject[train])),
            "datasets": [self.index.dataset_names[code] for code in datasets],
            "held_out_subjects": len(np.unique(self.index.subject[self.split.held_out])),
        }


class SampleStream:
    """What Lightning takes for its one, resumable, training loader.

    It always has the length of the whole run: Lightning counts the batches done before a resume as done in this loader,
    and would end the run early if the loader held only the rest.

    Args:
        batches: gives the batches from one global sample on.
        steps: batches in the whole run.
        start: samples seen so far.

    Attributes:
        waited: seconds that training waited for a batch, so far.
    """

    def __init__(self, batches: Callable[[int], Iterable[CropBatch]], steps: int, start: int) -> None:
        self.batches, self.steps, self.start = batches, steps, start
        self.waited = 0.0

    def __len__(self) -> int:
        return self.steps

    def __iter__(self) -> Iterator[CropBatch]:
        batches = iter(self.batches(self.start))
        while True:
            asked = time.perf_counter()
            batch = next(batches, None)
            self.waited += time.perf_counter() - asked
            if batch is None:
                return
            yield batch

    def state_dict(self) -> dict[str, Any]:
        """Nothing: `samples_seen` is the position. Lightning asks, to know that the loader may begin anywhere."""
        return {}

    def load_state_dict(self, state_dict: Mapping[str, Any]) -> None:
        """Nothing: see `state_dict`."""
