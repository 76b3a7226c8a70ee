"""What is measured of every stored scan for the data report: its descriptor and a few shares, in one look."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from jaxtyping import Float16, Float64, Int64
from rich.console import Console

from fomo_ssl.core.vocabulary import Spacing
from fomo_ssl.corpus.cache import Cache
from fomo_ssl.corpus.codec import LEVELS, read_box
from fomo_ssl.corpus.descriptor import KEPT, describe, mask_of
from fomo_ssl.corpus.store import Store
from fomo_ssl.imaging.foreground import foreground_box

SCHEMA = pa.schema(
    [
        ("key", pa.string()),
        ("descriptor", pa.list_(pa.float16(), KEPT**3)),
        ("foreground_share", pa.float64()),
        ("foreground_ml", pa.float64()),
        ("constant_share", pa.float64()),
        ("blank_slices", pa.int64()),
    ]
)
# Change it with the method, or cached values of the old one would be taken for new.
_NAME = "scans-v1"
# A slice inside the head is blank below this fraction of the contrast that slices on both its sides reach.
_BLANK = 0.1


@dataclass(frozen=True)
class StoredFile:
    """What a worker needs to read a scan of the store."""

    path: Path
    spacing: Spacing
    background: int


@dataclass(frozen=True)
class Measurements:
    """Columns over the n rows of a store.

    Attributes:
        descriptor: see `corpus.descriptor`.
        foreground_share: of the stored box, 0 to 1.
        foreground_ml: volume of the foreground.
        constant_share: share of foreground voxels that have the most frequent value.
        blank_slices: slices along any axis inside the head that are dark or of one value.
    """

    descriptor: Float16[np.ndarray, "n k"]
    foreground_share: Float64[np.ndarray, "n"]
    foreground_ml: Float64[np.ndarray, "n"]
    constant_share: Float64[np.ndarray, "n"]
    blank_slices: Int64[np.ndarray, "n"]


def measure_store(store: Store, folder: Path, workers: int, console: Console | None = None) -> Measurements:
    """Measure all scans, or look up what was measured before under the digests of their files.

    A scan of 1 mm costs about 0.2 s of one core; a descriptor takes 2 kB, so 300,000 scans take 600 MB of disk.

    Raises:
        StoreError: a scan file is missing or damaged.
    """
    jobs = list(zip(store.index.column("file_digest").to_pylist(), stored_files(store), strict=True))
    table = Cache(folder, _NAME, SCHEMA).complete(measure, jobs, workers, "measure", console).combine_chunks()
    flat = table.column("descriptor").combine_chunks().flatten().to_numpy(zero_copy_only=False)
    numbers = [table.column(name).to_numpy() for name in SCHEMA.names[2:]]
    return Measurements(flat.reshape(len(table), KEPT**3), *numbers)


def stored_files(store: Store) -> list[StoredFile]:
    """Every scan file of a store with what is needed to look at it, in the order of the rows."""
    names = ["file", "spacing_x", "spacing_y", "spacing_z", "background"]
    columns = [store.index.column(name).to_pylist() for name in names]
    return [StoredFile(store.path / file, (x, y, z), air) for file, x, y, z, air in zip(*columns, strict=True)]


def measure(file: StoredFile) -> dict[str, Any]:
    """The cells of one scan; runs in a worker process."""
    values = read_box(file.path)
    mask = mask_of(values)
    counts = np.bincount(values[mask], minlength=LEVELS + 1)
    return {
        "descriptor": describe(values, mask, file.spacing, float(file.background)).ravel().astype(np.float16),
        "foreground_share": float(mask.mean()),
        "foreground_ml": float(mask.sum() * np.prod(file.spacing) / 1000.0),
        "constant_share": float(counts.max() / counts.sum()),
        "blank_slices": count_blank_slices(values[foreground_box(mask)], file.background),
    }


def count_blank_slices(head: np.ndarray, background: int) -> int:
    """Slices along any axis that show nothing although the head goes on on both sides.

    Args:
        head: (x, y, z), the box of the foreground.
        background: value of empty space; a slice of it, or of any one value, shows nothing.
    """
    blank = 0
    for axis in range(3):
        # Every second voxel in the plane is enough, and four times cheaper.
        plane = np.moveaxis(head, axis, 0)[:, ::2, ::2].astype(np.float32)
        shown = np.minimum(plane.std(axis=(1, 2)), np.abs(plane - background).mean(axis=(1, 2)))
        before, after = np.maximum.accumulate(shown), np.maximum.accumulate(shown[::-1])[::-1]
        blank += int((shown < _BLANK * np.minimum(before, after)).sum())
    return blank
