"""From a folder tree to scan rows: which files are scans, whose, and of which sequence.

Accepted, found by looking at the tree: the flat FOMO60K form `sub_1/ses_1/t1.nii.gz`, the prefixed forms
`PT009_X/sub_1/ses_1/t1c.nii.gz`, `PT001_X/sub-01/ses-01/[anat|dwi]/FLAIR.nii.gz`, BIDS names
`sub-01/ses-01/anat/sub-01_ses-01_T1w.nii.gz`, and any folder of images without subject folders.
"""

import os
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from fomo_ssl.core.errors import FomoSSLError
from fomo_ssl.imaging.nifti import file_stem, is_image_name

# BIDS folders that hold results, not scans, or scans of something else; `labels` belongs to the FOMO task layout.
SKIPPED_FOLDERS = {"derivatives", "sourcedata", "code", "labels", "func", "fmap", "meg", "eeg", "ieeg", "beh", "micr"}
_NOT_A_SCAN = {"mask", "defacemask", "brainmask", "seg", "dseg", "probseg", "label", "labels", "lesion"}

_SEQUENCE_OF = {
    name: sequence
    for sequence, names in {
        "t1": "t1 t1w mprage mp2rage unit1 spgr bravo inplanet1",
        "t1c": "t1c t1ce t1gd t1cw t1post",
        "t2": "t2 t2w inplanet2",
        "t2s": "t2s t2star t2starw gre ffe",
        "flair": "flair",
        "pd": "pd pdw",
        "swi": "swi swan",
        "dwi": "dwi trace",
        "adc": "adc",
        "mra": "mra angio tof",
    }.items()
    for name in names.split()
}

_SUBJECT, _SESSION = re.compile(r"sub[-_].+"), re.compile(r"ses[-_].+")


@dataclass(frozen=True, order=True)
class ScanRow:
    """One scan before it is read.

    Attributes:
        dataset: folders above the subject, "" where there are none.
        subject, session: as the folders are called; unique only within the dataset.
        sequence: such as "t1" or "dwi_b1000"; "other" where the name does not tell.
        path: relative to the source, with forward slashes; a member of an archive is `archive.zip!member`.
        volume: position in a file of several volumes.
    """

    dataset: str
    subject: str
    session: str
    sequence: str
    path: str
    volume: int = 0


def find_scans(source: Path) -> list[ScanRow]:
    """All scans below a folder, sorted by (dataset, subject, session, sequence, path).

    Raises:
        FomoSSLError: the folder does not exist or holds no image.
    """
    if not source.is_dir():
        raise FomoSSLError("no such folder", where=source, way_out="Set source to a folder of NIfTI files")
    paths = list(_image_paths(source))
    rows = [row for path in paths if (row := _subject_row(path))]
    if not rows:
        rows = [_plain_row(path) for path in paths]
    if not rows:
        raise FomoSSLError("no NIfTI file below this folder", where=source, way_out="Expected .nii.gz, .nii or .img")
    return sorted(rows)


def sequence_name(stem: str) -> str:
    """The sequence a file name tells: FOMO names (`t1_2`, `dwi_b1000`), BIDS suffixes (`..._T1w`), else "other"."""
    tokens = stem.lower().split("_")
    contrast = any(token.startswith("ce-") and token != "ce-none" for token in tokens)
    words = [word for token in tokens if "-" not in token for word in token.split(".")]
    sequence = next((_SEQUENCE_OF[word] for word in words if word in _SEQUENCE_OF), "other")
    if sequence == "t1" and contrast:
        return "t1c"
    shell = next((word for word in words if re.fullmatch(r"b\d+", word)), None)
    return f"{sequence}_{shell}" if sequence == "dwi" and shell else sequence


def _image_paths(source: Path) -> Iterator[Path]:
    """Relative paths of image files (and archives, so that they are reported), without skipped and hidden folders."""
    for folder, folders, files in os.walk(source):
        folders[:] = [name for name in folders if not name.startswith(".") and name.lower() not in SKIPPED_FOLDERS]
        for name in files:
            if not name.startswith(".") and _is_candidate(Path(folder), name):
                yield Path(folder, name).relative_to(source)


def _is_candidate(folder: Path, name: str) -> bool:
    lower = name.lower()
    if lower.endswith((".hdr", ".hdr.gz")):
        # A header stands for its image, unless that is missing, which the reader then reports.
        return not (folder / re.sub(r"(?i)\.hdr", ".img", name)).exists()
    return is_image_name(name) or lower.endswith(".zip")


def _subject_row(path: Path) -> ScanRow | None:
    """A row where the path has a subject folder; segmentations beside the scans are no scans."""
    parts = path.parts
    at = next((i for i, part in enumerate(parts[:-1]) if _SUBJECT.fullmatch(part)), None)
    stem = file_stem(path.name)
    if at is None or _NOT_A_SCAN & set(stem.lower().split("_")):
        return None
    session = next((file_stem(part) for part in parts[at + 1 : -1] if _SESSION.fullmatch(part)), "ses_1")
    return ScanRow("/".join(parts[:at]), parts[at], session, sequence_name(stem), path.as_posix())


def _plain_row(path: Path) -> ScanRow:
    stem = file_stem(path.name)
    return ScanRow("/".join(path.parts[:-1]), stem, "ses_1", sequence_name(stem), path.as_posix())
