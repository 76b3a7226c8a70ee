"""One stored scan: 12-bit integers in a chunked, compressed blosc2 file from which a crop can be cut.

Measured on 15 real scans at 1 mm, one thread, MB a scan and random 96^3 crops a second, file opened for each crop:
12 bit LZ4 5.8 and 390, 12 bit ZSTD 5.1 to 5.3 and 200, 15 bit LZ4 7.7 and 340. Twelve bits over the robust range leave
a PSNR of 84 dB (at least 83), far below the noise of any scan; scanners themselves deliver 12 bits. No other shape of
chunks and blocks, and no other level of LZ4, reads faster (docs/benchmarks.md). The low bits of a noisy scan do not
compress: one that would be larger than `LARGEST` is rounded to fewer of them.
"""

import contextlib
import math
import mmap
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from fomo_ssl.core.errors import StoreError
from fomo_ssl.imaging.canonical import CanonicalVolume

BITS, LEAST_BITS = 12, 8
"""Eight over the robust range leave 59 dB. A step is then about the noise of a scan, and adds 4 % to it (8 at most)."""
LEVELS = 2**BITS - 1
NOT_VALID = 4096
"""The bit above the intensity, set in voxels that do not count: they cost no file, no read and hardly a byte."""
LARGEST = 8_000_000
"""Bytes of a scan of 1 mm voxels; finer voxels have as much more room as there are more of them."""
CHUNK, BLOCK = 64, 16
_COPY = 0.3  # what it costs to copy a voxel, beside decompressing it
EXTENSION = ".b2nd"

Box = tuple[slice, slice, slice]
"""Part of a scan along x, y, z: starts and stops inside it, step 1."""


@dataclass(frozen=True)
class StoredScan:
    """A scan as integers; normalised intensity = values * scale + offset.

    Attributes:
        values: (x, y, z) int16 in 0 to 4095; plus `NOT_VALID` in voxels that do not count.
        background: the value of empty space.
    """

    values: np.ndarray
    scale: float
    offset: float
    background: int


def quantise(canonical: CanonicalVolume) -> StoredScan:
    """Map the robust range [low, high] to 0 to 4095; what lies outside is clipped."""
    stats = canonical.stats
    step = (stats.high - stats.low) / LEVELS
    values = np.clip(canonical.data, np.float32(stats.low), np.float32(stats.high))
    values -= np.float32(stats.low)
    values *= np.float32(1 / step)
    background = float(np.clip((canonical.background - stats.low) / step, 0, LEVELS))
    stored = np.rint(values, out=values).astype(np.int16)
    if canonical.valid is not None:
        stored |= np.where(canonical.valid, np.int16(0), np.int16(NOT_VALID))
    return StoredScan(stored, step / stats.std, (stats.low - stats.mean) / stats.std, round(background))


def compress_within(stored: StoredScan, limit: float) -> tuple[StoredScan, bytes, int]:
    """Compress a scan to at most `limit` bytes, with as many bits as fit and at least `LEAST_BITS`.

    Returns:
        The scan as it was compressed, the bytes, and the bits.
    """
    for bits in range(BITS, LEAST_BITS - 1, -1):
        rounded = round_to(stored, bits)
        content = compress(rounded.values)
        if len(content) <= limit:
            break
    return rounded, content, bits


def round_to(stored: StoredScan, bits: int) -> StoredScan:
    """The same range in fewer levels: bits below them are zero, for which bit shuffle and LZ4 spend nothing."""
    drop = BITS - bits
    if not drop:
        return stored

    half, most = 1 << drop >> 1, LEVELS >> drop
    flags = stored.values & np.int16(NOT_VALID)
    values = np.minimum(((stored.values & np.int16(LEVELS)) + half) >> drop, most) << drop
    background = min((stored.background + half) >> drop, most) << drop
    return replace(stored, values=(values | flags).astype(np.int16), background=background)


def compress(values: np.ndarray) -> bytes:
    """The bytes of a blosc2 file (a contiguous frame); the same array gives the same bytes."""
    import blosc2

    chunks, blocks = (tuple(min(edge, size) for size in values.shape) for edge in (CHUNK, BLOCK))
    parameters = blosc2.CParams(
        codec=blosc2.Codec.LZ4, clevel=5, filters=[blosc2.Filter.BITSHUFFLE], typesize=2, nthreads=1
    )
    return bytes(blosc2.asarray(values, chunks=chunks, blocks=blocks, cparams=parameters).to_cframe())


def read_box(path: Path, box: Box | None = None) -> np.ndarray:
    """A box of a stored scan (all of it without one), int16 in 0 to 4095.

    Raises:
        StoreError: the file is missing or damaged.
    """
    return intensities(read_flagged(path, box))


def intensities(values: np.ndarray) -> np.ndarray:
    """Stored values without the flag, in place."""
    values &= np.int16(LEVELS)
    return values


def read_flagged(path: Path, box: Box | None = None) -> np.ndarray:
    """As `read_box`, with `NOT_VALID` in the voxels that do not count.

    Raises:
        StoreError: the file is missing or damaged.
    """
    with _named_damage(path):
        array = _open(path)
        return np.asarray(array[:] if box is None else array[box])


def read_into(path: Path, boxes: Sequence[Box], targets: Sequence[np.ndarray]) -> None:
    """Several boxes of a stored scan, as `read_flagged` gives them, written where they are wanted.

    The file is opened once. A target that lies in memory in one piece is decompressed into, without a copy; where boxes
    overlap so much that it is less work, what is around all of them is decompressed once and cut.

    Args:
        path: the stored scan.
        boxes: none of them empty.
        targets: int16 arrays of the boxes' shapes.

    Raises:
        StoreError: the file is missing or damaged.
    """
    hull = tuple(slice(min(s.start for s in axis), max(s.stop for s in axis)) for axis in zip(*boxes, strict=True))
    cut = _COPY * sum(target.size for target in targets)
    with _named_damage(path):
        array = _open(path)
        if _decoded(hull) + cut < sum(map(_decoded, boxes)):
            around = _decode(array, hull)
            for box, target in zip(boxes, targets, strict=True):
                x, y, z = (slice(s.start - h.start, s.stop - h.start) for s, h in zip(box, hull, strict=True))
                target[:] = around[x, y, z]
            return
        for box, target in zip(boxes, targets, strict=True):
            if target.flags.c_contiguous:
                _decode(array, box, target)
            else:
                target[:] = _decode(array, box)


def _decode(array: Any, box: tuple[slice, ...], target: np.ndarray | None = None) -> np.ndarray:
    """A box of an open scan, decompressed into `target` where there is one.

    Raises:
        ValueError: the box is not inside the array; slicing would cut it short, and the file's padding is no scan.
    """
    if any(s.stop > n for s, n in zip(box, array.shape, strict=True)):
        raise ValueError(f"its shape is {array.shape}, which is not what the index says")
    if target is None:
        target = np.empty([s.stop - s.start for s in box], np.int16)
    return np.asarray(array.get_slice_numpy(target, ([s.start for s in box], [s.stop for s in box])))


def _decoded(box: tuple[slice, ...]) -> int:
    """Voxels of the blocks that a box touches: what decompressing it costs."""
    return math.prod(BLOCK * (-(-s.stop // BLOCK) - s.start // BLOCK) for s in box)


def _open(path: Path) -> Any:
    """The scan of a file that is mapped into memory, which it keeps alive.

    Not by blosc2.open: its own mapping loses 32 bytes at every opening (4.14), and reading without one opens the file
    for every block, which a network disk pays for.
    """
    import blosc2

    with path.open("rb") as file:
        content = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
    array = blosc2.ndarray_from_cframe(content, copy=False)
    array.content = content
    return array


@contextlib.contextmanager
def _named_damage(path: Path) -> Iterator[None]:
    """Turn what goes wrong in a scan file into an error that names the file."""
    try:
        yield
    except Exception as error:  # whatever blosc2's parsers meet: a SyntaxError where the data type is damaged
        what = "missing" if not path.exists() else f"cannot be read ({error})"
        raise StoreError(f"scan file {what}", where=path, way_out="Run preprocess again into a new store") from error
