"""Infarcts and meningiomas: where they sit, what they push aside, which tissue they replace.

Their geometry lives in template coordinates, so they bend with the head they are in.
"""

import functools
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float32

from fomo_ssl.synthetic.fields import Grid, ramp, smooth_noise
from fomo_ssl.synthetic.template import BRAIN, load_template

_Map = Float32[np.ndarray, "x y z"]
_Points = Float32[np.ndarray, "3 x y z"]

_PARENCHYMA = ("gm", "wm", "deep_gm", "hyperintensity")


@dataclass(frozen=True)
class Shape:
    """A lesion's place and size in template mm, drawn once.

    Attributes:
        kind: none, infarct, old_infarct or meningioma.
        form: wedge (a territory, apex inside and base on the cortex) or blob; a meningioma is a blob on the dura.
        centre: of a blob, or the apex of a wedge.
        axis: unit vector, of a wedge to its base, of a meningioma inward from the dura.
        radius: mm, of a wedge its length.
        oedema: mm of swollen white matter around a meningioma.
        severity: share of tissue that an infarct takes.
    """

    kind: str
    form: str = "blob"
    centre: tuple[float, float, float] = (0.0, 0.0, 0.0)
    axis: tuple[float, float, float] = (1.0, 0.0, 0.0)
    radius: float = 0.0
    oedema: float = 0.0
    severity: float = 1.0

    @classmethod
    def draw(cls, rng: np.random.Generator, kind: str) -> "Shape":
        """Draw a lesion of `kind`; "none" draws nothing."""
        if kind == "none":
            return cls(kind)
        if kind == "meningioma":
            return _draw_meningioma(rng)
        return _draw_infarct(rng, kind)


def _draw_infarct(rng: np.random.Generator, kind: str) -> Shape:
    severity = float(rng.uniform(0.75, 1.0))
    if rng.random() < 0.5:
        side = 1.0 if rng.random() < 0.5 else -1.0
        apex = (side * rng.uniform(22, 30), rng.uniform(-35, 15), rng.uniform(2, 26))
        axis = _unit(np.array([side, rng.uniform(-0.9, 0.9), rng.uniform(-0.3, 0.8)]))
        return Shape(kind, "wedge", apex, axis, float(rng.uniform(38, 56)), severity=severity)
    sites = _parenchyma_sites()
    centre = _triple(sites[int(rng.integers(len(sites)))])
    return Shape(kind, "blob", centre, (1.0, 0.0, 0.0), float(rng.uniform(7, 17)), severity=severity)


def _draw_meningioma(rng: np.random.Generator) -> Shape:
    points, inward = _dura_sites()
    which = int(rng.integers(len(points)))
    radius = float(rng.uniform(10, 19))
    centre = points[which] + inward[which] * (0.55 * radius - 2.0)
    oedema = float(rng.uniform(4, 11)) if rng.random() < 0.4 else 0.0
    return Shape("meningioma", "blob", _triple(centre), _unit(inward[which]), radius, oedema)


def push(shape: Shape, points: _Points) -> _Points:
    """Mass effect: where brain tissue at `points` came from before a meningioma grew; other lesions push nothing.

    A ball of 0.55 of the tumour's volume is inserted at its centre and everything moves outward, volumes kept.
    """
    if shape.kind != "meningioma":
        return points
    centre = np.array(shape.centre, dtype=np.float32)[:, None, None, None]
    offset = points - centre
    cube = np.sqrt((offset * offset).sum(axis=0)) ** 3 + np.float32(1e-3)
    factor = np.cbrt(np.clip(1.0 - np.float32(0.55 * shape.radius**3) / cube, 1e-3, 1.0))
    moved: _Points = centre + offset * factor
    return moved


def place(
    rng: np.random.Generator, shape: Shape, tissues: dict[str, _Map], points: _Points, cavity: _Map, grid: Grid
) -> _Map:
    """Put the lesion into `tissues` (changed in place) and return its fraction per voxel."""
    if shape.kind == "none":
        return np.zeros(grid.shape, np.float32)
    inside = _distance_inside(shape, points) + smooth_noise(rng, grid, 5.0)[0] * np.float32(0.09 * shape.radius + 0.4)
    if shape.kind == "meningioma":
        return _place_meningioma(shape, tissues, inside, cavity)
    share = ramp(inside, 3.0) * np.float32(shape.severity)
    return _replace(tissues, shape.kind, share, _PARENCHYMA)


def _place_meningioma(shape: Shape, tissues: dict[str, _Map], inside: _Map, cavity: _Map) -> _Map:
    if shape.oedema:
        swollen = ramp(inside + np.float32(shape.oedema), 5.0) * np.float32(0.8)
        _replace(tissues, "hyperintensity", swollen, ("wm",))
    tail = ramp(inside + 8.0, 6.0) * np.float32(0.6)  # Thickened dura beside the tumour.
    if "dura" in tissues:
        tissues["dura"] = np.minimum(tissues["dura"] * (1.0 + tail), tissues["dura"] + tissues["csf"])
        tissues["csf"] = np.maximum(tissues["csf"] - tissues["dura"] * tail / (1.0 + tail), 0.0)
    _replace(tissues, "csf", ramp(inside + 1.5, 2.0) * np.float32(0.5), _PARENCHYMA)  # The cleft around it.
    share = ramp(inside, 1.5) * ramp(cavity - np.float32(0.5), 0.6)
    return _replace(tissues, "meningioma", share, tuple(name for name in tissues if name != "meningioma"))


def _distance_inside(shape: Shape, points: _Points) -> _Map:
    """Roughly the distance in mm to the lesion's edge, positive inside."""
    offset = points - np.array(shape.centre, dtype=np.float32)[:, None, None, None]
    ax, ay, az = shape.axis
    along = offset[0] * np.float32(ax) + offset[1] * np.float32(ay) + offset[2] * np.float32(az)
    square = (offset * offset).sum(axis=0)
    if shape.form == "wedge":
        across = np.sqrt(np.maximum(square - along * along, 0.0))
        flank = (along + 4.0) * np.float32(0.42) - across * np.float32(0.85)
        return np.asarray(np.minimum(flank, np.float32(shape.radius) - along))
    if shape.kind == "meningioma":
        square = square + along * along * np.float32(0.45)  # Flattened against the dura.
    return np.asarray(np.float32(shape.radius) - np.sqrt(square))


def _replace(tissues: dict[str, _Map], name: str, share: _Map, sources: tuple[str, ...]) -> _Map:
    """Turn `share` of each source into `name`; returns the fraction that moved."""
    moved = np.zeros_like(share)
    for source in sources:
        if source in tissues:
            part = tissues[source] * share
            tissues[source] = tissues[source] - part
            moved += part
    tissues[name] = tissues[name] + moved if name in tissues else moved
    return moved


@functools.cache
def _parenchyma_sites() -> Float32[np.ndarray, "n 3"]:
    """Places of infarcts: hemispheres and cerebellum, not on the edge."""
    template = load_template()
    tissue = sum(template.brain[BRAIN.index(name)] for name in ("gm", "wm", "deep_gm"))
    x, _, z = template.grid.points()
    good = (np.asarray(tissue) > 0.8) & (template.depth > 5) & (np.abs(x) > 9) & (z > -34)
    return _every_third(template.grid)[:, _thin(good)].T


@functools.cache
def _dura_sites() -> tuple[Float32[np.ndarray, "n 3"], Float32[np.ndarray, "n 3"]]:
    """Places of meningiomas on the inner table, with the inward direction: convexity, midline and frontal base."""
    template = load_template()
    z = template.grid.points()[2]
    shell = (np.abs(template.depth - 2.0) < 1.2) & (z > -14)
    inward = np.stack(np.gradient(template.depth, template.grid.edge)).astype(np.float32)
    chosen = _thin(shell)
    direction = inward[:, ::3, ::3, ::3][:, chosen].T
    direction /= np.linalg.norm(direction, axis=1, keepdims=True) + np.float32(1e-6)
    return _every_third(template.grid)[:, chosen].T, direction


def _thin(mask: np.ndarray) -> np.ndarray:
    return mask[::3, ::3, ::3]


def _every_third(grid: Grid) -> Float32[np.ndarray, "3 x y z"]:
    return grid.points()[:, ::3, ::3, ::3]


def _unit(vector: np.ndarray) -> tuple[float, float, float]:
    return _triple(vector / np.linalg.norm(vector))


def _triple(vector: np.ndarray) -> tuple[float, float, float]:
    x, y, z = (float(v) for v in vector)
    return x, y, z
