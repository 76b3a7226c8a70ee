import numpy as np
import pytest
import torch

from fomo_ssl.downstream.batches import BatchStream
from fomo_ssl.downstream.cases import centre_origin, load_example, window
from fomo_ssl.downstream.tasks import load_task
from fomo_ssl.imaging.canonical import CanonicalSpec
from fomo_ssl.imaging.nifti import read
from fomo_ssl.imaging.orientation import to_ras

SPEC = CanonicalSpec(1.0, crop_foreground=False)


@pytest.fixture
def examples(make_task):
    task = load_task(make_task("segmentation", 3))
    return [load_example(case, task.sequences, SPEC) for case in task.cases]


def test_window_is_padded_with_the_background():
    image = np.arange(2 * 3 * 3 * 3, dtype=np.float32).reshape(2, 3, 3, 3)
    cut = window(image, (-1, 1, 2), (3, 4, 2), np.array([-5.0, -7.0]))
    padded = np.pad(image, [(0, 0), (1, 0), (0, 2), (0, 1)], constant_values=np.nan)
    expected = padded[:, 0:3, 1:5, 2:4]
    for channel, value in enumerate((-5.0, -7.0)):
        assert np.array_equal(cut[channel], np.nan_to_num(expected[channel], nan=value))


@pytest.mark.parametrize("origin", [(5, 0, 0), (-9, 0, 0)])
def test_window_outside_the_volume_is_all_background(origin):
    assert (window(np.ones((4, 4, 4), np.uint8), origin, (2, 2, 2), 0.0) == 0).all()


def test_centre_is_kept_when_padding_and_when_cutting():
    image = np.zeros((1, 9, 4, 7), np.float32)
    image[0, 4, 2, 3] = 1.0
    for size in ((5, 8, 7), (13, 4, 3)):
        cut = window(image, centre_origin(image.shape[1:], size), size, 0.0)
        assert cut[0, size[0] // 2, size[1] // 2, size[2] // 2] == 1.0


def test_batches_are_a_function_of_seed_and_step(examples):
    streams = [BatchStream(examples, (16, 16, 16), 2, 5, 0.5, seed) for seed in (0, 0, 1)]
    first, again, other = (list(stream) for stream in streams)
    for one, two in zip(first, again, strict=True):
        assert torch.equal(one.images, two.images)
        assert torch.equal(one.keys, two.keys)
    assert torch.equal(streams[0].batch(3).images, first[3].images)
    assert not all(torch.equal(one.images, two.images) for one, two in zip(first, other, strict=True))


def test_examples_take_turns(examples):
    stream = BatchStream(examples, (32, 32, 32), 3, 4, 0.0, 0)
    for batch in stream:
        sums = {round(float(image.sum()), 1) for image in batch.images}
        assert len(sums) == 3


def test_image_and_mask_of_a_crop_belong_together(examples):
    for batch in BatchStream(examples, (16, 32, 12), 2, 6, 0.5, 0):
        for image, mask in zip(batch.images[:, 0], batch.masks, strict=True):
            if (mask == 1).any() and (mask == 2).any():
                assert image[mask == 1].mean() > image[mask == 0].mean() > image[mask == 2].mean()


def test_foreground_crops_hold_foreground_of_every_class(examples):
    crops = [batch.masks for batch in BatchStream(examples, (4, 4, 4), 4, 25, 1.0, 0)]
    masks = torch.cat(crops)
    assert bool((masks > 0).flatten(1).any(1).all())
    assert all(float((masks == label).flatten(1).any(1).float().mean()) > 0.35 for label in (1, 2))
    free = torch.cat([batch.masks for batch in BatchStream(examples, (4, 4, 4), 4, 25, 0.0, 0)])
    assert float((free > 0).flatten(1).any(1).float().mean()) < 0.8


def test_second_sequence_and_mask_follow_the_first_one_s_grid(make_task, tmp_path):
    from fomo_ssl.imaging.nifti import write

    root = make_task("segmentation", 2, ("flair", "t1"))
    path = root / "preprocessed/sub_0/ses_1/t1.nii.gz"
    volume = read(path)
    turned = to_ras(volume)
    write(path, np.ascontiguousarray(turned.data.transpose(2, 0, 1)), turned.affine[:, [2, 0, 1, 3]])
    task = load_task(root)
    example = load_example(task.cases[0], task.sequences, SPEC)
    flair, t1 = example.prepared.image
    assert np.corrcoef(flair.ravel(), t1.ravel())[0, 1] > 0.999
    assert flair[example.mask == 1].mean() > flair[example.mask == 2].mean() + 1.0
