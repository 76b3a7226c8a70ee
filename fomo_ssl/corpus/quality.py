"""What is doubtful in a finished store: every check over every scan, as flags that people can act on."""

import csv
import enum
import io
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
from jaxtyping import Int64
from rich.console import Console

from fomo_ssl.core.errors import StoreError
from fomo_ssl.core.files import write_text
from fomo_ssl.corpus import duplicates
from fomo_ssl.corpus.cache import cache_folder
from fomo_ssl.corpus.duplicates import Pair
from fomo_ssl.corpus.measurements import Measurements, measure_store, stored_files
from fomo_ssl.corpus.orientation_check import Orientations, check_orientation
from fomo_ssl.corpus.outliers import Judged, judge, measures
from fomo_ssl.corpus.store import Store

MOSTLY_CONSTANT = 0.5
"""Share of foreground voxels of one value from which a scan is flagged."""

_ID_COLUMNS = ("dataset", "subject", "session", "sequence", "path", "volume")
_COLUMNS = ("flag", *_ID_COLUMNS, "value", "detail", "other_path")


class Flag(enum.StrEnum):
    """Why a stored scan should be looked at. Values are what `data_flags.csv` holds."""

    DUPLICATE = "duplicate"
    REPEATED = "repeated"
    ORIENTATION = "orientation"
    MOSTLY_CONSTANT = "mostly_constant"
    BLANK_SLICES = "blank_slices"
    OUTLIER_SHAPE = "outlier_shape"
    OUTLIER_SPACING = "outlier_spacing"
    OUTLIER_INTENSITY = "outlier_intensity"
    OUTLIER_FOREGROUND = "outlier_foreground"


@dataclass(frozen=True)
class Finding:
    """One flag of one scan.

    Attributes:
        row: of the store's index.
        value: what the flag was decided on; see `detail` for its meaning.
        other: row of the scan that it was compared with, None where there is none.
    """

    flag: Flag
    row: int
    value: float
    detail: str
    other: int | None = None


@dataclass(frozen=True)
class Quality:
    """All that the checks say of a store.

    Attributes:
        findings: by flag in the order of `Flag`, then by row.
        same_head: pairs of scans that show one head, of different subjects or of one.
        candidates: pairs that the hash took for alike; `same_head` are those of them that were confirmed.
    """

    store: Store
    measured: Measurements
    orientations: Orientations
    outliers: list[Judged]
    candidates: int
    same_head: list[Pair]
    findings: list[Finding]


def assess(store: Store, *, cache: Path | None = None, workers: int = 1, console: Console | None = None) -> Quality:
    """Run every check; what was computed before is taken from the cache.

    Args:
        store: read only.
        cache: folder for what is worth keeping; default: beside the store, its name with `.quality` appended.
        workers: processes that read scans.
        console: where progress is shown; None is silent.

    Raises:
        StoreError: a scan file is missing or damaged, or the cache cannot be written.
    """
    folder = cache or cache_folder(store.path)
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise StoreError(f"cannot be made ({error.strerror})", where=folder, way_out="Give another --cache") from error
    measured = measure_store(store, folder, workers, console)
    dataset, subject = codes(store.index, "dataset"), codes(store.index, "dataset", "subject")
    orientations = check_orientation(measured.descriptor, dataset, subject)
    sequence = store.index.column("sequence_class").to_numpy().astype(np.int64)
    outliers = [judge(measure, dataset, sequence) for measure in measures(store.index, measured)]
    pairs = duplicates.candidates(duplicates.hashes(measured.descriptor))
    digests = store.index.column("file_digest").to_pylist()
    same_head = duplicates.confirm(pairs, stored_files(store), digests, folder, workers, console)
    found = [
        *_same_heads(same_head, subject, digests),
        *_turned(orientations),
        *_empty(measured),
        *(finding for judged in outliers for finding in _outlying(judged)),
    ]
    order = list(Flag)
    found.sort(key=lambda finding: (order.index(finding.flag), finding.row))
    return Quality(store, measured, orientations, outliers, len(pairs), same_head, found)


def flags_csv(quality: Quality) -> str:
    """One line a scan and flag."""
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    writer.writerow(_COLUMNS)
    ids = [quality.store.index.column(name) for name in _ID_COLUMNS]
    paths = quality.store.index.column("path")
    for finding in quality.findings:
        other = "" if finding.other is None else paths[finding.other].as_py()
        cells = [column[finding.row].as_py() for column in ids]
        writer.writerow([finding.flag.value, *cells, f"{finding.value:.4g}", finding.detail, other])
    return out.getvalue()


def write_flags(quality: Quality, path: Path) -> None:
    """Write `data_flags.csv`, whole or not at all."""
    write_text(path, flags_csv(quality))


def codes(index: pa.Table, *names: str) -> Int64[np.ndarray, "n"]:
    """A number for each distinct combination of text columns."""
    import pyarrow.compute as pc

    columns = [pc.fill_null(index.column(name), "") for name in names]
    joined = pc.binary_join_element_wise(*columns, "\x1f").combine_chunks()
    return np.asarray(joined.dictionary_encode().indices.to_numpy(), np.int64)


def _same_heads(pairs: list[Pair], subject: Int64[np.ndarray, "n"], digests: list[str]) -> list[Finding]:
    """Of each group of one head under several subjects all scans but the first; within a subject they are set apart."""
    across = [pair for pair in pairs if subject[pair.first] != subject[pair.second]]
    within = [pair for pair in pairs if subject[pair.first] == subject[pair.second]]
    best: dict[int, Pair] = {}
    for pair in across:
        for row in (pair.first, pair.second):
            best[row] = max(best.get(row, pair), pair, key=lambda p: p.correlation)
    direct = {(pair.first, pair.second): pair for pair in across}
    found = []
    for first, *others in duplicates.groups(across):
        for row in others:
            pair = direct.get((first, row), best[row])
            found.append(Finding(Flag.DUPLICATE, row, pair.correlation, _alike(pair, digests), first))
    found.extend(Finding(Flag.REPEATED, p.second, p.correlation, _alike(p, digests), p.first) for p in within)
    return found


def _alike(pair: Pair, digests: list[str]) -> str:
    if digests[pair.first] == digests[pair.second]:
        return "the same stored bytes"
    axes = ", ".join(axis for axis, flipped in zip("xyz", pair.mirror, strict=True) if flipped)
    return f"correlation of details {pair.correlation:.2f}" + (f", mirrored along {axes}" if axes else "")


def _turned(orientations: Orientations) -> list[Finding]:
    rows = np.flatnonzero(orientations.doubted).tolist()
    lead, looks = orientations.lead, orientations.looks
    return [
        Finding(Flag.ORIENTATION, row, float(lead[row]), f"axes seem to run {looks[row]} and not LR A S")
        for row in rows
    ]


def _empty(measured: Measurements) -> list[Finding]:
    found = []
    for row in np.flatnonzero(measured.constant_share >= MOSTLY_CONSTANT).tolist():
        share = float(measured.constant_share[row])
        found.append(Finding(Flag.MOSTLY_CONSTANT, row, share, f"{share:.0%} of the foreground is one value"))
    for row in np.flatnonzero(measured.blank_slices).tolist():
        count = int(measured.blank_slices[row])
        found.append(Finding(Flag.BLANK_SLICES, row, float(count), f"{count} blank slices inside the head"))
    return found


def _outlying(judged: Judged) -> list[Finding]:
    flag = Flag(f"outlier_{judged.measure.kind}")
    found = []
    for row in np.flatnonzero(judged.outlying).tolist():
        value, centre, far = (float(a[row]) for a in (judged.measure.values, judged.centre, judged.deviations))
        detail = f"{judged.measure.name}: {value:.3g}, median {centre:.3g}, {far:+.1f} robust deviations"
        found.append(Finding(flag, row, value, detail))
    return found
