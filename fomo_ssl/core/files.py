"""Files and folders that are either whole or not there: write beside the target, flush to disk, rename.

The temporary name lies in the target's own folder, so that the rename never crosses a file system: a move that copies
can be torn by a kill (Lightning's own save tears that way).
"""

import contextlib
import json
import os
import secrets
import shutil
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Any

_STRAY = ".partial-"


@contextlib.contextmanager
def atomic_file(path: Path) -> Iterator[IO[bytes]]:
    """A binary file that appears under `path` when the block ends without an error, and not at all otherwise."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = _beside(path)
    try:
        with temporary.open("wb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
        sync_folder(path.parent)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise


@contextlib.contextmanager
def atomic_folder(path: Path) -> Iterator[Path]:
    """An empty folder to fill, which takes the place of `path` when the block ends without an error."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = _beside(path)
    temporary.mkdir()
    try:
        yield temporary
        _sync_tree(temporary)
        if path.exists():
            # A folder cannot be renamed onto a full one: the old one steps aside first.
            old = temporary.with_name(f"{temporary.name}-old")
            path.rename(old)
            temporary.rename(path)
            shutil.rmtree(old)
        else:
            temporary.rename(path)
        sync_folder(path.parent)
    except BaseException:
        shutil.rmtree(temporary, ignore_errors=True)
        raise


def write_text(path: Path, text: str) -> None:
    """Write a whole UTF-8 text file or nothing."""
    with atomic_file(path) as file:
        file.write(text.encode())


def write_json(path: Path, value: Any) -> None:
    """Write a whole, indented JSON file or nothing; keys keep their order."""
    write_text(path, json.dumps(value, indent=2, ensure_ascii=False) + "\n")


def remove_strays(folder: Path) -> None:
    """Delete what killed writers left in `folder`; only for folders that one process writes at a time."""
    for stray in folder.glob("*"):
        if not is_stray(stray):
            continue
        if stray.is_dir():
            shutil.rmtree(stray, ignore_errors=True)
        else:
            stray.unlink(missing_ok=True)


def is_stray(path: Path) -> bool:
    """Whether this is what a writer that was killed left, or one that still works."""
    return path.name.startswith(".") and _STRAY in path.name


@contextlib.contextmanager
def exclusive(folder: Path, patience: float = 0.0) -> Iterator[None]:
    """One process at a time in this block: a lock on the folder itself leaves no file behind and ends with its holder.

    Where the file system has no such locks (NFS has none on folders), a line on standard error says so.

    Args:
        folder: an existing one.
        patience: seconds to wait for the other process.

    Raises:
        BlockingIOError: another process, on this machine or on one that shares its locks, is in the block.
    """
    import fcntl

    descriptor = os.open(folder, os.O_RDONLY)
    try:
        until = time.monotonic() + patience
        while True:
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError:
                if time.monotonic() >= until:
                    raise
                time.sleep(0.1)
            except OSError as error:
                what = f"{folder} cannot be locked here ({os.strerror(error.errno or 0)})"
                print(f"fomo_ssl: {what}: start no second run that writes it", file=sys.stderr)
                break
        yield
    finally:
        os.close(descriptor)


def sync_folder(folder: Path) -> None:
    """Flush a folder's entries, so that a rename in it survives a power cut."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _beside(path: Path) -> Path:
    # The number of a process alone is no name of its own: other machines and containers have it too.
    return path.with_name(f".{path.name}{_STRAY}{os.getpid()}-{secrets.token_hex(4)}")


def _sync_tree(folder: Path) -> None:
    for entry in sorted(folder.rglob("*")):
        if entry.is_dir():
            sync_folder(entry)
        else:
            with entry.open("rb") as file:
                os.fsync(file.fileno())
    sync_folder(folder)
