"""Whether the scan files of a store are still the bytes that were written.

A loader hears of a file that is missing, cut short or no blosc2 array. LZ4 has no check value: a byte that changed on a
disk or in a copy is read as other voxels more often than not.
"""

import contextlib
from dataclasses import dataclass
from pathlib import Path

from rich.console import Console
from rich.progress import track

from fomo_ssl.corpus.executors import run_local
from fomo_ssl.corpus.schema import digest
from fomo_ssl.corpus.store import Store


@dataclass(frozen=True)
class Written:
    """A scan file, and the digest of what was written into it."""

    path: Path
    digest: str


def changed_files(store: Store, workers: int, console: Console | None = None) -> list[tuple[Path, str]]:
    """The files of a store that are not what was written, in the order of their names, and what is wrong with each.

    Every file is read as a whole: about a second of a core for a gigabyte.

    Args:
        store: an open one.
        workers: processes.
        console: where progress is shown; None is silent.
    """
    columns = (store.index.column(name).to_pylist() for name in ("file", "file_digest"))
    jobs = [Written(store.path / file, wanted) for file, wanted in zip(*columns, strict=True)]
    with contextlib.closing(run_local(compare, jobs, min(workers, len(jobs)))) as verdicts:
        shown = track(verdicts, "verify", total=len(jobs), console=console, disable=console is None)
        return sorted((path, wrong) for path, wrong in shown if wrong)


def compare(file: Written) -> tuple[Path, str]:
    """A file, and what is wrong with it, empty where nothing is; runs in a worker process."""
    try:
        content = file.path.read_bytes()
    except OSError as error:
        return file.path, (error.strerror or str(error)).lower()
    return file.path, "" if digest(content) == file.digest else "not the bytes that were written"
