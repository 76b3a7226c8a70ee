"""What must hold of a task's files before anything is trained on them."""

import hashlib
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from fomo_ssl.core.errors import RunError
from fomo_ssl.corpus.scan import digest_file
from fomo_ssl.downstream.masks import read_mask
from fomo_ssl.downstream.tasks import Case
from fomo_ssl.imaging.nifti import Volume, read_header

_NAMED = 5


def file_digests(cases: Sequence[Case]) -> dict[Path, str]:
    """A digest of the bytes of each image and mask.

    Raises:
        RejectedScan: a file cannot be read.
    """
    labels = [case.label for case in cases if isinstance(case.label, Path)]
    return {path: digest_file(path) for path in (*labels, *(path for case in cases for path in case.images.values()))}


def case_digests(cases: Sequence[Case], digests: Mapping[Path, str]) -> dict[str, str]:
    """A digest of each case's images and label, by name, from those of its files: equal ones are equal data."""
    found = {}
    for case in cases:
        label = digests[case.label] if isinstance(case.label, Path) else repr(float(case.label))
        files = "\n".join(f"{name} {digests[path]}" for name, path in sorted(case.images.items()))
        found[case.name] = hashlib.blake2b(f"{label}\n{files}".encode(), digest_size=8).hexdigest()
    return found


def check_unchanged(before: Mapping[str, str], now: Mapping[str, str], where: Path) -> None:
    """Refuse to add units to a run whose cases are others by now.

    Raises:
        RunError: names them.
    """
    changed = [name for name in now if before.get(name, now[name]) != now[name]]
    if changed:
        what = f"image or label changed since the run began: {some(changed)}"
        raise RunError(what, where=where, way_out="Give another run=, or the files as they were")


def some(names: Sequence[str]) -> str:
    """The first few names, and how many more there are."""
    more = f" and {len(names) - _NAMED} more" if len(names) > _NAMED else ""
    return ", ".join(names[:_NAMED]) + more


def check_masks(cases: Sequence[Case]) -> list[str]:
    """Check that each mask lies on the grid of its image; returns the names of cases whose mask is empty.

    Raises:
        RejectedScan: a file cannot be read.
        TaskError: a mask lies elsewhere, or holds values that are no classes.
    """
    empty = []
    for case in cases:
        if isinstance(case.label, Path):
            header = read_header(next(iter(case.images.values())))
            grid = Volume(np.broadcast_to(np.float32(0), header.shape[:3]), header.affine, ())
            if not read_mask(case.label, grid).any():
                empty.append(case.name)
    return empty
