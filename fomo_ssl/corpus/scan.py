"""The scans of one file into the store, or into quarantine with the reason: what a worker does."""

import hashlib
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from fomo_ssl.core.errors import Reason, RejectedScan
from fomo_ssl.corpus.diffusion import Part, plan_series
from fomo_ssl.corpus.layouts import ScanRow
from fomo_ssl.corpus.masks import Mask, use_masks
from fomo_ssl.corpus.metadata import Metadata
from fomo_ssl.corpus.schema import affine_cell, axis_cells
from fomo_ssl.corpus.store import write_scan
from fomo_ssl.imaging.canonical import CanonicalSpec, canonicalise
from fomo_ssl.imaging.container import place_of
from fomo_ssl.imaging.nifti import MAX_CLAIMED, Volume, read, read_header
from fomo_ssl.imaging.series import read_sums


@dataclass(frozen=True)
class Job:
    """What a worker needs to know; `source_bytes` is the size that the file had when the work was planned, `masks` are
    those of every scan in the file, `max_voxels` the most that a file may claim before memory is asked for.
    """

    source: Path
    store: Path
    row: ScanRow
    source_bytes: int
    spec: CanonicalSpec
    min_slices: int
    masks: tuple[Mask, ...] = ()
    max_voxels: int = MAX_CLAIMED


@dataclass(frozen=True)
class Outcome:
    """The verdict on one scan: index cells, or the reason and detail of its rejection."""

    row: ScanRow
    source_bytes: int
    cells: dict[str, Any] | None = None
    reason: str = ""
    detail: str = ""


def process(job: Job) -> list[Outcome]:
    """Read, judge, bring into canonical form and write what one file holds; safe to repeat after a kill.

    A file of one volume has one outcome; a series has one for each scan that `corpus.diffusion` makes of it.

    Raises:
        OSError: the store cannot be written.
    """
    path = job.source / job.row.path
    try:
        return _outcomes(job, path)
    except RejectedScan as error:
        return [_refused(job, job.row, error)]
    except Exception as error:
        error.add_note(f"while preprocessing {path}")
        raise


def _outcomes(job: Job, path: Path) -> list[Outcome]:
    try:
        volume = read(path, max_voxels=job.max_voxels)
    except RejectedScan as error:
        if error.reason != Reason.SEVERAL_VOLUMES:
            raise
        return _series(job, path)
    return [_accepted(job, job.row, volume, digest_file(path))]


def _series(job: Job, path: Path) -> list[Outcome]:
    try:
        plan = plan_series(path, job.row.sequence, read_header(path).shape[3])
    except OSError as error:
        raise RejectedScan(Reason.UNREADABLE, error.strerror or str(error), where=path) from error
    parts = [part for part in plan if isinstance(part, Part)]
    outcomes = [
        _refused(job, replace(job.row, volume=at), why) for at, why in (p for p in plan if isinstance(p, tuple))
    ]
    volumes = read_sums(path, [part.weights for part in parts], max_voxels=job.max_voxels)
    digest = digest_file(path)
    for part, volume in zip(parts, volumes, strict=True):
        row = replace(job.row, sequence=part.sequence, volume=part.volume)
        if isinstance(volume, RejectedScan):
            outcomes.append(_refused(job, row, volume))
            continue
        noted = Volume(volume.data, volume.affine, (*volume.notes, part.note))
        try:
            outcomes.append(_accepted(job, row, noted, digest))
        except RejectedScan as error:
            outcomes.append(_refused(job, row, error))
    return sorted(outcomes, key=lambda outcome: outcome.row.volume)


def _accepted(job: Job, row: ScanRow, volume: Volume, digest: str) -> Outcome:
    check_slices(volume, job.min_slices)
    volume, valid = use_masks(volume, job.source, job.masks, max_voxels=job.max_voxels)
    canonical = canonicalise(volume, job.spec, valid)
    extra = {
        "source_bytes": job.source_bytes,
        "source_digest": digest,
        **axis_cells("source_shape", volume.data.shape),
        "source_affine": affine_cell(volume.affine),
        "masks": "; ".join(f"{mask.kind} {mask.path}" for mask in job.masks),
    }
    return Outcome(row, job.source_bytes, write_scan(job.store, row, canonical, Metadata(), extra))


def _refused(job: Job, row: ScanRow, error: RejectedScan) -> Outcome:
    return Outcome(row, job.source_bytes, None, error.reason.value, error.detail)


def check_slices(volume: Volume, least: int) -> None:
    """Reject a scan with fewer slices along any axis than pretraining wants (FOMO300K drops those below 15).

    Raises:
        RejectedScan: TOO_FEW_SLICES.
    """
    if min(volume.data.shape) < least:
        raise RejectedScan(Reason.TOO_FEW_SLICES, f"shape {volume.data.shape}, at least {least} along each axis")


def digest_file(path: Path) -> str:
    """Of the file as it is, for a member of an archive as it would be unpacked: equal digests are duplicates.

    Raises:
        RejectedScan: UNREADABLE, the file is gone by now.
    """
    hasher = hashlib.blake2b(digest_size=16)
    try:
        with place_of(path).open() as content:
            while piece := content.stream.read(2**20):
                hasher.update(piece)
    except OSError as error:
        raise RejectedScan(Reason.UNREADABLE, error.strerror or str(error), where=path) from error
    return hasher.hexdigest()
