"""Scans that show the same head: candidates by a perceptual hash, decided by looking at both.

The hash of a scan has 512 bits: which of its 8^3 lowest cosine coefficients lie above their median over the corpus
(a 3D form of the DCT hash of images: Zauner 2010, "Implementation and benchmarking of perceptual image hash
functions"). A mirrored scan has coefficients of other signs, so its hash is computed and not measured. Whether a pair
is one head is then decided on fine detail, where two people differ: the greatest correlation of both scans at 3 mm,
without what is coarser than about 12 mm, over shifts of up to 30 mm.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from jaxtyping import Float16, Int64, UInt64
from rich.console import Console
from scipy.fft import irfftn, rfftn
from scipy.ndimage import gaussian_filter

from fomo_ssl.corpus.cache import Cache
from fomo_ssl.corpus.codec import read_box
from fomo_ssl.corpus.descriptor import KEPT, head_grid, mask_of, reorientation
from fomo_ssl.corpus.measurements import StoredFile

BITS, _SIDE = 512, 8
CANDIDATE = 0.2
"""Share of differing bits up to which a pair is looked at; measured in docs/how-to/check_your_data.md."""

SAME_HEAD = 0.75
"""Correlation from which a pair is one head; measured there too."""

# Up to here all pairs are compared; above, only neighbours in sorted tables.
_ALL_PAIRS = 2048
_TABLES, _NEIGHBOURS = 48, 8
# Medians of fewer scans are noise: then bits are signs.
_ENOUGH = 30
_MEDIAN_SCANS = 20_000
_NO_MIRROR = (False, False, False)
_MIRRORS = tuple((x, y, z) for x in (False, True) for y in (False, True) for z in (False, True))
_FINE_GRID, _FINE_MM, _DETAIL, _SHIFT = 64, 3.0, 2.0, 10
_SCHEMA = pa.schema([("key", pa.string()), ("correlation", pa.float64())])
_NAME = "pairs-v1"


@dataclass(frozen=True, order=True)
class Pair:
    """Two rows, the first before the second; the second looks like the first once its axes in `mirror` are flipped."""

    first: int
    second: int
    mirror: tuple[bool, bool, bool]
    distance: float
    correlation: float = float("nan")


@dataclass(frozen=True)
class _Look:
    first: StoredFile
    second: StoredFile
    mirror: tuple[bool, bool, bool]


def hashes(descriptor: Float16[np.ndarray, "n k"]) -> UInt64[np.ndarray, "8 n 8"]:
    """The hash of every scan in its 8 mirrored forms (the first is the scan itself), as 8 words of 64 bits."""
    inside = (np.indices((KEPT,) * 3) < _SIDE).all(axis=0).ravel()
    coefficients = descriptor[:, inside].astype(np.float32)
    median = np.zeros(BITS, np.float32)
    if len(coefficients) >= _ENOUGH:
        median = np.median(coefficients[:: max(1, len(coefficients) // _MEDIAN_SCANS)], axis=0)
    forms = []
    for mirror in _MIRRORS:
        _, signs = reorientation((0, 1, 2), mirror, _SIDE)
        packed = np.packbits(coefficients * signs > median, axis=1)
        forms.append(np.ascontiguousarray(packed).view(np.uint64))
    return np.stack(forms)


def candidates(words: UInt64[np.ndarray, "8 n 8"]) -> list[Pair]:
    """Pairs whose hashes differ in at most `CANDIDATE` of their bits in one mirrored form, each with its nearest form.

    Up to 2,048 scans all pairs are compared. Above, every scan is listed in all 8 forms; the list is sorted 48 times by
    64 randomly chosen bits, and each entry compared with its next 8 neighbours (sorted lists of permuted bits: Charikar
    2002, doi 10.1145/509907.509965). That is O(48 n log n) time and O(n) memory.
    """
    limit = round(CANDIDATE * BITS)
    found = _among_all(words, limit) if words.shape[1] <= _ALL_PAIRS else _among_neighbours(words, limit)
    nearest: dict[tuple[int, int], tuple[int, int]] = {}
    for block in found:
        for first, second, mirror, bits in block.tolist():
            key, value = (first, second), (bits, mirror)
            nearest[key] = min(nearest.get(key, value), value)
    return [Pair(*key, _MIRRORS[mirror], bits / BITS) for key, (bits, mirror) in sorted(nearest.items())]


def confirm(
    pairs: list[Pair], files: list[StoredFile], digests: list[str], folder: Path, workers: int, console: Console | None
) -> list[Pair]:
    """The pairs that are one head, with their correlations; what was decided before is looked up by file digests."""
    keys = [f"{digests[p.first]} {digests[p.second]} {_MIRRORS.index(p.mirror)}" for p in pairs]
    looks = [_Look(files[p.first], files[p.second], p.mirror) for p in pairs]
    table = Cache(folder, _NAME, _SCHEMA).complete(
        look, list(zip(keys, looks, strict=True)), workers, "compare", console
    )
    decided = zip(pairs, table.column("correlation").to_pylist(), strict=True)
    return [Pair(p.first, p.second, p.mirror, p.distance, value) for p, value in decided if value >= SAME_HEAD]


def look(pair: _Look) -> dict[str, Any]:
    """The correlation of a pair's details; runs in a worker process."""
    return {"correlation": correlation(_detail(pair.first, _NO_MIRROR), _detail(pair.second, pair.mirror))}


def correlation(first: np.ndarray, second: np.ndarray) -> float:
    """Greatest correlation of two equal grids of mean 0 and variance 1 over shifts of up to 30 mm along each axis."""
    shifts = np.r_[0 : _SHIFT + 1, -_SHIFT:0]
    products = irfftn(rfftn(first) * np.conj(rfftn(second)), s=first.shape)[np.ix_(shifts, shifts, shifts)]
    return float(products.max()) / first.size


def groups(pairs: list[Pair]) -> list[list[int]]:
    """Rows that are linked by pairs, each group and the groups in row order."""
    root: dict[int, int] = {}

    def top(row: int) -> int:
        while (above := root.setdefault(row, row)) != row:
            row = above
        return row

    for pair in pairs:
        one, other = sorted((top(pair.first), top(pair.second)))
        root[other] = one
    members: dict[int, list[int]] = {}
    for row in sorted(root):
        members.setdefault(top(row), []).append(row)
    return sorted(members.values())


def _detail(file: StoredFile, mirror: tuple[bool, bool, bool]) -> np.ndarray:
    values = read_box(file.path)
    values = np.flip(values, tuple(axis for axis in range(3) if mirror[axis]))
    grid = head_grid(values, mask_of(values), file.spacing, float(file.background), _FINE_GRID, _FINE_MM)
    detail = grid - gaussian_filter(grid, _DETAIL)
    deviation = float(detail.std())
    return np.asarray((detail - detail.mean()) / deviation if deviation > 0 else np.zeros_like(detail))


def _among_all(words: UInt64[np.ndarray, "8 n 8"], limit: int) -> Iterator[Int64[np.ndarray, "k 4"]]:
    """Blocks of (first, second, mirror, differing bits): the plain way."""
    for row in range(words.shape[1] - 1):
        bits = np.bitwise_count(words[:, row + 1 :] ^ words[0, row]).sum(axis=2, dtype=np.int64)
        mirror, later = np.nonzero(bits <= limit)
        yield np.stack([np.full(len(later), row), row + 1 + later, mirror, bits[mirror, later]], axis=1)


def _among_neighbours(words: UInt64[np.ndarray, "8 n 8"], limit: int) -> Iterator[Int64[np.ndarray, "k 4"]]:
    n = words.shape[1]
    flat = words.reshape(8 * n, 8)
    rng = np.random.default_rng(0)
    for _ in range(_TABLES):
        order = np.argsort(_sort_key(flat, rng.permutation(BITS)[:64]))
        listed = flat[order]
        for step in range(1, _NEIGHBOURS + 1):
            bits = np.bitwise_count(listed[:-step] ^ listed[step:]).sum(axis=1, dtype=np.int64)
            near = np.flatnonzero(bits <= limit)
            one, other = order[near], order[near + step]
            first, second = np.minimum(one % n, other % n), np.maximum(one % n, other % n)
            # Flipping both scans changes nothing: what counts is in which axes their forms differ.
            block = np.stack([first, second, (one // n) ^ (other // n), bits[near]], axis=1)
            yield block[first < second]


def _sort_key(flat: UInt64[np.ndarray, "m 8"], chosen: Int64[np.ndarray, "64"]) -> UInt64[np.ndarray, "m"]:
    key: np.ndarray = np.zeros(len(flat), np.uint64)
    for bit in chosen.tolist():
        key = key << np.uint64(1) | (flat[:, bit // 64] >> np.uint64(bit % 64)) & np.uint64(1)
    return key
