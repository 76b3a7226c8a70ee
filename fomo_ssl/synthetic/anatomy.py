"""One subject: the template, bent smoothly, aged, with lesions, as tissue fractions on a fine grid."""

from dataclasses import dataclass
from typing import Literal

import numpy as np
from jaxtyping import Float32

from fomo_ssl.core.seeding import numpy_generator
from fomo_ssl.synthetic import lesions
from fomo_ssl.synthetic.contrasts import TISSUES
from fomo_ssl.synthetic.fields import Grid, sample, smooth_noise, upsample
from fomo_ssl.synthetic.template import BRAIN, HEAD, Template, load_template

Lesion = Literal["none", "infarct", "old_infarct", "meningioma"]

_Map = Float32[np.ndarray, "x y z"]
_Points = Float32[np.ndarray, "3 x y z"]
_CENTRE = np.array([0.0, -18.0, 8.0], dtype=np.float32)[:, None, None, None]
"""Middle of the brain in MNI space: heads scale, turn and shrink about it."""


@dataclass(frozen=True)
class Subject:
    """Who is scanned: the seed fixes a head, which age and sex change.

    A lesion is drawn from the same random numbers, and first: an infarct and an old infarct are of one head and in one
    place, but with no lesion, or a meningioma, the same seed and index are another head.

    Attributes:
        seed, index: identify the subject's random draws.
        age: years, 18 to 95 make sense.
        sex: "F" or "M"; male heads are a few percent larger.
        lesion: the finding; an old infarct shines through on DWI but does not restrict diffusion.
    """

    seed: int
    index: int
    age: float
    sex: Literal["F", "M"] = "F"
    lesion: Lesion = "none"


@dataclass(frozen=True)
class Anatomy:
    """A head as tissue fractions on a fine RAS+ grid.

    Attributes:
        grid: where the maps lie.
        tissues: fraction of each of `contrasts.TISSUES` that occurs, 0 to 1; the rest of a voxel is air.
        ventricles: fraction of ventricular fluid (part of the csf fraction).
        brain: 1 where a skull-stripper would keep the voxel.
        face: 1 where a defacer would blank the voxel.
        lesion: fraction of the finding, zero without one.
    """

    grid: Grid
    tissues: dict[str, _Map]
    ventricles: _Map
    brain: _Map
    face: _Map
    lesion: _Map

    @property
    def ventricle_ml(self) -> float:
        """Volume of the ventricles in millilitres."""
        return float(self.ventricles.sum(dtype=np.float64)) * self.grid.edge**3 / 1000.0

    @property
    def cortex_ml(self) -> float:
        """Volume of cortical grey matter (and cerebellar cortex) in millilitres."""
        return float(self.tissues["gm"].sum(dtype=np.float64)) * self.grid.edge**3 / 1000.0


def ageing(age: float) -> float:
    """Progress of brain ageing: 0 at 20 years, 1 at 90, faster later; strictly increasing."""
    years = (age - 20.0) / 70.0
    return 0.5 * years + 0.5 * years * abs(years)


def build_anatomy(subject: Subject, *, edge: float = 2.0, brain_only: bool = False) -> Anatomy:
    """The subject's head: a pure function of the arguments; about half a second and 100 MB at 2 mm.

    Args:
        subject: whose.
        edge: voxel size in mm.
        brain_only: leave skull, scalp and face out, for scans that are skull-stripped anyway.
    """
    template = load_template()
    grid = template.grid.resized(edge)
    rng = numpy_generator(subject.seed, subject.index, "anatomy")
    shape = lesions.Shape.draw(rng, subject.lesion)
    head_points = _bend(rng, subject, grid)
    folded = head_points + smooth_noise(rng, grid, 9.0, 3) * np.float32(1.6)
    brain_points = _age(rng, subject.age, lesions.push(shape, folded), template)
    brain = dict(zip(BRAIN, sample(template.brain, template.grid, brain_points), strict=True))
    names = HEAD[: HEAD.index("bone")] if brain_only else HEAD
    head = dict(zip(names, sample(template.head[: len(names)], template.grid, head_points), strict=True))
    tissues = _brain_tissues(brain, head["cavity"], ageing(subject.age))
    _add_hyperintensities(rng, tissues, brain["rim"], subject.age, grid)
    _add_vessels(rng, tissues, head, brain["ventricle"], grid)
    lesion = lesions.place(rng, shape, tissues, head_points, head["cavity"], grid)
    keep = np.maximum(brain["brain"] * head["cavity"], lesion if shape.kind == "meningioma" else 0.0)
    ventricles = np.minimum(brain["ventricle"], tissues["csf"])
    if not brain_only:
        tissues["csf"] += head["eye"]
        tissues |= {name: head[name] for name in ("bone", "fat", "muscle")}
    face = np.zeros_like(keep) if brain_only else head["face"]
    return Anatomy(grid, tissues, ventricles, keep, face, lesion)


def _bend(rng: np.random.Generator, subject: Subject, grid: Grid) -> _Points:
    """Template position of every voxel: size, pose and smooth differences in shape."""
    size = (1.035 if subject.sex == "M" else 0.985) * rng.uniform(0.965, 1.035, 3)
    pitch, yaw, roll = np.deg2rad(rng.normal(0.0, (5.0, 3.0, 3.0)))
    shift = rng.normal(0.0, 2.0, 3)
    turn = _rotation(0, pitch) @ _rotation(1, roll) @ _rotation(2, yaw)
    matrix = (turn / size).astype(np.float32)
    points = grid.points() - _CENTRE - shift.astype(np.float32)[:, None, None, None]
    # Written out, not as a matrix product: its bits must not depend on how many threads a BLAS uses.
    turned = np.stack([m[0] * points[0] + m[1] * points[1] + m[2] * points[2] for m in matrix])
    return turned + _CENTRE + smooth_noise(rng, grid, 40.0, 3) * np.float32(3.2)


def _rotation(axis: int, angle: float) -> np.ndarray:
    first, second = [i for i in range(3) if i != axis]
    matrix = np.eye(3)
    matrix[first, first] = matrix[second, second] = np.cos(angle)
    matrix[first, second], matrix[second, first] = -np.sin(angle), np.sin(angle)
    return matrix


def _age(rng: np.random.Generator, age: float, points: _Points, template: Template) -> _Points:
    """Atrophy as displacement: the brain shrinks inside the skull, ventricles push their walls outward."""
    progress = ageing(age)
    shrunk = (points - _CENTRE) * np.float32(1.0 / (1.005 - 0.035 * progress)) + _CENTRE
    wall_mm = -0.8 + 4.8 * progress + rng.normal(0.0, 0.35)
    # The field is smooth: every other voxel is enough to look it up at.
    widening = sample(template.widening, template.grid, np.ascontiguousarray(shrunk[:, ::2, ::2, ::2]))
    return shrunk - np.float32(wall_mm) * _double(widening, shrunk.shape[1:])


def _double(field: Float32[np.ndarray, "3 _ _ _"], shape: tuple[int, ...]) -> _Points:
    """Fill in the voxels between those of `[::2, ::2, ::2]`; an even axis repeats its last value."""
    x, y, z = ((n + 1) // 2 * 2 - 1 for n in shape)
    full = upsample(field, (x, y, z))
    return np.pad(full, [(0, 0), *((0, n - m) for n, m in zip(shape, (x, y, z), strict=True))], mode="edge")


def _brain_tissues(brain: dict[str, _Map], cavity: _Map, progress: float) -> dict[str, _Map]:
    """Fractions inside the skull; thinning moves the border between cortex and fluid in the odds of the two."""
    odds = {name: np.clip(brain[name], 0.0, 1.0) for name in ("gm", "wm", "deep_gm")}
    fluid = np.clip(1.0 - odds["gm"] - odds["wm"] - odds["deep_gm"], 0.0, 1.0)
    # The template is an average: squaring the odds gives back the edges of a single brain.
    odds = {name: p * p for name, p in odds.items()}
    odds["gm"] = odds["gm"] * np.float32(np.exp(-0.6 * progress))
    fluid = fluid * fluid * np.float32(np.exp(0.6 * progress))
    total = fluid + odds["gm"] + odds["wm"] + odds["deep_gm"] + np.float32(1e-6)
    tissues = {name: p / total * cavity for name, p in odds.items()}
    tissues["csf"] = np.maximum(cavity - tissues["gm"] - tissues["wm"] - tissues["deep_gm"], 0.0)
    return tissues


def _add_hyperintensities(
    rng: np.random.Generator, tissues: dict[str, _Map], rim: _Map, age: float, grid: Grid
) -> None:
    """White-matter hyperintensities: caps around the ventricles and spots, more with age, more in some people."""
    burden = float(np.clip((age - 35.0) / 50.0, 0.0, 1.0)) * rng.uniform(0.2, 1.3)
    field = smooth_noise(rng, grid, 3.6)[0]
    caps = np.clip(rim * 9.0 + field * 0.4 - 2.0 + 1.4 * burden, 0.0, 1.0) * min(burden, 1.0)
    spots = np.clip((field - 3.1 + 1.1 * burden) * 3.0, 0.0, 1.0)
    _move(tissues, "hyperintensity", np.maximum(caps, spots), ("wm",))


def _add_vessels(
    rng: np.random.Generator, tissues: dict[str, _Map], head: dict[str, _Map], ventricle: _Map, grid: Grid
) -> None:
    """Dura and sinuses from the template; veins along the curves where two random fields are both zero."""
    first, second = smooth_noise(rng, grid, 9.0, 2)
    veins = np.exp((first * first + second * second) * np.float32(-1 / (2 * 0.11**2))) * (1 - ventricle)
    _move(tissues, "dura", head["dura"], ("csf",))
    _move(tissues, "vessel", np.maximum(head["vessel"], veins * np.float32(0.7)), ("csf",))
    _move(tissues, "vessel", veins * np.float32(0.45), ("gm", "wm"))


def _move(tissues: dict[str, _Map], name: str, share: _Map, sources: tuple[str, ...]) -> None:
    """Turn `share` of each source tissue into `name`; the sum over tissues stays."""
    assert name in TISSUES
    moved = tissues.get(name, np.float32(0.0))
    for source in sources:
        part = tissues[source] * share
        tissues[source] = tissues[source] - part
        moved = moved + part
    tissues[name] = np.asarray(moved)
