"""One scan from its file into the store, or into quarantine with the reason: what a worker does."""

import hashlib
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from fomo_ssl.core.errors import Reason, RejectedScan
from fomo_ssl.corpus.layouts import ScanRow
from fomo_ssl.corpus.metadata import Metadata
from fomo_ssl.corpus.schema import affine_cell, axis_cells
from fomo_ssl.corpus.store import write_scan
from fomo_ssl.imaging.canonical import CanonicalSpec, canonicalise
from fomo_ssl.imaging.nifti import Volume, read


@dataclass(frozen=True)
class Job:
    """What a worker needs to know; `source_bytes` is the size that the file had when the work was planned."""

    source: Path
    store: Path
    row: ScanRow
    source_bytes: int
    spec: CanonicalSpec
    min_slices: int


@dataclass(frozen=True)
class Outcome:
    """The verdict on one scan: index cells, or the reason and detail of its rejection."""

    row: ScanRow
    source_bytes: int
    cells: dict[str, Any] | None = None
    reason: str = ""
    detail: str = ""


def process(job: Job) -> Outcome:
    """Read, judge, bring into canonical form and write one scan; safe to repeat after a kill.

    Raises:
        OSError: the store cannot be written.
    """
    path = job.source / job.row.path
    try:
        volume = read(path)
        check_slices(volume, job.min_slices)
        canonical = canonicalise(volume, job.spec)
        digest = _file_digest(path)
    except RejectedScan as error:
        return Outcome(job.row, job.source_bytes, None, error.reason.value, error.detail)
    except Exception as error:
        error.add_note(f"while preprocessing {path}")
        raise
    extra = {
        "source_bytes": job.source_bytes,
        "source_digest": digest,
        **axis_cells("source_shape", volume.data.shape),
        "source_affine": affine_cell(volume.affine),
    }
    return Outcome(job.row, job.source_bytes, write_scan(job.store, job.row, canonical, Metadata(), extra))


def check_slices(volume: Volume, least: int) -> None:
    """Reject a scan with fewer slices along any axis than pretraining wants (FOMO300K drops those below 15).

    Raises:
        RejectedScan: TOO_FEW_SLICES.
    """
    if min(volume.data.shape) < least:
        raise RejectedScan(Reason.TOO_FEW_SLICES, f"shape {volume.data.shape}, at least {least} along each axis")


def _file_digest(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, lambda: hashlib.blake2b(digest_size=16)).hexdigest()
