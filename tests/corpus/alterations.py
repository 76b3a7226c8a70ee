"""What happens to a scan on its way into a second dataset: each change on a stored volume, and what is still found."""

from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
from scipy.ndimage import zoom

from fomo_ssl.corpus.codec import LEVELS, compress, read_box
from fomo_ssl.corpus.descriptor import describe, mask_of
from fomo_ssl.corpus.duplicates import _MIRRORS, BITS, CANDIDATE, SAME_HEAD, _Look, hashes, look
from fomo_ssl.corpus.measurements import StoredFile

Change = Callable[[np.ndarray, StoredFile, np.random.Generator], tuple[np.ndarray, tuple[float, float, float]]]


def regridded(values, file, rng):
    coarser = zoom(values.astype(np.float32), (0.74, 1.1, 0.63), order=1)
    x, y, z = (e * n / m for e, n, m in zip(file.spacing, values.shape, coarser.shape, strict=True))
    return coarser, (x, y, z)


def noisy(values, file, rng):
    return values + rng.normal(0, 0.05 * LEVELS, values.shape), file.spacing


def shaded(values, file, rng):
    return values * (0.9 + 0.18 * np.linspace(-1, 1, values.shape[1])[None, :, None]), file.spacing


def padded(values, file, rng):
    return np.pad(values, ((7, 3), (2, 9), (0, 8)), constant_values=file.background), file.spacing


def mirrored(values, file, rng):
    return np.flip(values, 0), file.spacing


def upside_down(values, file, rng):
    return np.flip(values, (1, 2)), file.spacing


def cropped(percent: int) -> Change:
    def change(values, file, rng):
        axis, from_start = int(rng.integers(3)), bool(rng.integers(2))
        cut = round(values.shape[axis] * percent / 100)
        keep = slice(cut, None) if from_start else slice(None, values.shape[axis] - cut)
        return values[tuple(keep if a == axis else slice(None) for a in range(3))], file.spacing

    return change


CHANGES: dict[str, Change] = {
    "another grid": regridded,
    "noise, 5 % of the range": noisy,
    "shading, 20 % each way": shaded,
    "other margins": padded,
    "mirrored left-right": mirrored,
    "upside down and backwards": upside_down,
    "5 % cut off one side": cropped(5),
    "10 % cut off one side": cropped(10),
    "15 % cut off one side": cropped(15),
}


def found_after(
    change: Change, files: Sequence[StoredFile], originals: np.ndarray, folder: Path
) -> tuple[np.ndarray, np.ndarray]:
    """Hash distance and correlation of every scan to its changed self.

    Args:
        change: one of `CHANGES`.
        files: stored scans.
        originals: their descriptors, among which the medians of the hash are taken.
        folder: for the changed scans.
    """
    rng = np.random.default_rng(0)
    distances, correlations = [], []
    for row, file in enumerate(files):
        values, spacing = change(read_box(file.path), file, rng)
        values = np.clip(np.rint(values), 0, LEVELS).astype(np.int16)
        copy = StoredFile(folder / f"{row}.b2nd", spacing, file.background)
        copy.path.write_bytes(compress(np.ascontiguousarray(values)))
        descriptor = describe(values, mask_of(values), spacing, float(file.background)).ravel().astype(np.float16)
        words = hashes(np.concatenate([originals, descriptor[None]]))
        bits = np.bitwise_count(words[:, -1] ^ words[0, row]).sum(axis=1)
        distances.append(bits.min() / BITS)
        correlations.append(look(_Look(file, copy, _MIRRORS[int(bits.argmin())]))["correlation"])
    return np.array(distances), np.array(correlations)


def is_found(distances: np.ndarray, correlations: np.ndarray) -> np.ndarray:
    return (distances <= CANDIDATE) & (correlations >= SAME_HEAD)
