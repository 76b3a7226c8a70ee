"""Landmarks say where a crop's places are found in its augmented view."""

from dataclasses import replace

import pytest
import torch

from fomo_ssl.core.types import CropBatch, ViewSpec
from fomo_ssl.data.augment import Augmenter
from fomo_ssl.data.augment.separable import smooth_field, smooth_field_at
from fomo_ssl.data.augment.spatial import WarpParams, unwarp, warp_grid

SIZE = (24, 28, 20)
STEP = 64  # stored integer per voxel


def position_batch(samples: int = 8, views: int = 2) -> list[CropBatch]:
    """Three batches of crops whose intensity is the voxel's x, y or z in the crop."""
    lattice = torch.stack(torch.meshgrid(*(torch.arange(n) for n in SIZE), indexing="ij"))
    ones = torch.ones(views, samples)
    return [
        CropBatch(
            images=[(lattice[axis] * STEP).to(torch.int16).expand(samples, 1, *SIZE).contiguous()] * views,
            scale=ones / STEP,
            offset=0 * ones,
            origins=torch.arange(views * samples * 3).reshape(views, samples, 3),
            keys=torch.arange(samples) * 7919,
            indices=torch.arange(samples),
            rows=torch.zeros(views, samples, dtype=torch.int64),
            spacing=torch.tensor([1.0, 1.0, 2.0]).repeat(samples, 1),
            sequences=torch.ones(views, samples, dtype=torch.int64),
            paired=torch.ones(samples, dtype=torch.bool),
        )
        for axis in range(3)
    ]


@pytest.mark.parametrize(
    ("switches", "within"),
    [
        ({"flip": {"p": (0.5, 0.5, 0.5)}, "affine": False, "elastic": False}, 1e-3),
        ({"affine": {"p": 1.0}, "elastic": False}, 1e-2),
        ({"elastic": {"p": 1.0}, "affine": False}, 0.1),
        ({"affine": {"p": 1.0}, "elastic": {"p": 1.0}}, 0.15),
    ],
)
def test_the_view_shows_at_each_landmark_what_the_crop_held_there(switches: dict, within: float) -> None:
    augment = Augmenter("spatial", ViewSpec(n=2, placed=True), **switches)
    shown = [augment(batch) for batch in position_batch()]
    placement = shown[0].placement
    assert torch.equal(placement.origins, position_batch()[0].origins)
    along = [torch.linspace(0, size - 1, 9) for size in SIZE]
    truth = torch.stack(torch.meshgrid(*along, indexing="ij"))
    for view in range(2):
        # Where each voxel of the view came from, and the voxels nearest to the landmarks.
        came_from = torch.cat([one.images[view] for one in shown], dim=1)
        at = placement.landmarks[view]
        sizes = torch.tensor(SIZE)[:, None, None, None]
        inside = ((at >= 1) & (at <= sizes - 2)).all(1)
        # Away from the crop's edge, beyond which its mirror image is shown.
        inside &= ((truth >= 1) & (truth <= sizes - 2)).all(0)
        assert inside.float().mean() > 0.3
        found = interpolate(came_from, at)
        error = (found - truth).abs().amax(1)[inside]
        assert error.max() < within


def interpolate(volume: torch.Tensor, at: torch.Tensor) -> torch.Tensor:
    """Trilinear, place by place, from the eight voxels around."""
    result = torch.zeros(len(volume), 3, *at.shape[2:])
    low = at.floor().long()
    share = at - low
    for corner in torch.cartesian_prod(*[torch.arange(2)] * 3).tolist():
        weight, index = 1.0, []
        for axis in range(3):
            weight = weight * (share[:, axis] if corner[axis] else 1.0 - share[:, axis])
            index.append((low[:, axis] + corner[axis]).clamp(0, SIZE[axis] - 1))
        sample = torch.arange(len(volume))[:, None, None, None].expand_as(index[0])
        result += weight[:, None] * volume.movedim(1, -1)[sample, index[0], index[1], index[2]].movedim(-1, 1)
    return result


def test_unwarp_undoes_the_warp_even_of_the_largest_field() -> None:
    generator = torch.Generator().manual_seed(0)
    shape = torch.Size(SIZE)
    spacing = torch.tensor(SIZE) / 4
    control = (torch.rand(4, 3, 7, 7, 7, generator=generator) * 2 - 1) * (0.4 * spacing)[:, None, None, None]
    matrix = torch.eye(3) + 0.1 * torch.randn(4, 3, 3, generator=generator)
    # Where the voxels of the view come from, in voxels from the centre.
    source = warp_grid(shape, matrix, control).flip(-1) * torch.tensor(SIZE) / 2
    voxels = torch.cartesian_prod(*(torch.arange(n) - (n - 1) / 2 for n in SIZE))
    found = unwarp(source.flatten(1, 3), shape, WarpParams(torch.ones(4) > 0, matrix, control))
    assert (found - voxels).abs().amax(-1).quantile(0.99) < 0.02


def test_a_field_at_points_is_the_field() -> None:
    shape = torch.Size(SIZE)
    control = torch.randn(2, 3, 7, 6, 5)
    points = torch.cartesian_prod(*(torch.arange(n) - (n - 1) / 2 for n in SIZE)).expand(2, -1, -1)
    expected = smooth_field(control, shape).flatten(2).transpose(1, 2)
    torch.testing.assert_close(smooth_field_at(control, shape, points), expected, rtol=1e-4, atol=1e-5)


def test_views_that_move_together_stay_alike() -> None:
    batch = position_batch()[0]
    views = Augmenter("all", ViewSpec(n=2, pairing="session", together=True))(batch)
    assert torch.equal(views.targets[0], views.targets[1])
    assert not torch.equal(views.images[0], views.images[1])
    assert views.placement is None
    apart = Augmenter("all", ViewSpec(n=2, pairing="session"))(batch)
    assert torch.equal(apart.targets[0], views.targets[0])
    assert not torch.equal(apart.targets[0], apart.targets[1])


def test_a_placement_moves_with_its_views_and_depends_on_the_sample_alone() -> None:
    augment, batch = Augmenter("spatial", ViewSpec(n=2, placed=True)), position_batch()[0]
    placement = augment(batch).placement
    meta = augment(batch).to("meta").placement
    assert meta.landmarks.device.type == meta.origins.device.type == "meta"
    other, at = position_batch(2)[0], [5, 2]
    some = replace(other, keys=batch.keys[at], spacing=batch.spacing[at])
    torch.testing.assert_close(augment(some).placement.landmarks, placement.landmarks[:, at])
