"""The augmenter as a whole: presets, switches, streams, recorded parameters and pairs of image and label."""

from dataclasses import fields, replace
from pathlib import Path

import pytest
import torch
from omegaconf import OmegaConf

from fomo_ssl.core.errors import ConfigError
from fomo_ssl.core.types import CropBatch
from fomo_ssl.corpus.codec import LEVELS, NOT_VALID
from fomo_ssl.data.augment import Augmenter
from fomo_ssl.data.augment.presets import INTENSITY, PRESETS, SPATIAL, TRANSFORMS

CONF = Path(__file__).parents[2] / "conf" / "augment"


def _batch(samples=(0, 1, 2, 3), views=1, edge=12):
    generator = torch.Generator().manual_seed(0)
    everyone = [torch.randint(-3000, 3000, (64, 1, edge, edge, edge), generator=generator) for _ in range(views)]
    at = list(samples)
    scale = torch.linspace(1e-3, 2e-3, 64)[at].repeat(views, 1)
    return CropBatch(
        images=[image[at].to(torch.int16) for image in everyone],
        scale=scale,
        offset=scale * 100,
        origins=torch.zeros(views, len(at), 3, dtype=torch.int64),
        keys=torch.tensor(at) * 7919,
        indices=torch.tensor(at),
        rows=torch.tensor(at).repeat(views, 1),
        spacing=torch.tensor([1.0, 1.0, 2.0]).repeat(len(at), 1),
        sequences=torch.ones(views, len(at), dtype=torch.int64),
        paired=torch.ones(len(at), dtype=torch.bool),
    )


def _normalised(batch, view=0):
    spread = (slice(None), None, None, None, None)
    return batch.images[view].float() * batch.scale[view][spread] + batch.offset[view][spread]


def test_without_augmentation_the_views_are_the_normalised_crops():
    batch = _batch(views=2)
    views = Augmenter("none")(batch)
    for view in range(2):
        torch.testing.assert_close(views.images[view], _normalised(batch, view))
        assert torch.equal(views.images[view], views.targets[view])
    assert torch.equal(views.keys, batch.keys)


def test_targets_carry_the_spatial_part_only():
    batch = _batch(range(32))
    everything, spatial = Augmenter("all")(batch), Augmenter("spatial")(batch)
    assert torch.equal(everything.targets[0], spatial.images[0])
    assert not torch.equal(everything.images[0], everything.targets[0])
    intensity = Augmenter("intensity")(batch)
    torch.testing.assert_close(intensity.targets[0], _normalised(batch))


@pytest.mark.parametrize("preset", ["spatial", "intensity", "all"])
def test_a_sample_does_not_depend_on_its_batch(preset):
    augment = Augmenter(preset)
    together = augment(_batch(range(24), views=2))
    turned = augment(_batch(reversed(range(24)), views=2))
    alone = augment(_batch([5], views=2))
    for view in range(2):
        torch.testing.assert_close(together.images[view], turned.images[view].flip(0), rtol=1e-5, atol=1e-5)
        torch.testing.assert_close(together.images[view][5:6], alone.images[view], rtol=1e-5, atol=1e-5)


def test_the_same_keys_give_the_same_bits_and_others_do_not():
    batch = _batch()
    first, again = Augmenter("all")(batch), Augmenter("all")(batch)
    assert torch.equal(first.images[0], again.images[0])
    batch.keys += 1
    assert not torch.equal(first.images[0], Augmenter("all")(batch).images[0])


def test_views_and_transforms_draw_from_streams_of_their_own():
    batch = _batch(range(32), views=2)
    batch.images[1] = batch.images[0]
    _, records = Augmenter("all")(batch), Augmenter("all").augment(batch)[1]
    for name in PRESETS["all"]:
        drawn = [record[name] for record in records]
        assert any(not torch.equal(getattr(drawn[0], f.name), getattr(drawn[1], f.name)) for f in fields(drawn[0]))
    kept = Augmenter("all", noise=False, flip=False).augment(batch)[1][0]
    assert torch.equal(kept["gamma"].exponent, records[0]["gamma"].exponent)


def test_recorded_parameters_repeat_the_view():
    batch = _batch(range(16))
    augmenter = Augmenter("intensity", gamma={"p": 1.0})
    views, (record,) = augmenter.augment(batch)
    x = _normalised(batch)
    for name, transform in augmenter.intensity.items():
        x = transform.apply(x, record[name])
    torch.testing.assert_close(x, views.images[0])


def test_switches_add_remove_and_change():
    augmenter = Augmenter("spatial", elastic=False, noise=True, affine={"p": 1.0, "degrees": 5.0})
    assert set(augmenter.spatial) == {"flip", "affine"}
    assert set(augmenter.intensity) == {"noise"}
    assert augmenter.spatial["affine"].p == 1.0
    assert augmenter.spatial["affine"].zoom == SPATIAL["affine"]["zoom"]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"preset": "everything"}, "everything"),
        ({"sharpen": True}, "sharpen"),
        ({"noise": {"sigmas": 1.0}}, "sigmas"),
        ({"elastic": {"amplitude": 0.6}}, "amplitude"),
    ],
)
def test_what_does_not_exist_is_named(arguments, message):
    with pytest.raises(ConfigError, match=message):
        Augmenter(**arguments)


def test_label_and_image_move_together():
    keys = torch.arange(8)
    label = torch.zeros(8, 16, 16, 16, dtype=torch.int64)
    label[:, 3:9, 4:12, 5:14] = 2
    label[:, 9:13, 4:12, 5:14] = 7
    augmenter = Augmenter("spatial", flip={"p": (0.5, 0.5, 0.5)}, affine={"p": 0.8}, elastic={"p": 0.8})
    image, moved = augmenter.pair(label[:, None].float().expand(-1, 2, -1, -1, -1), label, keys)
    assert moved.dtype == torch.int64
    assert set(moved.unique().tolist()) <= {0, 2, 7}
    assert not torch.equal(moved, label)
    # Where the interpolated image is pure, no boundary is near and the label has to say the same.
    pure = (image[:, 0] - image[:, 0].round()).abs() < 1e-4
    agree = (image[:, 0].round().long() == moved)[pure & (image[:, 0] > 6.9)]
    assert len(agree) > 500
    assert agree.float().mean() > 0.99
    assert torch.equal(image[:, 0], image[:, 1])


def test_pair_gives_each_sequence_its_own_intensity_and_takes_no_label():
    image = torch.randn(2, 1, 10, 10, 10, generator=torch.Generator().manual_seed(0)).expand(-1, 3, -1, -1, -1)
    out, label = Augmenter("none", gamma={"p": 1.0}).pair(image, None, torch.tensor([1, 2]))
    assert label is None
    assert not torch.equal(out[:, 0], out[:, 1])


def test_nothing_touches_the_global_generator():
    before = torch.get_rng_state()
    Augmenter("all")(_batch())
    assert torch.equal(before, torch.get_rng_state())


def test_presets_and_their_files_agree():
    assert set(PRESETS["all"]) == set(TRANSFORMS) == set(SPATIAL) | set(INTENSITY)
    assert {path.stem for path in CONF.glob("*.yaml")} == set(PRESETS)
    for preset in PRESETS:
        from_file = Augmenter(**OmegaConf.to_container(OmegaConf.load(CONF / f"{preset}.yaml")))
        plain = Augmenter(preset)
        assert (from_file.spatial, from_file.intensity) == (plain.spatial, plain.intensity)


def _flagged(samples=range(16)):
    """Crops of a bright slab that does not count and a dark rest that does, and the same crops without the flags."""
    batch = _batch(samples)
    slab = torch.zeros(batch.images[0].shape[2:], dtype=torch.bool)
    slab[:, 5:9, 2:] = True
    stored = torch.where(slab, LEVELS, 0).to(torch.int16).expand_as(batch.images[0]).contiguous()
    return replace(batch, images=[stored | torch.where(slab, NOT_VALID, 0).to(torch.int16)], flagged=True), replace(
        batch, images=[stored]
    )


@pytest.mark.parametrize("preset", ["none", "spatial", "all"])
def test_what_counts_moves_with_the_image(preset):
    flagged, plain = _flagged()
    views, without = Augmenter(preset)(flagged), Augmenter(preset)(plain)
    assert without.valid is None
    assert torch.equal(views.images[0], without.images[0])
    assert torch.equal(views.targets[0], without.targets[0])
    (valid,) = views.valid
    assert valid.dtype == torch.bool
    assert valid.shape == views.images[0].shape
    # The image is bright just where it does not count, so after a warp its bright half is what does not count.
    low, high = (flagged.offset[0], flagged.offset[0] + LEVELS * flagged.scale[0])
    bright = views.targets[0] > ((low + high) / 2)[:, None, None, None, None]
    assert (bright != valid).float().mean() > (0.999 if preset == "none" else 0.97)
    if preset != "none":
        still = Augmenter("none")(flagged).valid[0]
        assert not torch.equal(valid, still)


def test_flips_move_what_counts_exactly():
    flagged, _ = _flagged()
    augment = Augmenter("none", flip={"p": (1.0, 1.0, 0.0)})
    still, turned = Augmenter("none")(flagged).valid[0], augment(flagged).valid[0]
    assert torch.equal(turned, still.flip(2, 3))
