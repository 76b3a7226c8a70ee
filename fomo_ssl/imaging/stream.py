"""The uncompressed bytes of an image file, read in pieces into memory that was asked for only after checks."""

import contextlib
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from isal import igzip

from fomo_ssl.core.errors import Reason, RejectedScan
from fomo_ssl.imaging.container import MAX_DEFLATE_RATIO, Place
from fomo_ssl.imaging.header import header_size

# Bytes after the last voxel are legal, but not without end.
MAX_TRAILING_BYTES = 2**26
_PIECE = 2**20


@dataclass(frozen=True)
class PlainStream:
    """The content of an image file without its compression.

    Attributes:
        stream: the bytes from the first.
        base: the stream below the compression; the same where there is none.
        most: no more bytes than these can come, by the size of the file.
        packed: bytes of the file, or of the member within its archive.
    """

    stream: Any
    base: Any
    most: int
    packed: int


@contextlib.contextmanager
def open_plain(place: Place) -> Iterator[PlainStream]:
    """Open an image file; its name and its first bytes must agree about compression.

    Raises:
        RejectedScan: EMPTY_FILE, IS_ARCHIVE, WRONG_EXTENSION, NOT_NIFTI or BAD_ZIP.
        OSError: the file cannot be opened.
    """
    with place.open() as content:
        start = content.stream.peek(16)[:16]
        if not start:
            raise RejectedScan(Reason.EMPTY_FILE, "no bytes")
        if start[:4] == b"PK\x03\x04":
            raise RejectedScan(Reason.IS_ARCHIVE, "a zip archive")
        named_gzip, is_gzip = place.name.lower().endswith(".gz"), start[:2] == b"\x1f\x8b"
        if is_gzip and not named_gzip:
            raise RejectedScan(Reason.WRONG_EXTENSION, "gzip content in a file not named .gz")
        if not is_gzip and named_gzip:
            header_size(start)
            raise RejectedScan(Reason.WRONG_EXTENSION, "plain content in a file named .gz")
        if is_gzip:
            # Of the packed size, though gzip in deflate could expand twice: only empty volumes come near it once.
            most = content.packed * MAX_DEFLATE_RATIO
            yield PlainStream(igzip.IGzipFile(fileobj=content.stream), content.stream, most, content.packed)
        else:
            yield PlainStream(content.stream, content.stream, content.size, content.packed)


def header_bytes(plain: PlainStream) -> bytes:
    """The header at the start of a stream.

    Raises:
        RejectedScan: NOT_NIFTI, TRUNCATED, BAD_GZIP.
    """
    with _damage_is_typed():
        start = plain.stream.read(4)
        size = header_size(start)
        raw = bytes(start + plain.stream.read(size - len(start)))
    if len(raw) < size:
        raise RejectedScan(Reason.TRUNCATED, f"{len(raw)} bytes, a header has {size}")
    return raw


def skip(plain: PlainStream, count: int) -> None:
    """Read past bytes.

    Raises:
        RejectedScan: TRUNCATED, BAD_GZIP.
    """
    with _damage_is_typed():
        while count > 0:
            piece = plain.stream.read(min(count, _PIECE))
            if not piece:
                raise EOFError("the data ends before the last voxel")
            count -= len(piece)


def fill(plain: PlainStream, buffer: memoryview) -> None:
    """Read exactly as many bytes as a buffer has.

    Raises:
        RejectedScan: TRUNCATED, BAD_GZIP.
    """
    done = 0
    with _damage_is_typed():
        while done < len(buffer):
            # Decoders ask for a piece's memory before they know that there is content for it.
            count = plain.stream.readinto(buffer[done : done + _PIECE])
            if not count:
                raise EOFError(f"{done} bytes of voxels, the header claims {len(buffer)}")
            done += count


def finish(plain: PlainStream) -> None:
    """Read to the end, so that every check value on the way is verified.

    Raises:
        RejectedScan: BAD_GZIP, TRUNCATED, BAD_ZIP, or BAD_HEADER where too much follows the last voxel.
    """
    done = 0
    with _damage_is_typed():
        for stream in (plain.stream, plain.base):
            while piece := stream.read(_PIECE):
                done += len(piece)
                if done > MAX_TRAILING_BYTES:
                    raise RejectedScan(Reason.BAD_HEADER, f"more than {MAX_TRAILING_BYTES} bytes follow the last voxel")


@contextlib.contextmanager
def _damage_is_typed() -> Iterator[None]:
    """Errors of the gzip layer, and streams that merely stop, as rejections."""
    try:
        yield
    except (igzip.BadGzipFile, igzip.isal_zlib.error) as error:
        raise RejectedScan(Reason.BAD_GZIP, str(error)) from error
    except EOFError as error:
        raise RejectedScan(Reason.TRUNCATED, str(error) or "the data ends early") from error
