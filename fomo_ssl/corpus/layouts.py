"""From a folder tree to scan rows: which files are scans, whose, and of which sequence.

Accepted, found by looking at the tree, loose or in zip archives that are read in place (a session, a subject or a
dataset each):

- flat FOMO60K `sub_1/ses_1/t1.nii.gz`, prefixed `PT009_X/sub_1/ses_1/t1c.nii.gz`;
- FOMO45K/50K/300K `PT030_X/[ds000001/]sub-01/[ses-01/][anat|dwi/]FLAIR.nii.gz`, and `PT001_X/sub-01/ses-01.zip`;
- BIDS `sub-01/ses-01/anat/sub-01_ses-01_T1w.nii.gz`; OpenMind `OpenMind/ds000001/sub-01/...` with its CSV beside;
- any folder of images without subject folders.
"""

import os
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from fomo_ssl.core.errors import FomoSSLError, RejectedScan
from fomo_ssl.corpus.names import is_scan_name, sequence_name
from fomo_ssl.corpus.openmind import mask_paths
from fomo_ssl.imaging.container import members, place_of
from fomo_ssl.imaging.nifti import file_stem, is_image_name

# BIDS folders that hold results, not scans, or scans of something else; `labels` belongs to the FOMO task layout.
SKIPPED_FOLDERS = {"derivatives", "sourcedata", "code", "labels", "func", "fmap", "meg", "eeg", "ieeg", "beh", "micr"}
SKIPPED_FOLDERS |= {"pet", "nirs", "motion", "__macosx"}

# Of a scan below the folder of its dataset: subject, session, kind.
_DEEPEST = 3
_SUBJECT, _SESSION = re.compile(r"sub[-_].+"), re.compile(r"ses[-_].+")
# Ids in the name of a file or an archive: `sub-01_ses-02_T1w`, `sub_1.zip`.
_IDS = re.compile(r"(sub[-_][^_]+)(?:_(ses[-_][^_]+))?(?:_.*)?")


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


@dataclass(frozen=True)
class _Found:
    """A file: its path in the source, the folders that tell what it is (an archive counts as a folder), its name, and
    for a packed one the folders as far as they show on disk.
    """

    path: str
    folders: tuple[str, ...]
    name: str
    outer: tuple[str, ...] | None = None


def find_scans(source: Path, below: str = "") -> list[ScanRow]:
    """All scans below a folder, sorted by (dataset, subject, session, sequence, path).

    With `below`, only those in this folder of the source; ids and paths are what they are in the whole of it.

    A tree with subject folders is taken by these, and images outside them are no scans; in any other tree every image
    is a scan. A scan that lies both in an archive and unpacked beside it is taken once, unpacked. An archive that
    cannot be listed, or holds no scan, is a row itself, which reading then rejects with the reason.

    Raises:
        FomoSSLError: the folder does not exist or holds no image.
    """
    if not (source / below).is_dir():
        raise FomoSSLError("no such folder", where=source / below, way_out="Set source to a folder of NIfTI files")
    masks = mask_paths(source)
    found = [file for file in _files(source, below) if is_scan_name(file_stem(file.name)) and file.path not in masks]
    shown = [file.folders if file.outer is None else file.outer for file in found]
    is_organised = any(_subject_at(folders) is not None for folders in shown)
    rows = {file: row for file in found if (row := _row(file, is_organised))}
    loose = {_identity(file, row) for file, row in rows.items() if file.outer is None}
    kept = [row for file, row in rows.items() if file.outer is None or _identity(file, row) not in loose]
    if not kept:
        where, way_out = source / below, "Expected .nii.gz, .nii or .img"
        raise FomoSSLError("no NIfTI file below this folder", where=where, way_out=way_out)
    return sorted(kept)


def root_of(path: Path) -> Path:
    """The folder from which the ids of a file or folder are told: the one above its subject's, else the folder itself.

    Only the last folders are looked at, where a subject's folder may be: one above a whole tree is none of its own.
    """
    folder = path if path.is_dir() else place_of(path).path.parent
    parts = straight(folder).parts
    last = range(max(1, len(parts) - _DEEPEST), len(parts))
    at = next((i for i in last if _SUBJECT.fullmatch(parts[i])), None)
    return folder if at is None else Path(*parts[:at])


def straight(path: Path) -> Path:
    """Absolute and without `..`: a folder that a path only passes through tells no ids. Links after it stay."""
    parts = path.absolute().parts
    back = max((i + 1 for i, part in enumerate(parts) if part == ".."), default=0)
    return Path(*parts[:back]).resolve().joinpath(*parts[back:]) if back else Path(*parts)


def scan_row(source: Path, path: Path) -> ScanRow:
    """The row of one file or member of an archive of a source, whatever its name."""
    place = place_of(path)
    relative = straight(place.path).relative_to(straight(source))
    *folders, name = map(_text, relative.parts)
    file = _Found(_text(relative.as_posix()), tuple(folders), name)
    if place.member is not None:
        file = _member(file.path, (*folders, *_archive_folders(name)), place.member)
    stem = file_stem(file.name)
    return _row(file, is_organised=False) or _plain_row(file, stem, sequence_name(stem))


def _files(source: Path, below: str) -> Iterator[_Found]:
    """Images, loose and in archives, without those in skipped and hidden folders."""
    root, followed = source.resolve(), set[Path]()
    for folder, folders, names in os.walk(source / below, followlinks=True):
        kept = [name for name in sorted(folders) if not _is_skipped(name)]
        folders[:] = [name for name in kept if _leads_on(Path(folder, name), root, followed)]
        parts = Path(folder).relative_to(source).parts
        present = set(names)
        for name in names:
            if name.startswith("."):
                continue
            if name.lower().endswith(".zip"):
                yield from _packed(Path(folder, name), parts)
            elif _is_image(name, present):
                yield _Found(_text("/".join((*parts, name))), tuple(map(_text, parts)), _text(name))


def _leads_on(folder: Path, root: Path, followed: set[Path]) -> bool:
    """Whether to look into a folder: not where it is a link to the source or a part of it, for that shows scans twice,
    nor to a folder that another link led to, for links go round in circles.
    """
    if not folder.is_symlink():
        return True
    target = folder.resolve()
    if target in followed or target.is_relative_to(root) or root.is_relative_to(target):
        return False
    followed.add(target)
    return True


def _packed(archive: Path, parts: tuple[str, ...]) -> Iterator[_Found]:
    """The images in an archive; the archive itself where there is none, so that it is reported."""
    path = _text("/".join((*parts, archive.name)))
    outer = (*map(_text, parts), *_archive_folders(archive.name))
    whole = _Found(path, outer, _text(archive.name), outer)
    try:
        names = set(members(archive))
    except (RejectedScan, OSError):
        yield whole
        return
    images = 0
    for name in sorted(names):
        *inner, last = PurePosixPath(name).parts
        is_hidden = last.startswith(".") or any(map(_is_skipped, inner))
        if not is_hidden and _is_image(last, names, name[: -len(last)]):
            images += 1
            yield _member(path, outer, name)
    if not images:
        yield whole


def _member(archive: str, outer: tuple[str, ...], name: str) -> _Found:
    *inner, last = PurePosixPath(name).parts
    return _Found(f"{archive}!{name}", _joined(outer, tuple(inner)), last, outer)


def _archive_folders(name: str) -> tuple[str, ...]:
    """The folders that an archive stands for: `sub-01_ses-02.zip` is `sub-01/ses-02`."""
    stem = _text(name)[: -len(".zip")]
    ids = _IDS.fullmatch(stem)
    return tuple(part for part in ids.groups() if part) if ids else (stem,)


def _joined(outer: tuple[str, ...], inner: tuple[str, ...]) -> tuple[str, ...]:
    """Folders of a member; an archive of a dataset gives way to the dataset folders inside it."""
    has_dataset = _subject_at(outer) is None and bool(_subject_at(inner))
    return (*(outer[:-1] if has_dataset else outer), *inner)


def _is_skipped(folder: str) -> bool:
    return folder.startswith(".") or folder.lower() in SKIPPED_FOLDERS


def _is_image(name: str, present: set[str], folder: str = "") -> bool:
    if name.lower().endswith((".hdr", ".hdr.gz")):
        # A header stands for its image, unless that is missing, which the reader then reports.
        return folder + re.sub(r"(?i)\.hdr", ".img", name) not in present
    return is_image_name(name)


def _text(name: str) -> str:
    """A file name as text that can be stored; one that is no UTF-8 gets escapes, and reading it then fails by name."""
    return name.encode("utf-8", "surrogateescape").decode("utf-8", "backslashreplace")


def _subject_at(folders: tuple[str, ...]) -> int | None:
    return next((at for at, folder in enumerate(folders) if _SUBJECT.fullmatch(folder)), None)


def _row(file: _Found, is_organised: bool) -> ScanRow | None:
    stem = file_stem(file.name)
    sequence = sequence_name(stem, file.folders[-1] if file.folders else "")
    at = _subject_at(file.folders)
    if at is None:
        return None if is_organised else _plain_row(file, stem, sequence)
    session = next((folder for folder in file.folders[at + 1 :] if _SESSION.fullmatch(folder)), "ses_1")
    return ScanRow("/".join(file.folders[:at]), file.folders[at], session, sequence, file.path)


def _plain_row(file: _Found, stem: str, sequence: str) -> ScanRow:
    """A scan without a subject folder: a BIDS name still tells the subject, any other name is a subject of its own."""
    ids = _IDS.fullmatch(stem)
    subject, session = (ids[1], ids[2]) if ids else (stem, None)
    return ScanRow("/".join(file.folders), subject, session or "ses_1", sequence, file.path)


def _identity(file: _Found, row: ScanRow) -> tuple[str, ...]:
    """What a scan keeps when its archive is unpacked: ids, the folders below the session, and its name."""
    below = [folder for folder in file.folders if not (_SUBJECT.fullmatch(folder) or _SESSION.fullmatch(folder))]
    return (row.dataset, row.subject, row.session, *below[-1:], file.name)
