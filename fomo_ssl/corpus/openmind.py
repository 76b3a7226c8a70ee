"""OpenMind's table: `openneuro_metadata.csv` beside the folder `OpenMind` that holds `ds000001/sub-01/...`.

Columns as nnssl's converter reads them (MIC-DKFZ/nnssl, dataset_conversion/Dataset001_OpenMind.py): `image_path`,
`anat_mask_path` and `anon_mask_path` relative to that folder, `modality`, and what is known of subject and scanner.
"""

import csv
from collections.abc import Iterator
from pathlib import Path, PurePosixPath

FILE, FOLDER = "openneuro_metadata.csv", "OpenMind"
# The region that was defaced, and the region that holds anatomy at all.
_MASKS = {"deface": "anon_mask_path", "anatomy": "anat_mask_path"}
# The names of the same columns in FOMO's tables.
_RENAMED = {
    "model_name": "manufacturersmodelname",
    "magnetic_field_strength": "magneticfieldstrength",
    "health_status": "group",
}


def mask_paths(source: Path) -> set[str]:
    """Paths relative to the source that the table names as masks; empty where there is no table."""
    return {path for masks in masks_of_images(source).values() for path in masks.values()}


def masks_of_images(source: Path) -> dict[str, dict[str, str]]:
    """By the path of an image, its masks by kind, all relative to the source; empty where there is no table."""
    if not (source / FILE).is_file():
        return {}
    return {
        f"{FOLDER}/{line.get('image_path')}": {
            kind: f"{FOLDER}/{path}" for kind, name in _MASKS.items() if (path := line.get(name))
        }
        for line in _lines(source / FILE)
    }


def image_lines(path: Path) -> Iterator[dict[str, str]]:
    """What the table knows of each image, under the column names of FOMO's tables; a line without a subject is left."""
    for line in _lines(path):
        parts = PurePosixPath(line.pop("image_path", "")).parts
        at = next((i for i, part in enumerate(parts) if part.startswith("sub-")), None)
        if at is None:
            continue
        session = next((part for part in parts[at + 1 : -1] if part.startswith("ses-")), "")
        ids = {
            "dataset": "/".join((FOLDER, *parts[:at])),
            "participant_id": parts[at],
            "session_id": session,
            "filename": parts[-1],
        }
        yield {**{_RENAMED.get(name, name): text for name, text in line.items()}, **ids}


def _lines(path: Path) -> Iterator[dict[str, str]]:
    with path.open(encoding="utf-8-sig", errors="replace", newline="") as file:
        for line in csv.DictReader(file):
            yield {name: text for name, text in line.items() if name and isinstance(text, str)}
