"""Where the bytes of an image lie: a file on disk, or a member of a zip archive, which is never unpacked to disk.

A member is written `archive.zip!folder/name.nii.gz`. Format: PKWARE APPNOTE 6.3; `zipfile` knows the layout and checks
names and CRC-32, the judgement about claimed sizes is made here.
"""

import contextlib
import errno
import io
import os
import struct
import zipfile
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

from fomo_ssl.core.errors import Reason, RejectedScan

_MARK = ".zip!"
# DEFLATE cannot expand further than this (RFC 1951: 258 bytes from two bits), so a small file holds no huge volume.
MAX_DEFLATE_RATIO = 1032
_END_SIGNATURE, _END_BYTES, _MAX_COMMENT, _ZIP64_COUNT = b"PK\5\6", 22, 2**16 - 1, 0xFFFF
# What `zipfile` raises over damaged archives, beside its own error: found by damaging thousands.
_DAMAGE = (
    zipfile.BadZipFile,
    zlib.error,
    EOFError,
    struct.error,
    NotImplementedError,
    RuntimeError,
    ValueError,
    OverflowError,
)


@dataclass(frozen=True)
class Content:
    """An open file or member.

    Attributes:
        stream: has `peek`, `read` and `readinto`; reading a member to its end verifies its check value.
        size: bytes that the stream holds.
        packed: bytes that they take on disk; smaller where the archive compresses.
    """

    stream: Any
    size: int
    packed: int


@dataclass(frozen=True)
class Place:
    """A file on disk, or a member of the zip archive `path`."""

    path: Path
    member: str | None = None

    @property
    def name(self) -> str:
        return self.path.name if self.member is None else PurePosixPath(self.member).name

    def sibling(self, name: str) -> "Place":
        """The file of another name in the same folder."""
        if self.member is None:
            return Place(self.path.with_name(name))
        return Place(self.path, str(PurePosixPath(self.member).with_name(name)))

    def exists(self) -> bool:
        if self.member is None:
            return self.path.exists()
        with _archive(self.path) as archive:
            return self.member in _infos(archive)

    @contextlib.contextmanager
    def open(self) -> Iterator[Content]:
        """Open for reading.

        Raises:
            RejectedScan: BAD_ZIP (also while reading the stream), UNREADABLE for a member that is not there.
            OSError: the file cannot be opened.
        """
        if self.member is None:
            size = self.path.stat().st_size
            with self.path.open("rb") as file:
                yield Content(file, size, size)
            return
        with _archive(self.path) as archive:
            info = _infos(archive).get(self.member)
            if info is None:
                raise RejectedScan(Reason.UNREADABLE, f"no member {self.member} in the archive")
            _check_claims(info, self.path.stat().st_size)
            with _damage_is_typed():
                raw = archive.open(info)
            with raw:
                yield Content(_MemberStream(raw, info.file_size), info.file_size, info.compress_size)


def place_of(path: str | Path) -> Place:
    """The place that a path means; a file on disk whose own name holds `.zip!` comes first."""
    text = str(path)
    at = text.lower().find(_MARK)
    # Not pathlib's: an archive's name with that of a long member is too long for a file, which is no error here.
    if at < 0 or os.path.exists(path):  # noqa: PTH110
        return Place(Path(path))
    end = at + len(_MARK)
    return Place(Path(text[: end - 1]), _normal(text[end:]))


def members(path: Path) -> dict[str, int]:
    """Names and sizes in bytes of the files in a zip archive, without opening their content.

    Raises:
        RejectedScan: BAD_ZIP, EMPTY_FILE.
        OSError: the archive cannot be opened.
    """
    with _archive(path) as archive:
        _check_count(path, len(archive.infolist()))
        infos = _infos(archive)
        for info in infos.values():
            # A damaged name would hide a scan: the name before the content must be that of the directory. An
            # encrypted member has no readable one, and is reported when it is read.
            if not info.flag_bits & 1:
                with _damage_is_typed():
                    archive.open(info).close()
        return {name: info.file_size for name, info in infos.items() if not info.is_dir()}


class _MemberStream(io.RawIOBase):
    """A member's bytes; damage in them is a typed rejection, and so is a length other than the archive's claim."""

    def __init__(self, raw: Any, size: int) -> None:
        self._raw, self._size, self._done = raw, size, 0

    def readable(self) -> bool:
        return True

    def peek(self, count: int) -> bytes:
        with _damage_is_typed():
            return bytes(self._raw.peek(count))

    def read(self, count: int = -1) -> bytes:
        with _damage_is_typed():
            piece = bytes(self._raw.read(count))
        self._done += len(piece)
        if not piece and count != 0 and self._done != self._size:
            raise RejectedScan(Reason.BAD_ZIP, f"the member ends after {self._done} of {self._size} bytes")
        return piece

    def readinto(self, buffer: Any) -> int:
        piece = self.read(len(buffer))
        buffer[: len(piece)] = piece
        return len(piece)


@contextlib.contextmanager
def _damage_is_typed() -> Iterator[None]:
    try:
        yield
    except _DAMAGE as error:
        raise RejectedScan(Reason.BAD_ZIP, str(error) or type(error).__name__) from error
    except OSError as error:
        # A wrong offset in the directory is a seek to before the start of the file.
        if error.errno != errno.EINVAL:
            raise
        raise RejectedScan(Reason.BAD_ZIP, "an offset in the directory is wrong") from error


@contextlib.contextmanager
def _archive(path: Path) -> Iterator[zipfile.ZipFile]:
    if path.stat().st_size == 0:
        raise RejectedScan(Reason.EMPTY_FILE, "no bytes")
    with contextlib.ExitStack() as stack:
        with _damage_is_typed():
            archive = stack.enter_context(zipfile.ZipFile(path))
        yield archive


def _check_count(path: Path, found: int) -> None:
    """Hold the members found against their number in the end record (APPNOTE 4.3.16): a wrong length in one entry of
    the directory swallows the next ones.
    """
    with path.open("rb") as file:
        file.seek(max(0, path.stat().st_size - _END_BYTES - _MAX_COMMENT))
        tail = file.read()
    end = tail[tail.rfind(_END_SIGNATURE) :]
    claimed = int.from_bytes(end[10:12], "little")
    if len(end) >= _END_BYTES and claimed not in (found, _ZIP64_COUNT):
        raise RejectedScan(Reason.BAD_ZIP, f"the directory lists {found} members, its end record {claimed}")


def _infos(archive: zipfile.ZipFile) -> dict[str, zipfile.ZipInfo]:
    """Members by a name that survives `pathlib`; of two of one name the later holds, as unzip does it."""
    return {_normal(info.filename): info for info in archive.infolist()}


def _normal(name: str) -> str:
    parts = PurePosixPath(name.replace("\\", "/")).parts
    return "/".join(part for part in parts if part != "/")


def _check_claims(info: zipfile.ZipInfo, archive_bytes: int) -> None:
    if info.flag_bits & 1:
        raise RejectedScan(Reason.BAD_ZIP, "the member is encrypted")
    if info.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
        raise RejectedScan(Reason.BAD_ZIP, f"compression method {info.compress_type}, expected 0 or 8 (deflate)")
    most = info.compress_size * (MAX_DEFLATE_RATIO if info.compress_type == zipfile.ZIP_DEFLATED else 1)
    if info.header_offset + info.compress_size > archive_bytes or info.file_size > most:
        claim = f"{info.file_size} bytes packed into {info.compress_size}"
        raise RejectedScan(Reason.BAD_ZIP, f"the archive of {archive_bytes} bytes claims {claim}")
