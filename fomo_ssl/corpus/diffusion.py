"""Which volumes of a series become scans.

The rules are those of FOMO60K and FOMO300K, without the apparent diffusion coefficients that FOMO300K makes of half of
its scans in place of the mean of three directions. Diffusion: b <= 5 s/mm2 counts as b0, of which the first is taken;
other b-values form shells within 50 s/mm2, and a shell becomes its single volume, else the mean of the three whose
directions lie nearest to x, y and z. Perfusion: the mean of more than three frames; of two or three, the last minus the
first.
"""

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from fomo_ssl.core.errors import Reason, RejectedScan
from fomo_ssl.imaging.container import Place, place_of
from fomo_ssl.imaging.nifti import file_stem

MAX_B0, SHELL_WIDTH = 5.0, 50.0
# Shells are named by the nearest multiple of this.
_NAME_STEP = 50
# The largest gradient tables have a few hundred columns.
_MAX_TABLE_BYTES = 2**20


@dataclass(frozen=True)
class Part:
    """One scan to be made of a series: volumes by position, and what each contributes."""

    sequence: str
    weights: dict[int, float]
    note: str

    @property
    def volume(self) -> int:
        """The first volume of it, which names the scan."""
        return min(self.weights)


def plan_series(path: str | Path, sequence: str, count: int) -> list[Part | tuple[int, RejectedScan]]:
    """The scans to be made of a file of `count` volumes; a shell that gives none is a volume and the reason.

    Args:
        path: of the image; `.bval` and `.bvec` of the same stem are looked for beside it, in the same archive too.
        sequence: what the name tells.
        count: volumes in the file, 2 or more.

    Raises:
        RejectedScan: SEVERAL_VOLUMES, neither diffusion nor perfusion; BAD_GRADIENTS, no usable b-values.
        OSError: a gradient table cannot be opened.
    """
    place = place_of(path)
    b_values = _table(place, ".bval")
    if b_values is None:
        if sequence == "perf":
            return [_perfusion(count)]
        if sequence.split("_")[0] == "dwi":
            raise RejectedScan(Reason.BAD_GRADIENTS, f"{count} volumes and no .bval beside them")
        raise RejectedScan(Reason.SEVERAL_VOLUMES, f"{count} volumes, neither diffusion nor perfusion")
    b = b_values.ravel()
    if len(b) != count or not (np.isfinite(b).all() and (b >= 0).all()):
        raise RejectedScan(Reason.BAD_GRADIENTS, f".bval has {len(b)} numbers for {count} volumes, or some below 0")
    directions = _directions(_table(place, ".bvec"), count)
    return [_part(b, shell, directions) for shell in _shells(b)]


def _perfusion(count: int) -> Part:
    if count > 3:
        return Part("perf", dict.fromkeys(range(count), 1 / count), f"mean of {count} frames")
    return Part("perf", {0: -1.0, count - 1: 1.0}, f"last of {count} frames minus the first")


def _part(b: np.ndarray, shell: list[int], directions: np.ndarray | None) -> Part | tuple[int, RejectedScan]:
    if b[shell[0]] <= MAX_B0:
        return Part("dwi_b0", {shell[0]: 1.0}, f"volume {shell[0]} of {len(b)}, the first of {len(shell)} with b0")
    name = f"dwi_b{_NAME_STEP * max(1, round(float(np.median(b[shell])) / _NAME_STEP))}"
    if len(shell) == 1:
        return Part(name, {shell[0]: 1.0}, f"volume {shell[0]} of {len(b)}")
    if directions is None:
        what = f"{len(shell)} volumes of {name} and no usable .bvec beside them"
        return shell[0], RejectedScan(Reason.BAD_GRADIENTS, what)
    chosen = _nearest_to_axes(directions[shell])
    volumes = sorted(shell[at] for at in chosen)
    note = f"mean of volumes {' '.join(map(str, volumes))} of {len(b)}"
    return Part(name, dict.fromkeys(volumes, 1 / len(volumes)), note)


def _shells(b: np.ndarray) -> list[list[int]]:
    """Positions by shell, b0 first; a shell spans at most `SHELL_WIDTH` from its lowest b-value."""
    shells: list[list[int]] = []
    lowest = -np.inf
    for position in np.argsort(b, kind="stable").tolist():
        limit = MAX_B0 if lowest <= MAX_B0 else lowest + SHELL_WIDTH
        if not shells or b[position] > limit:
            shells.append([])
            lowest = float(b[position])
        shells[-1].append(position)
    return [sorted(shell) for shell in shells]


def _nearest_to_axes(directions: np.ndarray) -> list[int]:
    """Rows of (n, 3) nearest to x, y, z by the cosine of the angle between lines, none taken twice."""
    lengths = np.linalg.norm(directions, axis=1, keepdims=True)
    cosines = np.abs(directions / np.where(lengths > 0, lengths, 1))
    chosen: list[int] = []
    for axis in range(min(3, len(directions))):
        cosines[chosen] = -1
        chosen.append(int(np.argmax(cosines[:, axis])))
    return chosen


def _directions(table: np.ndarray | None, count: int) -> np.ndarray | None:
    """(count, 3) of a .bvec in FSL's form (three rows), or with a row for each volume."""
    if table is None or not np.isfinite(table).all():
        return None
    if table.shape == (3, count):
        return table.T
    return table if table.shape == (count, 3) else None


def _table(image: Place, extension: str) -> np.ndarray | None:
    """Numbers of a text file beside an image, (rows, columns); None where there is none.

    Raises:
        RejectedScan: BAD_GRADIENTS, it holds something else; BAD_ZIP.
    """
    place = image.sibling(file_stem(image.name) + extension)
    if not place.exists():
        return None
    with place.open() as content:
        if content.size > _MAX_TABLE_BYTES:
            raise RejectedScan(Reason.BAD_GRADIENTS, f"{extension} has {content.size} bytes")
        text = _all(content.stream)
    try:
        return np.array([[float(cell) for cell in line.split()] for line in text.splitlines() if line.strip()])
    except ValueError as error:
        raise RejectedScan(Reason.BAD_GRADIENTS, f"{extension} is no table of numbers") from error


def _all(stream: object) -> bytes:
    pieces = []
    while piece := stream.read(2**16):  # type: ignore[attr-defined]
        pieces.append(piece)
    return b"".join(pieces)
