"""The text files of a generated study: FOMO60K's three tables, task.yaml, and the mark that a folder is whole."""

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Any

from fomo_ssl.core.errors import FomoSSLError
from fomo_ssl.core.files import write_json, write_text

_MARK, _GENERATOR = "study.json", "fomo_ssl.synthetic"
_VERSION = 1
"""Raised whenever the same specification gives other bytes."""


@dataclass(frozen=True)
class Row:
    """What the tables say about one scan; spacing in mm along the stored axes, size in bytes."""

    participant: str
    session: str
    age: float
    sex: str
    dataset: str
    group: str
    filename: str
    sequence: str
    shape: str
    spacing: str
    orientation: str
    dtype: str
    low: int
    high: int
    size: int


@dataclass(frozen=True)
class TaskText:
    """A task in words: its kind, its sequences in order, and what the label means."""

    kind: str
    sequences: tuple[str, ...]
    meaning: str


TASKS: Mapping[str, TaskText] = MappingProxyType(
    {
        "infarct": TaskText(
            "classification", ("flair", "dwi_b1000", "adc", "swi"), "1 = acute infarct, 0 = none (no unit)"
        ),
        "meningioma": TaskText(
            "segmentation", ("flair", "dwi_b1000", "swi", "t1c"), "seg.nii.gz: 1 = meningioma, 0 = the rest (no unit)"
        ),
        "brain_age": TaskText("regression", ("t1", "t2"), "age at the scan in years"),
    }
)


def write_corpus_tables(folder: Path, rows: Sequence[Row]) -> None:
    """participants.tsv, mapping.tsv and mri_info.tsv, in the columns of FOMO60K."""
    _write_participants(folder, rows)
    names = [(r.participant, r.session, r.filename) for r in rows]
    columns = "participant_id session_id filename dataset source_repository source_path"
    sources = [(r.dataset, "fomo_ssl.synthetic", "generated") for r in rows]
    _write_table(folder / "mapping.tsv", columns, map(_join, names, sources))
    columns = "participant_id session_id filename sequence shape spacing_mm orientation dtype"
    grids = [(r.sequence, r.shape, r.spacing, r.orientation, r.dtype) for r in rows]
    values = [(1, 0, r.low, r.high, r.size) for r in rows]
    _write_table(
        folder / "mri_info.tsv", f"{columns} scl_slope scl_inter min max bytes", map(_join, names, grids, values)
    )


def _join(*parts: tuple[object, ...]) -> tuple[object, ...]:
    return tuple(cell for part in parts for cell in part)


def write_task_tables(folder: Path, task: str, rows: Sequence[Row]) -> None:
    """task.yaml and participants.tsv of a task."""
    text = TASKS[task]
    lines = [
        f"name: {task}",
        f"kind: {text.kind}",
        f"sequences: [{', '.join(text.sequences)}]",
        "missing: error",
        f"# label: {text.meaning}",
    ]
    write_text(folder / "task.yaml", "\n".join(lines) + "\n")
    _write_participants(folder, rows)


def is_finished(folder: Path, identity: Mapping[str, Any]) -> bool:
    """Whether the folder holds this very study. An absent, empty or differently generated folder is not finished.

    Raises:
        FomoSSLError: the folder holds files that no generator wrote.
    """
    if not folder.exists() or (folder.is_dir() and not any(folder.iterdir())):
        return False
    try:
        found = json.loads((folder / _MARK).read_text())
    except (OSError, ValueError):
        found = None
    if not isinstance(found, dict) or found.get("generator") != _GENERATOR:
        raise FomoSSLError("holds something that is no generated study", where=folder, way_out="choose another folder")
    return found == _marked(identity)


def mark_finished(folder: Path, identity: Mapping[str, Any]) -> None:
    """Record what was generated, as the last file of the folder."""
    write_json(folder / _MARK, _marked(identity))


def _marked(identity: Mapping[str, Any]) -> dict[str, Any]:
    return {"generator": _GENERATOR, "version": _VERSION, **identity}


def _write_participants(folder: Path, rows: Sequence[Row]) -> None:
    sessions = {(r.participant, r.session): (r.age, r.sex, r.dataset, r.group) for r in rows}
    columns = "participant_id session_id age sex dataset group"
    _write_table(folder / "participants.tsv", columns, [key + value for key, value in sessions.items()])


def _write_table(path: Path, columns: str, rows: Iterable[tuple[object, ...]]) -> None:
    lines = [columns.replace(" ", "\t"), *("\t".join(str(cell) for cell in row) for row in rows)]
    write_text(path, "\n".join(lines) + "\n")
