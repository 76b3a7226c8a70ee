"""Who was scanned, by what: participants.tsv, mapping.tsv, mri_info.tsv, joined on (dataset, subject, session)."""

import csv
import re
from dataclasses import dataclass
from pathlib import Path

from fomo_ssl.corpus.layouts import ScanRow

FILES = ("mapping.tsv", "mri_info.tsv", "participants.tsv")
_MISSING = {"", "n/a", "na", "nan", "none", "null", "unknown", "-"}
_YEARS_PER = {"": 1.0, "y": 1.0, "m": 1 / 12, "w": 7 / 365.25, "d": 1 / 365.25}
_AGE = re.compile(r"(\d+(?:\.\d+)?)\s*([ymwd]?)\+?", re.IGNORECASE)
_AGE_RANGE = re.compile(r"(\d+(?:\.\d+)?)\s*-\s*(\d+(?:\.\d+)?)\s*y?", re.IGNORECASE)
_OLDEST = 120.0
_AMBIGUOUS = ""

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


def parse_age(text: str) -> tuple[float, float] | None:
    """(low, high) in years of "35", "35.5", "080Y", "6M", "90+" or "20-30"; None where it tells nothing."""
    text = text.strip()
    if match := _AGE.fullmatch(text):
        low = high = float(match[1]) * _YEARS_PER[match[2].lower()]
    elif match := _AGE_RANGE.fullmatch(text):
        low, high = float(match[1]), float(match[2])
    else:
        return None
    return (low, high) if low <= high <= _OLDEST else None


class MetadataTable:
    """The rows of all metadata files of a source, looked up by scan."""

    def __init__(self) -> None:
        self._cells: dict[_Key, dict[str, str]] = {}

    @classmethod
    def read(cls, source: Path, datasets: set[str]) -> "MetadataTable":
        """Read the files at the root of a source and in the folder of each dataset ("" is the root)."""
        table = cls()
        for dataset in sorted(datasets | {""}):
            for name in FILES:
                path = source / dataset / name
                if path.is_file():
                    table._add_file(path, dataset)
        return table

    def dataset(self, row: ScanRow) -> str | None:
        """The dataset that the files name for a scan of a tree without dataset folders."""
        return self._merged(row).get("dataset")

    def of(self, row: ScanRow) -> Metadata:
        """All that is known of a scan."""
        cells = self._merged(row)
        low, high = parse_age(cells.get("age", "")) or (None, None)
        return Metadata(
            age=None if low is None or high is None else (low + high) / 2,
            age_low=low,
            age_high=high,
            sex=_sex(cells.get("sex")),
            group=cells.get("group"),
            handedness=cells.get("handedness"),
            manufacturer=cells.get("manufacturer"),
            scanner=cells.get("manufacturersmodelname"),
            field_strength=_number(cells.get("magneticfieldstrength")),
        )

    def _merged(self, row: ScanRow) -> dict[str, str]:
        """Cells of the subject, overlaid by those of the session, overlaid by those of the file."""
        subject, session, name = _plain_id(row.subject), _plain_id(row.session), row.path.rsplit("/", 1)[-1]
        merged: dict[str, str] = {}
        for key in ((subject, "", ""), (subject, session, ""), (subject, session, name)):
            merged |= self._cells.get((row.dataset, *key), {})
        return merged

    def _add_file(self, path: Path, folder_dataset: str) -> None:
        with path.open(encoding="utf-8-sig", errors="replace", newline="") as file:
            for line in csv.DictReader(file, delimiter="\t"):
                cells = {name.lower(): text.strip() for name, text in line.items() if name and text}
                cells = {name: text for name, text in cells.items() if text.lower() not in _MISSING}
                self._add(cells, folder_dataset)

    def _add(self, cells: dict[str, str], folder_dataset: str) -> None:
        subject = _plain_id(cells.pop("participant_id", ""))
        session = _plain_id(cells.pop("session_id", ""))
        name = cells.pop("new_filename", None) or cells.pop("filename", "")
        if not subject:
            return
        # A tree with dataset folders is looked up by folder, a flat one by "" whatever dataset the file names.
        for dataset in {folder_dataset, folder_dataset or cells.get("dataset", "")}:
            known = self._cells.setdefault((dataset, subject, session, name), {})
            before = known.get("dataset")
            if before is not None and cells.get("dataset", before) != before:
                # Two datasets number their subjects alike: without a folder nobody can tell whose line this is.
                known.clear()
                known["dataset"] = _AMBIGUOUS
            elif before != _AMBIGUOUS:
                known |= cells


def _plain_id(text: str) -> str:
    return re.sub(r"^(sub|ses)[-_]", "", text)


def _sex(text: str | None) -> str | None:
    if text is None:
        return None
    return {"male": "M", "m": "M", "female": "F", "f": "F"}.get(text.lower(), text)


def _number(text: str | None) -> float | None:
    try:
        return None if text is None else float(text)
    except ValueError:
        return None
