"""Labels of your own for the scans of an embedding table: columns of a CSV or TSV, by subject, session or path."""

import csv
import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import pyarrow as pa

from fomo_ssl.core.errors import TaskError
from fomo_ssl.corpus.metadata import plain_id

_KEYS = {name: name for name in ("path", "dataset", "subject", "session")}
_KEYS |= {"participant_id": "subject", "session_id": "session"}  # as BIDS calls them
_UNKNOWN = {"", "n/a", "nan"}
_MANY = 10
"""Numbers with no more different values than this are classes."""

Value = str | float | None


@dataclass(frozen=True)
class GivenLabels:
    """The lines of a table of labels by what names their scans: the cells of `keys`, ids without `sub-` and `ses-`."""

    file: Path
    keys: tuple[str, ...]
    columns: tuple[str, ...]
    lines: dict[tuple[str, ...], dict[str, str]]

    def values(self, table: pa.Table, column: str) -> list[Value]:
        """A label for every scan of an embedding table, None where none is given.

        Numbers, if all are numbers and more than ten differ; else text, the names of classes.

        Raises:
            TaskError: no scan has one.
        """
        cells = zip(*(table.column(key).to_pylist() for key in self.keys), strict=True)
        names = [_key(row) for row in cells]
        texts = [self.lines.get(name, {}).get(column, "") for name in names]
        known = [None if text.lower() in _UNKNOWN else text for text in texts]
        given = {text for text in known if text is not None}
        if not given:
            here, there = ("/".join(name) for name in (next(iter(self.lines)), names[0]))
            what = f"no {column} for any scan: {'/'.join(self.keys)} {here} here, {there} there"
            raise TaskError(what, where=self.file, way_out="Write ids and paths as the embedding table does")
        numbers = {text: _number(text) for text in given}
        if len(set(numbers.values())) > _MANY and None not in numbers.values():
            return [None if text is None else numbers[text] for text in known]
        return list(known)


def read_given_labels(file: Path) -> GivenLabels:
    """Read a table whose first line names its columns.

    Some of path, dataset, subject (or participant_id) and session (or session_id) say which scans a line is about;
    every other column is a label.

    Raises:
        TaskError: no such file, no column of either kind, or two lines that say different things of the same scans.
    """
    try:
        text = file.read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        raise TaskError(f"cannot be read: {error}", where=file, way_out="Give a CSV or TSV") from error
    first = text.partition("\n")[0]
    rows = csv.DictReader(text.splitlines(), delimiter="\t" if "\t" in first else ",")
    found = list(rows.fieldnames or [])
    by = [name for name in found if name in _KEYS]
    columns = tuple(name for name in found if name and name not in _KEYS)
    if not {"path", "subject"} & {_KEYS[name] for name in by} or not columns:
        what = f"the table has columns {', '.join(found) or 'none'}; needed are path or subject, and a label"
        raise TaskError(what, where=file)
    lines: dict[tuple[str, ...], dict[str, str]] = {}
    for row in rows:
        key = _key([row[name] for name in by])
        labels = {name: (row[name] or "").strip() for name in columns}
        if lines.setdefault(key, labels) != labels:
            raise TaskError(f"two lines differ on {'/'.join(key)}", where=file, way_out="Add a column session or path")
    if not lines:
        raise TaskError("no lines", where=file)
    return GivenLabels(file, tuple(_KEYS[name] for name in by), columns, lines)


def _key(cells: Sequence[str | None]) -> tuple[str, ...]:
    return tuple(plain_id((cell or "").strip()) for cell in cells)


def _number(text: str) -> float | None:
    try:
        value = float(text)
    except ValueError:
        return None
    return value if math.isfinite(value) else None
