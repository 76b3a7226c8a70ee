"""The average head: MNI152 tissue maps that nilearn ships, and around them skull, scalp, eyes, face and neck.

Nothing is downloaded: nilearn's package holds T1, grey and white matter of ICBM152 2009a symmetric (Fonov et al. 2011,
doi 10.1016/j.neuroimage.2010.07.033). What those maps lack (they are skull-stripped) is drawn from distances.
"""

import functools
import importlib.util
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from jaxtyping import Bool, Float32
from scipy.ndimage import distance_transform_edt, gaussian_filter, label

from fomo_ssl.core.errors import FomoSSLError
from fomo_ssl.core.types import Triple
from fomo_ssl.imaging.nifti import read
from fomo_ssl.synthetic.fields import Grid, ramp

BRAIN = ("gm", "wm", "deep_gm", "ventricle", "rim", "brain")
"""Maps that deform with the brain: tissue probabilities, ventricular fluid, nearness to it, a skull-stripper's mask."""

HEAD = ("cavity", "dura", "vessel", "bone", "fat", "muscle", "eye", "face")
"""Maps that deform with the skull: the cranial cavity and what lies in it; from bone on, what lies around it, and the
region that a defacer removes."""

_EDGE = 2.0


@dataclass(frozen=True)
class Template:
    """Maps on one grid in MNI space.

    Attributes:
        grid: where the maps lie.
        brain: `BRAIN`, float32 in 0 to 1.
        head: `HEAD`, float32 in 0 to 1.
        depth: mm inside the cranial cavity, negative outside.
        widening: direction in which tissue gives way when ventricles grow by 1 mm, fading with distance from them.
    """

    grid: Grid
    brain: Float32[np.ndarray, "c x y z"]
    head: Float32[np.ndarray, "d x y z"]
    depth: Float32[np.ndarray, "x y z"]
    widening: Float32[np.ndarray, "3 x y z"]


@functools.cache
def load_template() -> Template:
    """Build the template once per process (about a second); it is the same for everybody who asks, so do not write."""
    t1, gm, wm, grid = _mni()
    mask = t1 > 0.1
    depth = _depth_in_cavity(mask)
    ventricles = _ventricles(mask, gm + wm, grid)
    deep = gm * _ellipsoid(grid, (0, -6, 4), (34, 34, 20)) * ramp(depth - 26.0, 6.0)
    rim = gaussian_filter(ventricles.astype(np.float32), 2.0)
    brain = np.stack([gm - deep, wm, deep, _soft(ventricles), rim, _soft(mask)])
    return Template(grid, brain, _head(grid, depth), depth, _widening(ventricles, depth))


def _mni() -> tuple[Float32[np.ndarray, "x y z"], Float32[np.ndarray, "x y z"], Float32[np.ndarray, "x y z"], Grid]:
    """T1, grey and white matter in 0 to 1.

    Read from nilearn's package folder and not through its loaders: these give the same arrays, but importing them
    takes seconds.
    """
    package = importlib.util.find_spec("nilearn")
    if package is None or not package.submodule_search_locations:
        raise FomoSSLError("nilearn is not installed, it holds the MNI152 maps", way_out="pip install nilearn")
    folder = Path(package.submodule_search_locations[0]) / "datasets" / "data"
    volumes = [read(folder / f"mni_icbm152_{kind}_tal_nlin_sym_09a_converted.nii.gz") for kind in ("t1", "gm", "wm")]
    t1, gm, wm = (_halve(volume.data / volume.data.max()) for volume in volumes)
    corner = volumes[0].affine[:3, 3] + (_EDGE - 1.0) / 2
    shape = (t1.shape[0], t1.shape[1], t1.shape[2])
    return t1, gm, wm, Grid(shape, _EDGE, (float(corner[0]), float(corner[1]), float(corner[2])))


def _halve(data: Float32[np.ndarray, "..."]) -> Float32[np.ndarray, "x y z"]:
    x, y, z = (n // 2 for n in data.shape)
    halved: np.ndarray = data[: 2 * x, : 2 * y, : 2 * z].reshape(x, 2, y, 2, z, 2).mean(axis=(1, 3, 5))
    return halved


def _depth_in_cavity(mask: Bool[np.ndarray, "x y z"]) -> Float32[np.ndarray, "x y z"]:
    """Signed distance in mm to the inner table of the skull: the brain, its clefts closed, plus a rim of fluid."""
    margin, reach = 6, 10.0 / _EDGE
    near = distance_transform_edt(~np.pad(mask, margin)) <= reach
    inner = (slice(margin, -margin),) * 3
    closed = (distance_transform_edt(near) > reach)[inner]
    signed = distance_transform_edt(closed) - distance_transform_edt(~closed)
    return gaussian_filter(signed.astype(np.float32) * np.float32(_EDGE), 1.0) + np.float32(2.0)


def _ventricles(
    mask: Bool[np.ndarray, "x y z"], tissue: Float32[np.ndarray, "x y z"], grid: Grid
) -> Bool[np.ndarray, "x y z"]:
    """Lateral and third ventricles: fluid well inside the brain, the part that hangs together."""
    central = _ellipsoid(grid, (0, -10, 12), (38, 48, 28)) > 0.5
    parts, count = label(mask & (tissue < 0.5) & central)
    sizes = np.bincount(parts.ravel(), minlength=count + 1)[1:]
    return np.isin(parts, 1 + np.flatnonzero(sizes >= 60))


def _widening(
    ventricles: Bool[np.ndarray, "x y z"], depth: Float32[np.ndarray, "x y z"]
) -> Float32[np.ndarray, "3 x y z"]:
    outside = distance_transform_edt(~ventricles) - distance_transform_edt(ventricles)
    distance = gaussian_filter(outside.astype(np.float32) * np.float32(_EDGE), 1.0)
    direction = [np.asarray(component, np.float32) for component in np.gradient(distance, _EDGE)]
    weight = np.exp(-np.maximum(distance, 0.0) / np.float32(14.0)) * np.clip((depth - 4.0) / 20.0, 0.0, 1.0)
    return np.stack([gaussian_filter(component * weight, 1.0) for component in direction]).astype(np.float32)


def _head(grid: Grid, depth: Float32[np.ndarray, "x y z"]) -> Float32[np.ndarray, "d x y z"]:
    """Fractions of what surrounds the brain, drawn from the distance to the cavity and a few ellipsoids."""
    x, y, z = grid.points()
    part = functools.partial(_ellipsoid, grid)
    out = -depth
    cavity = ramp(depth, 2.0)
    palate = 0.8 * part((0, 44, -70), (42, 36, 5)) * ramp(out - 6.5, 2.0)
    bone, marrow = np.maximum(_shell(out, 0.0, 6.5), palate), _shell(out, 2.0, 4.5) * 0.55
    fat, skin = _shell(out, 6.5, 11.5), _shell(out, 11.5, 14.0)
    temporalis = _shell(out, 6.5, 10.5) * np.maximum(part((-66, 8, -6), (16, 34, 34)), part((66, 8, -6), (16, 34, 34)))
    face = np.maximum(part((0, 58, -58), (60, 46, 52)), part((0, 96, -52), (14, 16, 24)))
    neck = ramp(1.0 - np.hypot(x / 58, (y + 32) / 60), 0.1) * ramp(-32.0 - z, 8.0)
    beyond = ramp(out - 6.5, 2.0)
    soft = np.maximum(face, neck) * beyond
    rest = 1.0 - np.clip(cavity + bone, 0.0, 1.0)
    strands = ramp(_strands(x, y, z), 0.8)
    fat = np.clip(np.maximum(fat * (1 - temporalis), soft * strands * 0.8 + _rim(soft) * 0.6), 0.0, 1.0)
    muscle = np.maximum(np.maximum(skin * 0.7, temporalis), soft * (1 - strands))
    muscle, fat, eye = _orbits(part, muscle, fat)
    air = _airways(part)
    keep = (1 - air) * rest
    maps = {
        "cavity": cavity,
        "bone": bone * (1 - marrow) * (1 - cavity),
        "fat": fat * keep + marrow * bone * (1 - cavity),
        "muscle": np.minimum(muscle, 1 - fat) * keep,
        "eye": eye * keep,
        "dura": _shell(depth, -0.5, 1.5) * 0.5 * cavity,
        "vessel": _sinuses(grid, depth) * cavity,
        "face": ramp(y * 0.75 - z - 78.0, 6.0) * ramp(out - 2.0, 3.0),
    }
    return np.stack([gaussian_filter(maps[name].astype(np.float32), 0.45) for name in HEAD])


_Part = Callable[[Triple, Triple], Float32[np.ndarray, "x y z"]]
_Map = Float32[np.ndarray, "x y z"]


def _orbits(part: _Part, muscle: _Map, fat: _Map) -> tuple[_Map, _Map, _Map]:
    """Orbital fat with the eyeballs in it; the vitreous body is water."""
    sockets = np.maximum(part((-32, 62, -34), (17, 20, 16)), part((32, 62, -34), (17, 20, 16)))
    eyes = np.maximum(part((-32, 70, -34), (12, 12, 12)), part((32, 70, -34), (12, 12, 12)))
    muscle, fat = muscle * (1 - sockets), np.maximum(fat * (1 - sockets), sockets)
    return muscle * (1 - eyes), fat * (1 - eyes), eyes


def _airways(part: _Part) -> _Map:
    """Nasal cavity, maxillary and frontal sinuses, throat."""
    hollows = [
        part((0, 66, -50), (13, 26, 20)),
        part((-26, 58, -58), (14, 15, 13)),
        part((26, 58, -58), (14, 15, 13)),
        part((0, 18, -66), (13, 9, 30)),
    ]
    return np.asarray(np.maximum.reduce(hollows))


def _sinuses(grid: Grid, depth: _Map) -> _Map:
    """Superior sagittal and transverse venous sinuses, against the inner table."""
    x, y, z = grid.points()
    sagittal = ramp(5.0 - np.abs(x), 2.0) * _shell(depth, -0.5, 5.0) * ramp(z + 0.4 * y + 8.0, 6.0)
    transverse = _shell(depth, -0.5, 5.5) * ramp(4.0 - np.abs(z + 16.0 + 0.1 * np.abs(x)), 2.0) * ramp(-y - 48.0, 8.0)
    return np.asarray(np.maximum(sagittal, transverse))


def _strands(x: _Map, y: _Map, z: _Map) -> _Map:
    """A fixed marbling of face and neck."""
    marbling: _Map = np.sin(x / 7.0 + 2 * np.sin(y / 13.0)) + np.sin(y / 8.0 + 2 * np.sin(z / 17.0)) - np.float32(0.5)
    return marbling


def _rim(soft: _Map) -> _Map:
    """The outer edge of a soft region: fat under the skin."""
    blurred = gaussian_filter(soft, 2.0)
    return soft * np.clip(2.4 * (1.0 - blurred) - 0.4, 0.0, 1.0)


def _shell(distance: _Map, start: float, stop: float) -> _Map:
    shell: _Map = ramp(distance - start, 1.5) * ramp(stop - distance, 1.5)
    return shell


def _ellipsoid(grid: Grid, centre: Triple, semi: Triple) -> _Map:
    """1 inside, 0 outside, with an edge about 3 mm wide."""
    squares = [((p - c) / s) ** 2 for p, c, s in zip(grid.points(), centre, semi, strict=True)]
    return ramp((1.0 - np.sqrt(squares[0] + squares[1] + squares[2])) * float(np.mean(semi)), 3.0)


def _soft(mask: Bool[np.ndarray, "x y z"]) -> _Map:
    return gaussian_filter(mask.astype(np.float32), 0.5)
