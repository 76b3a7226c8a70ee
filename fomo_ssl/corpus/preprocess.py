"""From a source tree to a store: resumable, the same bytes for any number of workers, nothing torn by a kill."""

import contextlib
import functools
import time
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import pyarrow as pa
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

from fomo_ssl.core.errors import Reason, RejectedScan, StoreError, is_disk_full
from fomo_ssl.core.files import exclusive, remove_strays, write_text
from fomo_ssl.corpus.description import describe
from fomo_ssl.corpus.executors import run_local
from fomo_ssl.corpus.journal import QUARANTINE, Journal, Rejected, write_quarantine
from fomo_ssl.corpus.layouts import ScanRow
from fomo_ssl.corpus.masks import DEFAULT_RULES, find_masks
from fomo_ssl.corpus.metadata import Metadata
from fomo_ssl.corpus.scan import Job, Outcome, process
from fomo_ssl.corpus.schema import SCHEMA, id_cells
from fomo_ssl.corpus.slurm import SlurmConfig, cancel_forgotten, run_array
from fomo_ssl.corpus.store import read_facts, write_index
from fomo_ssl.corpus.summary import print_summary, summary_page
from fomo_ssl.imaging.canonical import CanonicalSpec
from fomo_ssl.imaging.container import members, place_of
from fomo_ssl.imaging.nifti import MAX_CLAIMED

# A kill loses at most this much work.
_SHARD_SCANS, _SHARD_SECONDS = 64, 10.0
# A mask, a permission or a disk that is put right leaves the size of a scan as it was, and more may be allowed by now.
_TRIED_AGAIN = {Reason.BAD_MASK, Reason.UNREADABLE, Reason.TOO_LARGE}


@dataclass(frozen=True)
class PreprocessSummary:
    """What a run did.

    Attributes:
        accepted: scans in the store.
        rejected: scans in quarantine, by reason.
        processed: files that this run worked on; the others were done before.
        bytes: size of the scan files.
        seconds: wall time of this run.
        fingerprint: of the store.
    """

    accepted: int
    rejected: dict[str, int]
    processed: int
    bytes: int
    seconds: float
    fingerprint: str


def preprocess(
    source: str | Path,
    store: str | Path,
    spec: CanonicalSpec | None = None,
    *,
    workers: int = 1,
    min_slices: int = 15,
    max_voxels: int = MAX_CLAIMED,
    masks: Mapping[str, str | None] = DEFAULT_RULES,
    slurm: SlurmConfig | None = None,
    console: Console | None = None,
) -> PreprocessSummary:
    """Make a store, or go on with one that a kill, a full disk or new scans in the source left incomplete.

    Args:
        source: folder of NIfTI files in one of the layouts of `corpus.layouts`, with optional TSV metadata.
        store: folder to fill.
        spec: how scans are made canonical.
        workers: processes; the store's bytes do not depend on it.
        min_slices: scans with fewer voxels along an axis are rejected.
        max_voxels: files that claim more are rejected before memory is asked for; a small file may claim gigabytes.
        masks: for each kind of `corpus.masks`, how the mask of a scan is called; a file that is a mask is no scan.
        slurm: run as an array of SLURM tasks instead of in this machine's processes; the bytes are the same.
        console: where progress and the summary are shown; None is silent.

    Raises:
        FomoSSLError: no scan found, a worker killed.
        ConfigError: a pattern of masks that names none.
        StoreError: a store of other settings, every scan rejected, another run at work, disk full.
    """
    begun = time.monotonic()
    source, store, spec = Path(source), Path(store), spec or CanonicalSpec()
    found = describe(source)
    rows, metadata = [scan.row for scan in found], {scan.row.path: scan.metadata for scan in found}
    of_scan, rules = find_masks(source, rows, masks)
    are_masks = {mask.path for found in of_scan.values() for mask in found}
    rows = [row for row in rows if row.path not in are_masks]
    sizes = _sizes(source, rows)
    # Without masks nothing of the store tells of them.
    config: dict[str, Any] = {"min_slices": min_slices, **({"masks": rules} if rules else {})}
    with _no_room(store), _exclusive(store):
        cancel_forgotten(store)
        _sweep(store)
        journal = Journal(store, spec, config)
        accepted, rejected = journal.finished(sizes)
        again = {line.path for line in rejected if line.reason in _TRIED_AGAIN}
        done = ({line.path for line in rejected} | {*accepted.column("path").to_pylist()}) - again
        jobs = [
            Job(source, store, row, sizes[row.path], spec, min_slices, of_scan.get(row.path, ()), max_voxels)
            for row in rows
            if row.path not in done
        ]
        if slurm is None:
            _work(jobs, journal, workers, console, already=len(rows) - len(jobs))
        elif jobs:
            _submit(jobs, store, spec, config, slurm, console)
        accepted, rejected = journal.finished(sizes)
        table = _with_present_metadata(accepted, rows, metadata)
        _finish(store, table, rejected, spec, config)
        journal.remove()
        _sweep(store, keep=set(table.column("file").to_pylist()))
    facts = read_facts(store) or {}
    reasons = dict(sorted(Counter(line.reason for line in rejected).items()))
    size = sum(table.column("file_bytes").to_pylist())
    seconds = time.monotonic() - begun
    summary = PreprocessSummary(len(table), reasons, len(jobs), size, seconds, facts["fingerprint"])
    if console is not None:
        print_summary(console, store, table, rejected, summary.processed, seconds)
    return summary


def _sizes(source: Path, rows: list[ScanRow]) -> dict[str, int]:
    """Bytes of each file, -1 where it cannot be told; each archive is listed once."""

    @functools.lru_cache(maxsize=1)
    def listed(archive: Path) -> dict[str, int]:
        return members(archive)

    def size(row: ScanRow) -> int:
        place = place_of(source / row.path)
        try:
            return place.path.stat().st_size if place.member is None else listed(place.path)[place.member]
        except (OSError, RejectedScan, KeyError):
            return -1

    return {row.path: size(row) for row in rows}


def _work(jobs: list[Job], journal: Journal, workers: int, console: Console | None, already: int) -> None:
    """Run the jobs and commit their outcomes in shards; what is finished is committed even when the run breaks off."""
    if not jobs:
        return
    batch: list[Outcome] = []
    since = time.monotonic()
    with contextlib.closing(run_local(process, jobs, workers)) as outcomes:
        try:
            for of_file in _shown(outcomes, len(jobs), console, already):
                batch.extend(of_file)
                if len(batch) >= _SHARD_SCANS or time.monotonic() - since > _SHARD_SECONDS:
                    journal.commit(batch)
                    batch, since = [], time.monotonic()
        finally:
            journal.commit(batch)


def _submit(
    jobs: list[Job],
    store: Path,
    spec: CanonicalSpec,
    config: dict[str, Any],
    slurm: SlurmConfig,
    console: Console | None,
) -> None:
    """Wait for an array of tasks, each with a share of the jobs; the bar counts tasks."""
    task = functools.partial(_task, store.resolve(), spec, config)
    ended = run_array(
        task, [replace(job, source=job.source.resolve(), store=store.resolve()) for job in jobs], store, slurm
    )
    total = min(slurm.tasks, len(jobs))
    with Progress(console=console or Console(quiet=True)) as progress:
        bar = progress.add_task(f"{len(jobs)} files in {total} tasks", total=total)
        with contextlib.closing(ended) as tasks:
            for _ in tasks:
                progress.advance(bar)


def _task(store: Path, spec: CanonicalSpec, config: dict[str, Any], name: str, jobs: list[Job], workers: int) -> None:
    """What one task of an array does."""
    _work(jobs, Journal(store, spec, config, writer=f"{name}_"), workers, None, already=0)


def _shown(
    outcomes: Iterator[list[Outcome]], total: int, console: Console | None, already: int
) -> Iterator[list[Outcome]]:
    if console is None:
        yield from outcomes
        return
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    with Progress(*columns, TextColumn("left"), TimeRemainingColumn(), console=console) as progress:
        task = progress.add_task("preprocess", total=total + already, completed=already)
        for of_file in outcomes:
            progress.advance(task)
            yield of_file


def _with_present_metadata(table: pa.Table, rows: list[ScanRow], metadata: dict[str, Metadata]) -> pa.Table:
    """Ids and metadata as the tree and the TSV files say now: they may have changed since a scan was processed."""
    by_path = {row.path: row for row in rows}
    columns = (table.column(name).to_pylist() for name in ("path", "sequence"))
    present = [_with_shell(by_path[path], sequence) for path, sequence in zip(*columns, strict=True)]
    cells = [{**id_cells(row), **asdict(metadata[row.path])} for row in present]
    for name in cells[0] if cells else ():
        column = pa.array([line[name] for line in cells], SCHEMA.field(name).type)
        table = table.set_column(SCHEMA.get_field_index(name), SCHEMA.field(name), column)
    return table


def _with_shell(row: ScanRow, stored: str) -> ScanRow:
    """The row with its shell, which the b-values beside a series tell and its name does not."""
    return replace(row, sequence=stored) if stored.startswith("dwi_b") else row


def _finish(
    store: Path, table: pa.Table, rejected: list[Rejected], spec: CanonicalSpec, config: dict[str, Any]
) -> None:
    """Write quarantine, summary page, index and, last of all, `store.json`."""
    write_quarantine(store, rejected)
    if not len(table):
        what = f"all {len(rejected)} scans were rejected"
        raise StoreError(what, where=store, way_out=f"See the reasons in {QUARANTINE}")
    write_text(store / "summary.html", summary_page(store, table, rejected, spec))
    write_index(store, table, spec, config, quarantined=len(rejected))


def _sweep(store: Path, keep: set[str] | None = None) -> None:
    """Remove what killed writers left, and scan files that no index row names."""
    for folder in [store, store / "journal", *(store / "scans").glob("*")]:
        remove_strays(folder)
    if keep is not None:
        for file in (store / "scans").glob("*/*"):
            if file.relative_to(store).as_posix() not in keep:
                file.unlink()
        for folder in (store / "scans").glob("*"):
            with contextlib.suppress(OSError):
                folder.rmdir()


@contextlib.contextmanager
def _no_room(store: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        if not is_disk_full(error):
            raise
        way_out = "Free space and run the same command again: it goes on where it stopped"
        raise StoreError("no space left on the device", where=store, way_out=way_out) from error


@contextlib.contextmanager
def _exclusive(store: Path) -> Iterator[None]:
    """One run at a time."""
    if store.exists() and not store.is_dir():
        raise StoreError("a file is in the way", where=store, way_out="Give another store=PATH")
    store.mkdir(parents=True, exist_ok=True)
    with contextlib.ExitStack() as held:
        try:
            held.enter_context(exclusive(store))
        except BlockingIOError as error:
            raise StoreError("another run is writing this store", where=store, way_out="Wait for it to end") from error
        yield
