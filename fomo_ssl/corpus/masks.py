"""Masks beside scans: which file is a mask of which scan, and what it does to it.

`brain`: outside of it becomes empty space, before anything is measured. `anatomy`: outside of it no voxel counts.
`deface`: inside of it no voxel counts. Losses leave out what does not count; images keep it.
"""

import functools
import posixpath
import string
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from fomo_ssl.core.errors import ConfigError, Reason, RejectedScan
from fomo_ssl.corpus.layouts import ScanRow
from fomo_ssl.corpus.openmind import masks_of_images
from fomo_ssl.imaging.container import members, place_of
from fomo_ssl.imaging.masks import read_mask, strip
from fomo_ssl.imaging.nifti import MAX_CLAIMED, Volume, file_stem, is_image_name

KINDS = ("brain", "anatomy", "deface")
TABLE = "openmind"
"""In place of a pattern: the mask that OpenMind's table names, where the source has that table."""
DEFAULT_RULES: Mapping[str, str | None] = {"brain": None, "anatomy": None, "deface": TABLE}

_FIELDS = ("stem", "subject", "session")


@dataclass(frozen=True)
class Mask:
    """A mask of one scan; `path` as in scan rows."""

    kind: str
    path: str


def check_rules(rules: Mapping[str, str | None]) -> None:
    """Refuse what can name no mask.

    Raises:
        ConfigError: an unknown kind or field, or a pattern that is no name of an image.
    """
    for kind, rule in rules.items():
        if kind not in KINDS:
            raise ConfigError(f"unknown kind of mask {kind!r}", way_out=f"One of {', '.join(KINDS)}")
        if rule is None or (rule == TABLE and kind != "brain"):
            continue
        try:
            fields = {name for _, name, _, _ in string.Formatter().parse(rule) if name is not None}
        except ValueError:
            fields = {rule}
        if fields - set(_FIELDS) or not is_image_name(rule):
            allowed = ", ".join(f"{{{name}}}" for name in _FIELDS)
            way_out = f"Give a name relative to the scan's folder such as '{{stem}}_mask.nii.gz', with {allowed}"
            raise ConfigError(f"masks.{kind}={rule!r} is no pattern of a NIfTI file", way_out=way_out)


def find_masks(
    source: Path, rows: Sequence[ScanRow], rules: Mapping[str, str | None]
) -> tuple[dict[str, tuple[Mask, ...]], dict[str, str]]:
    """The masks of each scan that has some, by the scan's path, and the rules that found any.

    A scan without the file has no mask. The masks of a scan in an archive lie in the same archive.

    Raises:
        ConfigError: see `check_rules`; a pattern that finds no mask at all.
    """
    check_rules(rules)
    table = masks_of_images(source) if TABLE in rules.values() else {}
    exists = _existence(source)
    found: dict[str, tuple[Mask, ...]] = {}
    for row in rows:
        named = ((kind, _named(row, kind, rules.get(kind), table)) for kind in KINDS)
        masks = tuple(Mask(kind, path) for kind, path in named if path and path != row.path and exists(path))
        if masks:
            found[row.path] = masks
    used = {mask.kind for masks in found.values() for mask in masks}
    for kind, rule in rules.items():
        if rule not in (None, TABLE) and kind not in used:
            what = f"masks.{kind}={rule!r} names no file beside any of {len(rows)} scans"
            raise ConfigError(what, where=source, way_out="It is relative to the folder of the scan")
    return found, {kind: rule for kind, rule in rules.items() if rule is not None and kind in used}


def use_masks(
    volume: Volume, source: Path, masks: Sequence[Mask], *, max_voxels: int = MAX_CLAIMED
) -> tuple[Volume, np.ndarray | None]:
    """A scan with its masks used on it, and which of its voxels count; None where nothing was said of that.

    A mask that claims more than `max_voxels` is refused before memory is asked for.

    Raises:
        RejectedScan: BAD_MASK, a mask that cannot be used.
    """
    valid: np.ndarray | None = None
    for mask in masks:
        try:
            inside, notes = read_mask(source / mask.path, volume, max_voxels=max_voxels)
        except RejectedScan as error:
            raise RejectedScan(error.reason, f"{mask.kind} mask {mask.path}: {error.detail}") from error
        if mask.kind == "brain":
            if not inside.any():
                raise RejectedScan(Reason.BAD_MASK, f"brain mask {mask.path}: it is empty")
            volume = strip(volume, inside)
        else:
            counts = inside if mask.kind == "anatomy" else ~inside
            valid = counts if valid is None else valid & counts
        volume = Volume(volume.data, volume.affine, (*volume.notes, *(f"{mask.kind} mask {note}" for note in notes)))
    return volume, valid


def _named(row: ScanRow, kind: str, rule: str | None, table: Mapping[str, Mapping[str, str]]) -> str | None:
    """Where the mask of a scan would be; None where the rule names no place inside the source."""
    if rule is None:
        return None
    if rule == TABLE:
        return table.get(row.path, {}).get(kind)
    place = place_of(row.path)
    archive, inside = ("", row.path) if place.member is None else (f"{place.path}!", place.member)
    name = rule.format(stem=file_stem(posixpath.basename(inside)), subject=row.subject, session=row.session)
    path = posixpath.normpath(posixpath.join(posixpath.dirname(inside), name))
    return None if path.startswith(("../", "/")) else f"{archive}{path}"


def _existence(source: Path) -> Callable[[str], bool]:
    @functools.lru_cache(maxsize=1)
    def listed(archive: Path) -> frozenset[str]:
        try:
            return frozenset(members(archive))
        except (RejectedScan, OSError):
            return frozenset()

    def exists(path: str) -> bool:
        place = place_of(source / path)
        return place.path.is_file() if place.member is None else place.member in listed(place.path)

    return exists
