import numpy as np
import pytest

from fomo_ssl.core.seeding import numpy_generator
from fomo_ssl.imaging.nifti import Volume
from fomo_ssl.imaging.orientation import orientation, to_ras
from fomo_ssl.synthetic.anatomy import Anatomy, Subject, build_anatomy
from fomo_ssl.synthetic.fields import Grid
from fomo_ssl.synthetic.scanner import NORTH, SITES, SOUTH, Exam, Site, label_map, scan, to_grid

SPACING = (4.0, 4.0, 4.0)


@pytest.fixture(scope="module")
def ill() -> Anatomy:
    return build_anatomy(Subject(0, 12, 66.0, "F", "infarct"), edge=2.7)


def pictures(anatomy: Anatomy, site: Site, stripped: bool, *sequences: str) -> dict[str, np.ndarray]:
    exam = Exam(anatomy, site, SPACING, stripped, defaced=False)
    images = {s: scan(exam, s, numpy_generator(0, 0, s)) for s in sequences}
    return {s: to_ras(Volume(image.data, image.affine)).data.astype(float) for s, image in images.items()}


def test_averaging_agrees_with_a_plain_loop() -> None:
    data = np.random.default_rng(0).standard_normal((9, 7, 8)).astype(np.float32)
    grid = Grid((9, 7, 8), 2.0, (0.0, 0.0, 0.0))
    got = to_grid(data, grid, (3.0, 2.0, 5.0))
    fine = data.repeat(2, axis=0).repeat(2, axis=2)  # 1 mm voxels, so that windows of 3 and 5 mm are whole
    expected = np.zeros((6, 7, 3))
    for i in range(6):
        for k in range(3):
            expected[i, :, k] = fine[3 * i : 3 * i + 3, :, 5 * k : 5 * k + 5].mean(axis=(0, 2))
    np.testing.assert_allclose(got, expected, atol=1e-5)


@pytest.mark.parametrize("site", SITES, ids=lambda site: site.name)
def test_an_infarct_is_bright_on_dwi_and_dark_on_adc(ill: Anatomy, site: Site) -> None:
    images = pictures(ill, site, True, "dwi_b1000", "adc", "flair")
    core = to_grid(ill.lesion, ill.grid, SPACING) > 0.6
    brain = (to_grid(ill.tissues["gm"] + ill.tissues["wm"], ill.grid, SPACING) > 0.9) & ~core
    ratio = {s: np.median(image[core]) / np.median(image[brain]) for s, image in images.items()}
    assert ratio["dwi_b1000"] > 1.6
    assert ratio["adc"] < 0.8
    assert 1.05 < ratio["flair"] < 2.0
    assert 600 < np.median(images["adc"][brain]) < 1000


def test_a_meningioma_enhances_and_is_isointense_without_contrast_agent() -> None:
    anatomy = build_anatomy(Subject(0, 3, 55.0, "F", "meningioma"), edge=2.7)
    images = pictures(anatomy, NORTH, False, "t1", "t1c", "flair")
    mask = to_ras(_as_volume(label_map(Exam(anatomy, NORTH, SPACING, False, False)))).data > 0
    cortex = to_grid(anatomy.tissues["gm"], anatomy.grid, SPACING) > 0.85
    ratio = {s: np.median(image[mask]) / np.median(image[cortex]) for s, image in images.items()}
    assert ratio["t1c"] > 1.6
    assert 0.75 < ratio["t1"] < 1.35
    assert 0.75 < ratio["flair"] < 1.35


def _as_volume(image: object) -> Volume:
    return Volume(image.data.astype(np.float32), image.affine)  # type: ignore[attr-defined]


def test_sites_store_the_same_world_in_their_own_order(ill: Anatomy) -> None:
    exams = [Exam(ill, site, SPACING, True, False) for site in SITES]
    masks = [label_map(exam) for exam in exams]
    assert [orientation(mask.affine) for mask in masks] == ["LAS", "PSR"]
    centres = [(mask.affine @ np.append(np.argwhere(mask.data).mean(axis=0), 1.0))[:3] for mask in masks]
    np.testing.assert_allclose(centres[0], centres[1], atol=1e-6)
    expected = ill.grid.affine @ np.append(np.argwhere(ill.lesion > 0.5).mean(axis=0), 1.0)
    np.testing.assert_allclose(centres[0], expected[:3], atol=2.5)


def test_sites_differ_in_gain_and_noise(ill: Anatomy) -> None:
    north, south = (pictures(ill, site, False, "t1")["t1"] for site in SITES)
    assert np.median(south[south > south.mean()]) > 1.5 * np.median(north[north > north.mean()])
    air = (slice(0, 3), slice(0, 3), slice(-3, None))
    assert south[air].mean() / SOUTH.gain > 1.3 * north[air].mean() / NORTH.gain


def test_stripping_leaves_the_brain_and_exact_zeros(ill: Anatomy) -> None:
    whole, brain = (pictures(ill, NORTH, stripped, "t2")["t2"] for stripped in (False, True))
    assert 0.08 < (brain > 0).mean() < 0.4
    assert (whole > 0).mean() > 0.9
    np.testing.assert_array_equal(brain[brain > 0], whole[brain > 0])


def test_defacing_blanks_the_face_only(ill: Anatomy) -> None:
    exams = [Exam(ill, NORTH, SPACING, False, defaced) for defaced in (False, True)]
    whole, defaced = (scan(exam, "t1", numpy_generator(0)).data for exam in exams)
    changed = whole != defaced
    assert 0.005 < changed.mean() < 0.25
    assert (defaced[changed] == 0).all()
    blanked = to_ras(Volume(changed.astype(np.float32), scan(exams[0], "t1", numpy_generator(0)).affine)).data
    assert np.argwhere(blanked)[:, 1].min() > blanked.shape[1] // 2
    brain = to_grid(ill.brain, ill.grid, SPACING) > 0.5
    assert not (blanked > 0)[brain].any()
