"""Draw docs/images/synthetic.png: the generated study at a glance.

    python benchmarks/figures_synthetic.py [target.png]

Takes about ten seconds on one core.
"""

import sys
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from fomo_ssl.core.seeding import numpy_generator
from fomo_ssl.imaging.nifti import Volume
from fomo_ssl.imaging.orientation import to_ras
from fomo_ssl.synthetic.anatomy import Anatomy, Lesion, Subject, build_anatomy
from fomo_ssl.synthetic.scanner import NORTH, SOUTH, Exam, Image, label_map, scan

SEED = 11
RED = (214, 39, 40)
FINE = (2.0, 2.0, 2.0)
NAMES = {"t1": "T1", "t1c": "T1c", "t2": "T2", "flair": "FLAIR", "dwi_b1000": "DWI", "adc": "ADC", "swi": "SWI"}


@dataclass(frozen=True)
class Panel:
    """One picture: which exam, sequence, plane (0 sagittal, 1 coronal, 2 axial) and slice as a share of the axis."""

    title: str
    exam: Exam
    sequence: str
    plane: int = 2
    place: float = 0.52
    outline: bool = False


def north(anatomy: Anatomy) -> Exam:
    """A fine whole-head exam."""
    return Exam(anatomy, NORTH, FINE, stripped=False, defaced=False)


def south(anatomy: Anatomy, sequence: str) -> Exam:
    """A skull-stripped exam with the second site's slices at 3 mm in plane."""
    slices = 3.0 * SOUTH.slice_factor * SOUTH.thick.get(sequence, 1.0)
    return Exam(anatomy, SOUTH, (3.0, 3.0, slices), stripped=True, defaced=False)


def person(index: int, age: float, finding: Lesion = "none") -> Anatomy:
    return build_anatomy(Subject(SEED, index, age, "F", finding))


def panels() -> list[list[Panel]]:
    middle, young, old = person(0, 48.0), person(1, 24.0), person(1, 86.0)
    ageing = [
        Panel(f"{NAMES[sequence]}, {age} years", north(anatomy), sequence, plane, 0.5)
        for anatomy, age in ((young, 24), (old, 86))
        for sequence, plane in (("t1", 2), ("t1", 1), ("t2", 2))
    ]
    return [
        [Panel(f"{NAMES[s]}, site north", north(middle), s) for s in NAMES],
        [Panel(f"{NAMES[s]}, site south", south(middle, s), s, 1, 0.5) for s in NAMES],
        [*ageing, Panel("FLAIR, 86 years", north(old), "flair", 2, 0.5)],
        [
            *finding(person(4, 68.0, "infarct"), "infarct", ("dwi_b1000", "adc"), 2),
            *finding(person(6, 70.0, "old_infarct"), "old infarct", ("dwi_b1000", "adc"), 2),
            *finding(person(3, 58.0, "meningioma"), "meningioma", ("t1c", "flair", "swi"), 1),
        ],
    ]


def finding(anatomy: Anatomy, label: str, sequences: tuple[str, ...], plane: int) -> list[Panel]:
    """The slice with most of the finding; a meningioma is outlined where it does not enhance."""
    place, outlined = _fullest(anatomy.lesion, plane), label == "meningioma"
    exam = north(anatomy)
    return [Panel(f"{NAMES[s]}, {label}", exam, s, plane, place, outlined and s != "t1c") for s in sequences]


def _fullest(lesion: np.ndarray, plane: int) -> float:
    others = tuple(axis for axis in range(3) if axis != plane)
    return float(np.argmax(lesion.sum(axis=others)) / lesion.shape[plane])


def slice_of(image: Image, panel: Panel) -> tuple[np.ndarray, float]:
    """The slice with its second axis upward, and the height of a pixel over its width."""
    volume = to_ras(Volume(image.data.astype(np.float32), image.affine))
    index = int(panel.place * volume.data.shape[panel.plane])
    spacing = [s for axis, s in enumerate(volume.spacing) if axis != panel.plane]
    return volume.data.take(index, axis=panel.plane).T, spacing[1] / spacing[0]


def draw(target: Path) -> None:
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    rows = panels()
    figure, axes = plt.subplots(len(rows), 7, figsize=(9.8, 1.65 * len(rows)), facecolor="black")
    for axis in axes.ravel():
        axis.axis("off")
    for row, line in zip(rows, axes, strict=True):
        for panel, axis in zip(row, line, strict=True):
            image = scan(panel.exam, panel.sequence, numpy_generator(SEED, 0, panel.title))
            pixels, aspect = slice_of(image, panel)
            high = 2500.0 if panel.sequence == "adc" else float(np.percentile(pixels[pixels > pixels.mean()], 97))
            axis.imshow(pixels, cmap="gray", origin="lower", vmin=0, vmax=high, aspect=aspect, interpolation="bilinear")
            axis.set_title(panel.title, fontsize=6, color="white", pad=2)
            if panel.outline:
                mask, _ = slice_of(label_map(panel.exam), panel)
                axis.contour(mask, [0.5], colors=[tuple(value / 255 for value in RED)], linewidths=0.9)
    figure.subplots_adjust(0.005, 0.005, 0.995, 0.97, wspace=0.03, hspace=0.1)
    target.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(target, dpi=100, facecolor="black")
    _shrink(target)


def _shrink(path: Path) -> None:
    """48 greys and the outline's red are enough, and halve the file."""
    from PIL import Image as Picture

    greys = [value for level in np.linspace(0, 255, 48).astype(int).tolist() for value in (level, level, level)]
    palette = Picture.new("P", (1, 1))
    palette.putpalette([*greys, *RED])
    with Picture.open(path) as picture:
        small = picture.convert("RGB").quantize(palette=palette, dither=Picture.Dither.NONE)
    small.save(path, optimize=True)


if __name__ == "__main__":
    draw(Path(sys.argv[1] if len(sys.argv) > 1 else "docs/images/synthetic.png"))
