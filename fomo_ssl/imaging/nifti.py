"""Safe reading and writing of one NIfTI file.

Nothing in a file is believed before it is checked: the header is held against the voxel budget and the bytes that the
file can hold before memory is asked for, and the check values of gzip streams and zip members are always verified.
"""

import contextlib
import gzip
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from nibabel.nifti1 import Nifti1Header

from fomo_ssl.core.errors import Reason, RejectedScan
from fomo_ssl.core.files import atomic_file
from fomo_ssl.core.vocabulary import Spacing
from fomo_ssl.imaging.container import Place, members, place_of
from fomo_ssl.imaging.header import Header, parse_header
from fomo_ssl.imaging.stream import PlainStream, fill, finish, header_bytes, open_plain, skip

EXTENSIONS = (".nii.gz", ".nii", ".img.gz", ".img", ".hdr.gz", ".hdr")
# Scans shrink less than this; a claim beyond it costs a pass of counting before memory is asked for.
CREDIBLE_RATIO = 50
# A few lost voxels, or NaN as background, are usable; beyond this the numbers are probably not an image.
MAX_NON_FINITE = 0.5
# No scanner delivers such a number, damaged bytes do; sums and squares of smaller ones stay finite.
LARGEST = 1e30


@dataclass(frozen=True)
class Volume:
    """One array in space.

    Attributes:
        data: (x, y, z), or (x, y, z, t) only where `read(allow_4d=True)` asked for it; float32 after scaling.
        affine: voxel -> mm RAS+, float64 (4, 4).
        notes: legal oddities met while reading.
    """

    data: np.ndarray
    affine: np.ndarray
    notes: tuple[str, ...] = ()

    @property
    def spacing(self) -> Spacing:
        """Voxel edges in mm along the array's axes."""
        x, y, z = np.linalg.norm(self.affine[:3, :3], axis=0).tolist()
        return (x, y, z)


def is_image_name(name: str) -> bool:
    """Whether a file name ends like a NIfTI or Analyze file."""
    return name.lower().endswith(EXTENSIONS)


def file_stem(name: str) -> str:
    """A file name without its NIfTI extension."""
    for extension in EXTENSIONS:
        if name.lower().endswith(extension):
            return name[: -len(extension)]
    return name


MAX_CLAIMED = 2**28
"""Voxels that a file may claim unless more are allowed: 1 GB of them as float32."""


def read(path: str | Path, *, max_voxels: int = MAX_CLAIMED, allow_4d: bool = False) -> Volume:
    """Read .nii, .nii.gz, or a .img/.hdr pair (NIfTI-1, NIfTI-2, Analyze 7.5; either byte order).

    Args:
        path: the file; for a pair either of the two; `archive.zip!member` for a file inside a zip archive.
        max_voxels: refuse larger volumes before asking for memory.
        allow_4d: return several volumes as (x, y, z, t) instead of rejecting them.

    Raises:
        RejectedScan: with the reason and the path.
    """
    with open_image(path) as image:
        header = image.header
        if len(header.shape) == 4 and not allow_4d:
            raise RejectedScan(Reason.SEVERAL_VOLUMES, f"{header.shape[3]} volumes of {header.shape[:3]}")
        check_budget(header.shape, header.voxels, max_voxels)
        check_room(image)
        stored = np.empty(header.voxels, header.dtype)
        skip(image.voxels, header.offset - image.position)
        fill(image.voxels, memoryview(stored.view(np.uint8).data))
        finish(image.voxels)
        data, notes = finite_float32(stored, header)
        return Volume(data.reshape(header.shape, order="F"), header.affine, header.notes + notes)


def read_header(path: str | Path) -> Header:
    """What a file claims, judged; its voxels are not looked at.

    Raises:
        RejectedScan: with the reason and the path.
    """
    with open_image(path) as image:
        return image.header


@dataclass(frozen=True)
class OpenImage:
    """A judged header and the stream with its voxels, which stands at byte `position`."""

    header: Header
    voxels: PlainStream
    position: int
    place: Place


@contextlib.contextmanager
def open_image(path: str | Path) -> Iterator[OpenImage]:
    """Open an image whose voxels are still to be read; every rejection inside the block gets the path.

    Raises:
        RejectedScan: with the reason and the path.
    """
    try:
        image, apart = _pair(place_of(path))
        with contextlib.ExitStack() as stack:
            voxels = stack.enter_context(open_plain(image))
            header_stream = voxels if apart is None else stack.enter_context(open_plain(apart))
            raw = header_bytes(header_stream)
            header = parse_header(raw, single_file=apart is None)
            if apart is not None:
                finish(header_stream)
            yield OpenImage(header, voxels, len(raw) if apart is None else 0, image)
    except RejectedScan as error:
        raise RejectedScan(error.reason, error.detail, where=path) from error
    except OSError as error:
        raise RejectedScan(Reason.UNREADABLE, error.strerror or str(error), where=path) from error


def _pair(place: Place) -> tuple[Place, Place | None]:
    """The file with the voxels and, for a pair, the file with the header."""
    name, lower = place.name, place.name.lower()
    if lower.endswith(".zip"):
        if place.member is None:
            members(place.path)
        raise RejectedScan(Reason.IS_ARCHIVE, "an archive, not one image")
    if not is_image_name(name):
        raise RejectedScan(Reason.NOT_NIFTI, f"name does not end in {', '.join(EXTENSIONS)}")
    if lower.endswith((".nii", ".nii.gz")):
        return place, None
    gz = name[-3:] if lower.endswith(".gz") else ""
    stem = name[: -len(".img" + gz)]
    image, header = place.sibling(f"{stem}.img{gz}"), place.sibling(f"{stem}.hdr{gz}")
    if not image.exists():
        raise RejectedScan(Reason.HEADER_WITHOUT_IMAGE, f"{image.name} is missing")
    if not header.exists():
        raise RejectedScan(Reason.BAD_HEADER, f"{header.name} is missing")
    return image, header


def check_budget(shape: tuple[int, ...], voxels: int, most: int) -> None:
    """Refuse more voxels than wanted in memory at a time.

    Raises:
        RejectedScan: TOO_LARGE.
    """
    if voxels > most:
        raise RejectedScan(Reason.TOO_LARGE, f"header claims {shape}, {voxels} voxels of {most}")


def check_room(image: OpenImage) -> None:
    """Hold the claim of a header against the bytes that the file can hold, and where it is bold, against what it holds.

    Raises:
        RejectedScan: TRUNCATED; while counting also BAD_GZIP or BAD_ZIP.
    """
    needed = image.header.offset + image.header.data_bytes
    if needed > image.voxels.most:
        what = f"header claims {needed} bytes, the file of {image.voxels.packed} cannot hold them"
        raise RejectedScan(Reason.TRUNCATED, what)
    if needed > CREDIBLE_RATIO * image.voxels.packed:
        with open_plain(image.place) as counted:
            skip(counted, needed)


def finite_float32(stored: np.ndarray, header: Header) -> tuple[np.ndarray, tuple[str, ...]]:
    """Scaled values, float32, with 0 for the few that are no numbers of an image, and a note about these.

    Raises:
        RejectedScan: NON_FINITE, too many of them.
    """
    with np.errstate(over="ignore", invalid="ignore"):
        data = stored.astype(np.float32)
        if header.slope != 1.0:
            data *= np.float32(header.slope)
        if header.inter != 0.0:
            data += np.float32(header.inter)
    largest = abs(header.slope) * 2.0 ** (8 * stored.dtype.itemsize) + abs(header.inter)
    if stored.dtype.kind != "f" and largest < LARGEST:
        return data, ()
    return data, zero_non_finite(data)


def zero_non_finite(data: np.ndarray) -> tuple[str, ...]:
    """Set the few values that are not finite, or beyond `LARGEST`, to 0, in place; returns a note about these.

    Raises:
        RejectedScan: NON_FINITE, too many of them.
    """
    bad = ~((data >= -LARGEST) & (data <= LARGEST))
    count = int(np.count_nonzero(bad))
    if not count:
        return ()
    if count > MAX_NON_FINITE * data.size:
        raise RejectedScan(Reason.NON_FINITE, f"{count} of {data.size} voxels are NaN, infinite or beyond {LARGEST:g}")
    data[bad] = 0.0
    return (f"{count} voxels NaN, infinite or beyond {LARGEST:g}: set to 0",)


def write(path: str | Path, data: np.ndarray, affine: np.ndarray) -> None:
    """Write .nii or .nii.gz, whole or not at all; the same array gives the same bytes.

    bool is stored as uint8, float16 as float32, 64-bit integers as int32 (other readers stumble over them).

    Raises:
        ValueError: the extension, or integers that do not fit 32 bits.
    """
    path = Path(path)
    if not path.name.lower().endswith((".nii", ".nii.gz")):
        raise ValueError(f"{path.name}: expected a name that ends in .nii or .nii.gz")
    stored = _storable(np.asarray(data))
    header = Nifti1Header()
    header.set_data_dtype(stored.dtype)
    header.set_data_shape(stored.shape)
    header.set_sform(affine, 1)
    header.set_qform(affine, 1)
    header.set_xyzt_units("mm", "sec")
    header["vox_offset"], header["magic"] = 352, b"n+1"
    content = header.binaryblock + b"\0\0\0\0" + stored.tobytes(order="F")
    if path.name.lower().endswith(".gz"):
        # The standard library's zlib, not isal: its bytes do not depend on the processor. Name and time stay out.
        content = gzip.compress(content, compresslevel=3, mtime=0)
    with atomic_file(path) as file:
        file.write(content)


def _storable(data: np.ndarray) -> np.ndarray:
    if data.dtype == bool:
        return data.astype(np.uint8)
    if data.dtype == np.float16:
        return data.astype(np.float32)
    if data.dtype in (np.int64, np.uint64):
        if data.size and (data.max() > np.iinfo(np.int32).max or data.min() < np.iinfo(np.int32).min):
            raise ValueError("integers beyond 32 bits")
        return data.astype(np.int32)
    return data.astype(data.dtype.newbyteorder("="), copy=False)
