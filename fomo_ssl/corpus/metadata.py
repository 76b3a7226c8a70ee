"""Who was scanned, by what: participants.tsv, mapping.tsv, mri_info.tsv, joined on (dataset, subject, session, file).

The tables lie at the root of a source (merged copies, with a column `dataset`) or in the folder of a dataset, beside
its archives. Subject ids are unique only within a dataset.
"""

import csv
import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from fomo_ssl.corpus import openmind
from fomo_ssl.corpus.layouts import ScanRow
from fomo_ssl.corpus.values import is_missing, parse_age, parse_field_strength, parse_manufacturer, parse_sex
from fomo_ssl.imaging.nifti import file_stem

FILES = ("mapping.tsv", "mri_info.tsv", "participants.tsv")
# No cell is empty: empty ones are left out on reading.
_DIFFERS = ""

_Cells = dict[str, str]
_Key = tuple[str, str, str, str]


@dataclass(frozen=True)
class Metadata:
    """What is known of a scan beyond its voxels; None where nothing is.

    Attributes:
        age: years, the mid-point where only a range is known.
        age_low, age_high: the range; equal where the age is a number.
        sex: "M", "F" or as written.
        field_strength: tesla.
    """

    age: float | None = None
    age_low: float | None = None
    age_high: float | None = None
    sex: str | None = None
    group: str | None = None
    handedness: str | None = None
    manufacturer: str | None = None
    scanner: str | None = None
    field_strength: float | None = None


class MetadataTable:
    """The rows of all metadata files of a source, looked up by scan."""

    def __init__(self) -> None:
        self._cells: dict[_Key, _Cells] = {}

    @classmethod
    def read(cls, source: Path, datasets: set[str]) -> "MetadataTable":
        """Read the files at the root of a source, in the folder of each dataset ("" is the root), and between."""
        table = cls()
        parents = {parent.as_posix() for dataset in datasets for parent in PurePosixPath(dataset).parents}
        for folder in sorted({path.removeprefix(".") for path in parents} | datasets | {""}):
            for name in FILES:
                if (path := source / folder / name).is_file():
                    table._add(_tab_lines(path), folder, datasets)
            if (path := source / folder / openmind.FILE).is_file():
                table._add(openmind.image_lines(path), folder, datasets)
        return table

    def dataset(self, row: ScanRow) -> str | None:
        """The dataset that the files name for a scan of a tree without dataset folders."""
        return self._merged(row).get("dataset")

    def modality(self, row: ScanRow) -> str:
        """What the files call the sequence of a scan, "" where they do not."""
        return self._merged(row).get("modality", "")

    def of(self, row: ScanRow) -> Metadata:
        """All that is known of a scan."""
        cells = self._merged(row)
        low, high = parse_age(cells.get("age", "")) or (None, None)
        return Metadata(
            age=None if low is None or high is None else (low + high) / 2,
            age_low=low,
            age_high=high,
            sex=parse_sex(cells.get("sex")),
            group=cells.get("group"),
            handedness=cells.get("handedness"),
            manufacturer=parse_manufacturer(cells.get("manufacturer")),
            scanner=cells.get("manufacturersmodelname"),
            field_strength=parse_field_strength(cells.get("magneticfieldstrength")),
        )

    def _merged(self, row: ScanRow) -> _Cells:
        """Cells of the subject, overlaid by those of the session, overlaid by those of the file."""
        subject, session, name = plain_id(row.subject), plain_id(row.session), _file_key(row.path)
        merged: _Cells = {}
        for key in ((subject, "", ""), (subject, session, ""), (subject, "", name), (subject, session, name)):
            merged |= self._cells.get((row.dataset, *key), {})
        return merged

    def _add(self, lines: Iterable[_Cells], folder: str, datasets: set[str]) -> None:
        found: dict[_Key, _Cells] = {}
        for line in lines:
            cells = {name.lower(): text.strip() for name, text in line.items() if not is_missing(text)}
            subject, session = plain_id(cells.pop("participant_id", "")), plain_id(cells.pop("session_id", ""))
            name = cells.pop("new_filename", "") or cells.pop("filename", "")
            if subject:
                for dataset in _owners(folder, cells.get("dataset", ""), datasets):
                    _add_line(found, (dataset, subject, session, _file_key(name)), cells)
        for key, cells in found.items():
            known = self._cells.setdefault(key, {})
            if known.get("dataset", cells.get("dataset")) != cells.get("dataset", known.get("dataset")):
                cells["dataset"] = _DIFFERS
            if cells.get("dataset") == _DIFFERS:
                # Two datasets number their subjects alike: without a folder nobody can tell whose line this is.
                known.clear()
                known["dataset"] = _DIFFERS
            else:
                known |= {name: text for name, text in cells.items() if text != _DIFFERS}


def _add_line(found: dict[_Key, _Cells], key: _Key, cells: _Cells) -> None:
    """Join a line with those of the same key; what two lines of a table say differently is not known."""
    known = found.setdefault(key, {})
    for name, text in cells.items():
        if known.setdefault(name, text) != text:
            known[name] = _DIFFERS


def _owners(folder: str, named: str, datasets: set[str]) -> set[str]:
    """The datasets whose scans a line of a table in `folder` is about, if it names the dataset `named`."""
    joined = "/".join(part for part in (folder, named) if part)
    if folder:
        return {joined if joined in datasets else folder}
    # A flat tree is looked up by "" whatever dataset the line names.
    return {named, *({""} & datasets)}


def _tab_lines(path: Path) -> Iterator[_Cells]:
    with path.open(encoding="utf-8-sig", errors="replace") as file:
        # Line by line: a quotation mark that is never closed must not swallow the subjects after it.
        lines = (cells for line in file for cells in csv.reader([line], delimiter="\t"))
        names = next(lines, [])
        for cells in lines:
            yield {name: text for name, text in zip(names, cells, strict=False) if name}


def _file_key(path: str) -> str:
    """What names a file within its session in any table: without folders, ids and extension (`.pt` in some tables)."""
    name = re.split(r"[/!]", path)[-1].removesuffix(".pt")
    return re.sub(r"^(?:(?:sub|ses)-[^_]*_)*", "", file_stem(name)).lower()


def plain_id(text: str) -> str:
    """A subject or session without the `sub-` or `ses-` before it."""
    return re.sub(r"^(sub|ses)[-_]", "", text)
