"""Safe reading and writing of one NIfTI file.

Nothing in a file is believed before it is checked: the header is held against the voxel budget and the bytes that the
file can hold before memory is asked for, and the check value of a gzip stream is always verified.
"""

import gzip
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
from isal import igzip
from nibabel.nifti1 import Nifti1Header

from fomo_ssl.core.errors import Reason, RejectedScan
from fomo_ssl.core.files import atomic_file
from fomo_ssl.core.vocabulary import Spacing
from fomo_ssl.imaging.header import Header, header_size, parse_header

EXTENSIONS = (".nii.gz", ".nii", ".img.gz", ".img", ".hdr.gz", ".hdr")
# DEFLATE cannot expand further than this (RFC 1951: 258 bytes from two bits), so a small file holds no huge volume.
MAX_GZIP_RATIO = 1032
# Bytes after the last voxel are legal, but not without end.
MAX_TRAILING_BYTES = 2**26
# A few lost voxels, or NaN as background, are usable; beyond this the numbers are probably not an image.
MAX_NON_FINITE = 0.5


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


def read(path: str | Path, *, max_voxels: int = 2**28, allow_4d: bool = False) -> Volume:
    """Read .nii, .nii.gz, or a .img/.hdr pair (NIfTI-1, NIfTI-2, Analyze 7.5; either byte order).

    Args:
        path: the file; for a pair either of the two.
        max_voxels: refuse larger volumes before asking for memory.
        allow_4d: return several volumes as (x, y, z, t) instead of rejecting them.

    Raises:
        RejectedScan: with the reason and the path.
    """
    try:
        return _read(Path(path), max_voxels, allow_4d)
    except RejectedScan as error:
        raise RejectedScan(error.reason, error.detail, where=path) from error
    except OSError as error:
        raise RejectedScan(Reason.UNREADABLE, error.strerror or str(error), where=path) from error


def _read(path: Path, max_voxels: int, allow_4d: bool) -> Volume:
    image_path, header_path = _pair(path)
    if header_path is None:
        with image_path.open("rb") as file:
            stream = _plain_stream(file, image_path)
            header = parse_header(_header_bytes(stream), single_file=True)
            return _volume(stream, header, image_path, max_voxels, allow_4d, position=None)
    with header_path.open("rb") as file:
        header = parse_header(_header_bytes(_plain_stream(file, header_path)), single_file=False)
    with image_path.open("rb") as file:
        return _volume(_plain_stream(file, image_path), header, image_path, max_voxels, allow_4d, position=0)


def _pair(path: Path) -> tuple[Path, Path | None]:
    """The file with the voxels and, for a pair, the file with the header."""
    lower = path.name.lower()
    if lower.endswith(".zip"):
        raise RejectedScan(Reason.IS_ARCHIVE, "an archive, not one image")
    if not is_image_name(path.name):
        raise RejectedScan(Reason.NOT_NIFTI, f"name does not end in {', '.join(EXTENSIONS)}")
    if lower.endswith((".nii", ".nii.gz")):
        return path, None
    gz = path.name[-3:] if lower.endswith(".gz") else ""
    stem = path.name[: -len(".img" + gz)]
    image, header = path.with_name(f"{stem}.img{gz}"), path.with_name(f"{stem}.hdr{gz}")
    if not image.exists():
        raise RejectedScan(Reason.HEADER_WITHOUT_IMAGE, f"{image.name} is missing")
    if not header.exists():
        raise RejectedScan(Reason.BAD_HEADER, f"{header.name} is missing")
    return image, header


def _plain_stream(file: BinaryIO, path: Path) -> Any:
    """The uncompressed stream of an open file; name and first bytes must agree about compression."""
    start = file.read(8)
    file.seek(0)
    if not start:
        raise RejectedScan(Reason.EMPTY_FILE, "no bytes")
    if start[:4] == b"PK\x03\x04":
        raise RejectedScan(Reason.IS_ARCHIVE, "a zip archive")
    named_gzip, is_gzip = path.name.lower().endswith(".gz"), start[:2] == b"\x1f\x8b"
    if is_gzip and not named_gzip:
        raise RejectedScan(Reason.WRONG_EXTENSION, "gzip content in a file not named .gz")
    if not is_gzip and named_gzip:
        header_size(start)
        raise RejectedScan(Reason.WRONG_EXTENSION, "plain content in a file named .gz")
    return igzip.IGzipFile(fileobj=file) if is_gzip else file


def _header_bytes(stream: Any) -> bytes:
    try:
        start = stream.read(4)
        size = header_size(start)
        raw = bytes(start + stream.read(size - 4))
    except (EOFError, igzip.BadGzipFile, igzip.isal_zlib.error) as error:
        raise RejectedScan(Reason.BAD_GZIP, str(error)) from error
    if len(raw) < size:
        raise RejectedScan(Reason.TRUNCATED, f"{len(raw)} bytes, a header has {size}")
    return raw


def _volume(stream: Any, header: Header, path: Path, max_voxels: int, allow_4d: bool, position: int | None) -> Volume:
    if len(header.shape) == 4 and not allow_4d:
        raise RejectedScan(Reason.SEVERAL_VOLUMES, f"{header.shape[3]} volumes of {header.shape[:3]}")
    if header.voxels > max_voxels:
        raise RejectedScan(Reason.TOO_LARGE, f"header claims {header.shape}, {header.voxels} voxels of {max_voxels}")
    _check_room(header, path)
    stored = _voxels(stream, header, stream.tell() if position is None else position)
    data, notes = _finite_float32(stored, header)
    return Volume(data.reshape(header.shape, order="F"), header.affine, header.notes + notes)


def _check_room(header: Header, path: Path) -> None:
    size, needed = path.stat().st_size, header.offset + header.data_bytes
    possible = size * MAX_GZIP_RATIO if path.name.lower().endswith(".gz") else size
    if needed > possible:
        raise RejectedScan(Reason.TRUNCATED, f"header claims {needed} bytes, the file of {size} cannot hold them")


def _voxels(stream: Any, header: Header, position: int) -> np.ndarray:
    """Stored voxels, flat; the stream is read to its end so that the gzip check value is verified."""
    stored = np.empty(header.voxels, header.dtype)
    try:
        _skip(stream, header.offset - position)
        _fill(stream, memoryview(stored.view(np.uint8).data))
        _skip_rest(stream)
    except (igzip.BadGzipFile, igzip.isal_zlib.error) as error:
        raise RejectedScan(Reason.BAD_GZIP, str(error)) from error
    except EOFError as error:
        raise RejectedScan(Reason.TRUNCATED, str(error) or "the data ends early") from error
    return stored


def _skip(stream: Any, count: int) -> None:
    while count > 0:
        piece = stream.read(min(count, 2**20))
        if not piece:
            raise EOFError("the data ends before the first voxel")
        count -= len(piece)


def _fill(stream: Any, buffer: memoryview) -> None:
    done = 0
    while done < len(buffer):
        count = stream.readinto(buffer[done : done + 2**24])
        if not count:
            raise EOFError(f"{done} bytes of voxels, the header claims {len(buffer)}")
        done += count


def _skip_rest(stream: Any) -> None:
    done = 0
    while piece := stream.read(2**20):
        done += len(piece)
        if done > MAX_TRAILING_BYTES:
            raise RejectedScan(Reason.BAD_HEADER, f"more than {MAX_TRAILING_BYTES} bytes follow the last voxel")


def _finite_float32(stored: np.ndarray, header: Header) -> tuple[np.ndarray, tuple[str, ...]]:
    with np.errstate(over="ignore", invalid="ignore"):
        data = stored.astype(np.float32)
        if header.slope != 1.0:
            data *= np.float32(header.slope)
        if header.inter != 0.0:
            data += np.float32(header.inter)
    if stored.dtype.kind != "f" and np.isfinite(header.slope * 2.0**64):
        return data, ()
    bad = ~np.isfinite(data)
    count = int(np.count_nonzero(bad))
    if not count:
        return data, ()
    if count > MAX_NON_FINITE * data.size:
        raise RejectedScan(Reason.NON_FINITE, f"{count} of {data.size} voxels are NaN or infinite")
    data[bad] = 0.0
    return data, (f"{count} voxels NaN or infinite: set to 0",)


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
