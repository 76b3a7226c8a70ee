import socket

import numpy as np
import pytest

from fomo_ssl.synthetic import lesions
from fomo_ssl.synthetic.anatomy import Anatomy, Subject, ageing, build_anatomy
from fomo_ssl.synthetic.template import BRAIN, HEAD, load_template

EDGE = 5.0


def build(index: int, age: float, lesion: str = "none", brain_only: bool = True) -> Anatomy:
    return build_anatomy(Subject(0, index, age, "F", lesion), edge=EDGE, brain_only=brain_only)  # type: ignore[arg-type]


@pytest.mark.slow  # nilearn's loaders take seconds to import
def test_the_template_holds_the_maps_that_nilearn_loads(monkeypatch: pytest.MonkeyPatch) -> None:
    from nilearn.datasets import load_mni152_gm_template, load_mni152_wm_template

    def no_network(*_: object, **__: object) -> None:
        raise AssertionError("the template must not touch the network")

    monkeypatch.setattr(socket, "socket", no_network)
    load_template.cache_clear()
    template = load_template()
    gm, wm = (f(resolution=1).get_fdata(dtype=np.float32) for f in (load_mni152_gm_template, load_mni152_wm_template))
    block = (slice(60, 62), slice(100, 102), slice(90, 92))
    x, y, z = 30, 50, 45
    mine = template.brain[:, x, y, z]
    assert mine[BRAIN.index("gm")] + mine[BRAIN.index("deep_gm")] == pytest.approx(gm[block].mean(), abs=1e-5)
    assert mine[BRAIN.index("wm")] == pytest.approx(wm[block].mean(), abs=1e-5)
    np.testing.assert_allclose(template.grid.origin, (-97.5, -133.5, -71.5))


def test_template_maps_are_fractions_and_the_head_surrounds_the_brain() -> None:
    template = load_template()
    for maps in (template.brain, template.head):
        assert maps.min() >= 0
        assert maps.max() <= 1.0001
    head = dict(zip(HEAD, template.head, strict=True))
    outside = sum(head[name] for name in ("cavity", "bone", "fat", "muscle", "eye"))
    assert np.max(outside) < 1.05
    assert head["bone"][:, :, 60].sum() > 100
    assert (template.brain[BRAIN.index("brain")] > 0.9)[template.depth < -4].sum() == 0


def test_a_head_is_the_same_every_time_and_differs_by_subject() -> None:
    first, again, other = build(1, 50.0), build(1, 50.0), build(2, 50.0)
    for name, fraction in first.tissues.items():
        assert fraction.tobytes() == again.tissues[name].tobytes()
    assert np.abs(first.tissues["wm"] - other.tissues["wm"]).mean() > 0.005


@pytest.mark.parametrize("lesion", ["none", "infarct", "old_infarct", "meningioma"])
def test_fractions_are_a_partition_of_the_head(lesion: str) -> None:
    anatomy = build(3, 70.0, lesion, brain_only=False)
    total = sum(anatomy.tissues.values())
    assert np.min([fraction.min() for fraction in anatomy.tissues.values()]) > -1e-5
    assert np.max(total) < 1.02
    assert np.min(np.asarray(total)[anatomy.brain > 0.9]) > 0.95


def test_ageing_is_monotone_in_one_subject() -> None:
    ages = [20.0, 40.0, 60.0, 75.0, 90.0]
    heads = [build(4, age) for age in ages]
    assert np.all(np.diff([ageing(age) for age in ages]) > 0)
    assert np.all(np.diff([head.ventricle_ml for head in heads]) > 0)
    assert np.all(np.diff([head.cortex_ml for head in heads]) < 0)


def test_ventricles_follow_age_over_subjects() -> None:
    ages = np.linspace(20, 90, 24)
    heads = [build(100 + index, float(age)) for index, age in enumerate(ages)]
    ventricles, cortex = ([getattr(h, name) for h in heads] for name in ("ventricle_ml", "cortex_ml"))
    assert np.corrcoef(ages, ventricles)[0, 1] > 0.7
    assert np.corrcoef(ages, cortex)[0, 1] < -0.4
    assert 8 < min(ventricles) < max(ventricles) < 90
    assert 400 < min(cortex) < max(cortex) < 1300


def test_hyperintensities_come_with_age() -> None:
    young, old = (np.mean([build(i, age).tissues["hyperintensity"].sum() for i in range(5)]) for age in (25.0, 85.0))
    assert old > 5 * young


def test_an_infarct_takes_the_place_of_tissue_and_leaves_the_rest() -> None:
    healthy, ill = build(5, 60.0), build(5, 60.0, "infarct")
    assert ill.lesion.max() > 0.5
    assert 0.3 < ill.lesion.sum() * EDGE**3 / 1000 < 120
    away = ill.lesion == 0
    for name in ("gm", "wm"):
        assert ill.tissues[name].sum() < healthy.tissues[name].sum()
    # A drawn lesion uses up random numbers, so only the share of tissue can be compared, not its place.
    assert ill.brain[away].mean() == pytest.approx(healthy.brain[away].mean(), rel=0.1)


@pytest.mark.parametrize("index", range(4))
def test_a_meningioma_is_one_round_mass_on_the_dura(index: int) -> None:
    from scipy.ndimage import binary_dilation, distance_transform_edt, label

    anatomy = build(index, 55.0, "meningioma")
    mass = anatomy.lesion > 0.5
    parts, count = label(mass)
    assert count >= 1
    assert np.bincount(parts.ravel())[1:].max() > 0.9 * mass.sum()
    inside = sum(anatomy.tissues.values()) > 0.5
    to_skull = distance_transform_edt(inside) * EDGE
    assert to_skull[mass].min() <= 2 * EDGE
    rim = binary_dilation(mass, iterations=1) & ~mass
    assert anatomy.tissues["meningioma"][~mass & ~rim].max() < 0.5


def test_mass_effect_moves_tissue_outward_and_fades() -> None:
    shape = lesions.Shape("meningioma", centre=(0.0, 0.0, 0.0), radius=10.0)
    radii = np.array([9.0, 12.0, 20.0, 60.0], dtype=np.float32)
    points = np.zeros((3, 4, 1, 1), np.float32)
    points[0, :, 0, 0] = radii
    came_from = lesions.push(shape, points)[0, :, 0, 0]
    assert np.all(np.diff(came_from) > 0)
    moved = radii - came_from
    assert np.all(np.diff(moved) < 0)
    assert moved[1] > 1.0
    assert moved[-1] < 0.1
    volume = (radii**3 - came_from**3)[1:]
    np.testing.assert_allclose(volume, 0.55 * 1000, rtol=0.02)
