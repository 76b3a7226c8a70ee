"""The index of a store as NumPy columns: what sampling needs of every scan, with no Python object per row."""

import csv
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Bool, Float, Float32, Float64, Int64, UInt64

from fomo_ssl.core.errors import ConfigError, StoreError
from fomo_ssl.core.seeding import mix
from fomo_ssl.core.seen import JOIN, subject_id
from fomo_ssl.corpus.store import Store


@dataclass(frozen=True)
class ScanIndex:
    """Columns over the n rows of a store.

    Attributes:
        subject: stable 64-bit id of (dataset, subject), the same in every store that holds the subject.
        session: code of (dataset, subject, session).
        dataset, sequence: codes into `dataset_names` and `sequence_names`.
        sequence_class: position in `core.types.SEQUENCES`.
        shape: voxels; spacing: mm; affine: first three rows, store voxel -> mm RAS+.
        scale, offset: normalised intensity = stored value * scale + offset.
        box_lo, box_hi: foreground box in voxels, upper end excluded.
        flagged: whether the scan has voxels that do not count.
        by_session: all rows, ordered by session; `session_start[s]` is where session s begins in it.
        by_subject: all rows, ordered by subject; `subject_sorted` are their subjects.
    """

    subject: UInt64[np.ndarray, "n"]
    session: Int64[np.ndarray, "n"]
    dataset: Int64[np.ndarray, "n"]
    dataset_names: tuple[str, ...]
    sequence: Int64[np.ndarray, "n"]
    sequence_names: tuple[str, ...]
    sequence_class: Int64[np.ndarray, "n"]
    shape: Int64[np.ndarray, "n 3"]
    spacing: Float32[np.ndarray, "n 3"]
    affine: Float64[np.ndarray, "n 3 4"]
    scale: Float32[np.ndarray, "n"]
    offset: Float32[np.ndarray, "n"]
    box_lo: Int64[np.ndarray, "n 3"]
    box_hi: Int64[np.ndarray, "n 3"]
    flagged: Bool[np.ndarray, "n"]
    by_session: Int64[np.ndarray, "n"]
    session_start: Int64[np.ndarray, "_"]
    by_subject: Int64[np.ndarray, "n"]
    subject_sorted: UInt64[np.ndarray, "n"]

    @classmethod
    def of(cls, store: Store) -> "ScanIndex":
        """The columns of an open store."""
        table = store.index
        dataset, dataset_names = _codes(table, "dataset")
        sequence, sequence_names = _codes(table, "sequence")
        subject_code, subject_names = _codes(table, "dataset", "subject")
        session, _ = _codes(table, "dataset", "subject", "session")
        subject = np.array([subject_id(*name.split(JOIN)) for name in subject_names], dtype=np.uint64)[subject_code]
        by_subject = np.argsort(subject, kind="stable")
        return cls(
            subject=subject,
            session=session,
            dataset=dataset,
            dataset_names=dataset_names,
            sequence=sequence,
            sequence_names=sequence_names,
            sequence_class=_numbers(table, "sequence_class", np.int64),
            shape=_triples(table, "shape", np.int64),
            spacing=_triples(table, "spacing", np.float32),
            affine=_affines(table),
            scale=_numbers(table, "scale", np.float32),
            offset=_numbers(table, "offset", np.float32),
            box_lo=_triples(table, "box_lo", np.int64),
            box_hi=_triples(table, "box_hi", np.int64),
            # A share that is not known (NaN here) is that of a scan without such a mask.
            flagged=_numbers(table, "valid_share", np.float32) < 1 if store.has_masks else np.zeros(len(table), bool),
            by_session=np.argsort(session, kind="stable"),
            session_start=np.concatenate([[0], np.cumsum(np.bincount(session))]).astype(np.int64),
            by_subject=by_subject,
            subject_sorted=subject[by_subject],
        )

    def __len__(self) -> int:
        return len(self.subject)

    def siblings(self, row: int) -> Int64[np.ndarray, "_"]:
        """Rows of the same session that hold another sequence, in row order."""
        start, stop = self.session_start[self.session[row]], self.session_start[self.session[row] + 1]
        rows: Int64[np.ndarray, "_"] = self.by_session[start:stop]
        return np.compress(self.sequence[rows] != self.sequence[row], rows)

    def other_sessions(self, row: int) -> Int64[np.ndarray, "_"]:
        """Rows of the same subject's other sessions, in row order."""
        start, stop = np.searchsorted(self.subject_sorted, self.subject[row] + np.arange(2, dtype=np.uint64))
        rows: Int64[np.ndarray, "_"] = self.by_subject[start:stop]
        return np.compress(self.session[rows] != self.session[row], rows)


@dataclass(frozen=True)
class Split:
    """Rows to train on and rows to look at, with no subject in both."""

    train: Int64[np.ndarray, "_"]
    held_out: Int64[np.ndarray, "_"]


def split_by_subject(index: ScanIndex, held_out: float | int, seed: int) -> Split:
    """Hold out subjects by a seeded hash of (dataset, subject).

    Whether a subject is held out depends on nothing but itself and the seed where `held_out` is a fraction, so that
    new scans and new subjects leave the others where they are; a count takes the subjects with the smallest hashes.

    Args:
        index: the scans.
        held_out: a fraction of subjects in [0, 1) as a float (at least one subject where it is above 0), or a count.
        seed: another seed holds out others.

    Raises:
        ConfigError: a fraction outside [0, 1), or nobody left to train on.
    """
    subjects = np.unique(index.subject)
    hashes = np.array([mix(mix(seed) ^ int(subject)) for subject in subjects], dtype=np.uint64)
    if held_out < 0 or (isinstance(held_out, float) and held_out >= 1):
        raise ConfigError(f"held_out={held_out} is neither a fraction in [0, 1) nor a number of subjects")
    smallest_first = np.argsort(hashes)
    if isinstance(held_out, float):
        chosen = hashes < np.uint64(int(held_out * 2.0**64))
        chosen[smallest_first[:1]] |= held_out > 0
    else:
        chosen = np.zeros(len(subjects), dtype=bool)
        chosen[smallest_first[:held_out]] = True
    if chosen.all():
        raise ConfigError(
            f"held_out={held_out} leaves none of the {len(subjects)} subjects to train on",
            way_out="Hold out fewer, or preprocess more scans",
        )
    outside = np.isin(index.subject, subjects[chosen])
    return Split(train=np.flatnonzero(~outside), held_out=np.flatnonzero(outside))


def select_sequences(index: ScanIndex, rows: Int64[np.ndarray, "_"], names: list[str]) -> Int64[np.ndarray, "_"]:
    """The rows whose sequence is one of `names`; `ConfigError` names a sequence that the store does not hold."""
    wanted = [_position(name, index.sequence_names, "sequence") for name in names]
    return rows[np.isin(index.sequence[rows], wanted)]


def excluded_scans(store: Store, table: Path) -> Int64[np.ndarray, "_"]:
    """Rows of a store that a CSV names, in row order.

    By its columns `path` and, where it has one, `volume`, as the lines of `data_flags.csv` of
    `python -m fomo_ssl.data_report` that one agrees with; or, without `path`, by `dataset` and `subject`, as the test
    subjects of a task.

    Raises:
        ConfigError: no such file, no CSV in UTF-8, other columns, or not one of its scans is in the store.
    """
    lines = _read_table(table)
    columns: tuple[str, str] = ("path", "volume")
    if lines and "path" not in lines[0]:
        columns = ("dataset", "subject")
        if not set(columns) <= lines[0].keys():
            way_out = "Give a CSV as data_report writes it, or one of dataset and subject"
            raise ConfigError("no column named path", where=table, way_out=way_out)
    try:
        named = {tuple(_cell(line, name) for name in columns) for line in lines}
    except ValueError as error:
        raise ConfigError(f"column volume: {error}", where=table, way_out="Give whole numbers") from error
    scans = zip(*(store.index.column(name).to_pylist() for name in columns), strict=True)
    found = [row for row, scan in enumerate(scans) if scan in named]
    if named and not found:
        raise ConfigError("none of its scans is in the store", where=table, way_out="Is it the table of this store?")
    return np.array(found, dtype=np.int64)


def _read_table(table: Path) -> list[dict[str, str]]:
    try:
        # Spreadsheet programs begin a file with a byte order mark.
        with table.open(encoding="utf-8-sig", newline="") as file:
            return list(csv.DictReader(file))
    except OSError as error:
        raise ConfigError(f"cannot be read: {error.strerror}", where=table, way_out="Check data.exclude") from error
    except (UnicodeDecodeError, csv.Error) as error:
        raise ConfigError(f"is no CSV in UTF-8 ({error})", where=table, way_out="Save it as CSV in UTF-8") from error


def _cell(line: Mapping[str, str], column: str) -> str | int:
    return _whole(line.get(column) or "0") if column == "volume" else line[column]


def sampling_weights(
    index: ScanIndex,
    rows: Int64[np.ndarray, "k"],
    dataset: Mapping[str, float] | None = None,
    sequence: Mapping[str, float] | None = None,
) -> Float[np.ndarray, "k"]:
    """Relative weight of each row: the weight of its dataset times the weight of its sequence, 1 where not given.

    Raises:
        ConfigError: a name that the store does not hold, a negative weight, or weights that leave no scan.
    """
    weights = np.ones(len(rows))
    for kind, given, codes, names in (
        ("dataset", dataset, index.dataset, index.dataset_names),
        ("sequence", sequence, index.sequence, index.sequence_names),
    ):
        for name, weight in (given or {}).items():
            if weight < 0:
                raise ConfigError(f"the weight of {kind} {name!r} is {weight}; weights are not negative")
            weights[codes[rows] == _position(name, names, kind)] *= weight
    # Without rows it was not the weights: the sampler says so.
    if len(rows) and not weights.sum() > 0:
        raise ConfigError("the sampling weights leave no scan to draw")
    return weights


def _position(name: str, names: tuple[str, ...], kind: str) -> int:
    if name not in names:
        raise ConfigError(f"the store holds no {kind} {name!r}", way_out=f"It holds {', '.join(names)}")
    return names.index(name)


def _whole(text: str) -> int:
    """The integer in a cell; tables that went through other programs write 2 as 2.0."""
    number = float(text)
    if not number.is_integer():
        raise ValueError(f"{text!r} is no whole number")
    return int(number)


def _column(table: Any, name: str) -> Any:
    """One Arrow column as a single chunk, so that NumPy can look at the memory-mapped file itself."""
    if name not in table.column_names:
        raise StoreError(f"the index has no column {name!r}", way_out="Preprocess again with this version")
    return table.column(name).combine_chunks()


def _codes(table: Any, *names: str) -> tuple[Int64[np.ndarray, "n"], tuple[str, ...]]:
    """Integer codes of the distinct values of one or several text columns together, and the values by code."""
    import pyarrow as pa
    import pyarrow.compute as pc

    columns = [pc.fill_null(_column(table, name).cast(pa.string()), "") for name in names]
    joined = columns[0] if len(columns) == 1 else pc.binary_join_element_wise(*columns, JOIN)
    encoded = joined.dictionary_encode()
    names_by_code = tuple(encoded.dictionary.to_pylist())
    # Codes by name and not by first appearance: the order of the rows must not matter.
    order = sorted(range(len(names_by_code)), key=names_by_code.__getitem__)
    rank = np.empty(len(order), dtype=np.int64)
    rank[order] = np.arange(len(order))
    return rank[encoded.indices.to_numpy()], tuple(names_by_code[i] for i in order)


def _numbers(table: Any, name: str, dtype: Any) -> np.ndarray:
    return np.asarray(_column(table, name).to_numpy(zero_copy_only=False)).astype(dtype, copy=False)


def _triples(table: Any, name: str, dtype: Any) -> np.ndarray:
    return np.stack([_numbers(table, f"{name}_{axis}", dtype) for axis in "xyz"], axis=1)


def _affines(table: Any) -> Float64[np.ndarray, "n 3 4"]:
    return np.asarray(_column(table, "affine").flatten().to_numpy()).reshape(-1, 3, 4).astype(np.float64, copy=False)
