from collections.abc import Callable
from dataclasses import replace

import pytest
import torch

from fomo_ssl.core.errors import ConfigError
from fomo_ssl.core.types import Views
from fomo_ssl.encoders import Encoder
from fomo_ssl.objectives import create_objective
from fomo_ssl.objectives.base import encode, mask_to_voxels

MakeViews = Callable[..., Views]


def voxel_mask(objective: torch.nn.Module, views: Views) -> torch.Tensor:
    return mask_to_voxels(objective.masks(views, 0)[0], objective.mask_unit, views.images[0].shape[2:])


def change(views: Views, name: str, where: torch.Tensor) -> Views:
    """The same views with other values in the first view, at some voxels."""
    volume = getattr(views, name)[0]
    return replace(views, **{name: [torch.where(where, volume + 3.0, volume)]})


def test_hidden_voxels_do_not_reach_the_encoder(encoder: Encoder, make_views: MakeViews) -> None:
    objective, views = create_objective("mae", encoder).eval(), make_views()
    hidden = voxel_mask(objective, views)
    before = objective(views, 0).loss
    assert torch.equal(objective(change(views, "images", hidden), 0).loss, before)
    assert not torch.equal(objective(change(views, "images", ~hidden), 0).loss, before)


def test_only_hidden_voxels_are_scored(encoder: Encoder, make_views: MakeViews) -> None:
    objective, views = create_objective("mae", encoder).eval(), make_views()
    hidden = voxel_mask(objective, views)
    before = objective(views, 0).loss
    assert torch.equal(objective(change(views, "targets", ~hidden), 0).loss, before)
    assert not torch.equal(objective(change(views, "targets", hidden), 0).loss, before)


def test_all_voxels_are_scored_on_request(encoder: Encoder, make_views: MakeViews) -> None:
    objective, views = create_objective("mae", encoder, loss_on="all").eval(), make_views()
    hidden = voxel_mask(objective, views)
    assert not torch.equal(objective(change(views, "targets", ~hidden), 0).loss, objective(views, 0).loss)


def test_loss_equals_the_mean_over_hidden_voxels(encoder: Encoder, make_views: MakeViews) -> None:
    objective, views = create_objective("mae", encoder).eval(), make_views()
    preview, total, count = objective.preview(views), 0.0, 0
    for predicted, true, hidden in zip(
        preview.reconstruction.flatten().tolist(),
        preview.target.flatten().tolist(),
        voxel_mask(objective, views).flatten().tolist(),
        strict=True,
    ):
        if hidden:
            total, count = total + (predicted - true) ** 2, count + 1
    assert objective(views, 0).loss.item() == pytest.approx(total / count, rel=1e-4)


def test_the_default_ratio_follows_the_family(vit: Encoder, resenc: Encoder, make_views: MakeViews) -> None:
    views = make_views(size=(32, 32, 32))
    for encoder, ratio in ((vit, 0.75), (resenc, 0.6)):
        (mask,) = create_objective("mae", encoder).masks(views, 0)
        assert mask.flatten(1).sum(dim=1).tolist() == [round(ratio * 64)] * 4


def test_a_transformer_encodes_only_visible_tokens(vit: Encoder, make_views: MakeViews) -> None:
    objective, views = create_objective("mae", vit), make_views()
    (mask,) = objective.masks(views, 0)
    encoded = encode(vit, views.images[0], mask, objective.mask_unit)
    assert encoded.features is None
    for sample in range(4):
        assert encoded.keep[sample].tolist() == (~mask[sample]).flatten().nonzero().flatten().tolist()


def test_views_are_masked_apart_and_averaged(encoder: Encoder, make_views: MakeViews) -> None:
    objective, views = create_objective("mae", encoder).eval(), make_views(n=2)
    first, second = objective.masks(views, 0)
    assert not torch.equal(first, second)
    encoded = [encode(encoder, x, m, objective.mask_unit) for x, m in zip(views.images, (first, second), strict=True)]
    apart = [
        objective.score([one], replace(views, targets=[target]), 0).loss
        for one, target in zip(encoded, views.targets, strict=True)
    ]
    assert torch.allclose(objective.score(encoded, views, 0).loss, (apart[0] + apart[1]) / 2)


@pytest.mark.parametrize("normalise", [False, True])
@pytest.mark.parametrize("size", [(24, 24, 24), (20, 27, 24)])
def test_preview_shows_truth_where_visible(
    encoder: Encoder, make_views: MakeViews, size: tuple[int, int, int], normalise: bool
) -> None:
    objective = create_objective("mae", encoder, normalise_patches=normalise).eval()
    views = make_views(batch=5, size=size)
    preview, hidden = objective.preview(views), voxel_mask(objective, views)[:4]
    assert preview.target.shape == preview.visible.shape == preview.reconstruction.shape == (4, 1, *size)
    assert torch.equal(preview.reconstruction[~hidden], views.targets[0][:4][~hidden])
    assert torch.equal(preview.visible[~hidden], views.images[0][:4][~hidden])
    assert (preview.visible[hidden] == 0).all()
    assert not preview.reconstruction.requires_grad


def test_a_normalised_prediction_returns_to_the_scale_of_the_scan(resenc: Encoder, make_views: MakeViews) -> None:
    objective, views = create_objective("mae", resenc, normalise_patches=True).eval(), make_views()
    far = replace(views, targets=[views.targets[0] * 0.1 + 50.0])
    assert (objective.preview(far).reconstruction - 50.0).abs().max() < 10.0


def test_odd_sizes_train(encoder: Encoder, make_views: MakeViews) -> None:
    loss = create_objective("mae", encoder)(make_views(size=(20, 27, 24)), 0).loss
    loss.backward()
    assert loss.isfinite()


def test_units_and_blocks_of_a_convolution_are_free(resenc: Encoder, make_views: MakeViews) -> None:
    objective = create_objective("mae", resenc, mask_unit=4, mask_block=2, mask_ratio=0.5)
    (mask,) = objective.masks(make_views(), 0)
    assert mask.shape == (4, 6, 6, 6)
    assert objective.mask_unit == (4, 4, 4)


def test_a_transformer_refuses_another_unit(vit: Encoder) -> None:
    with pytest.raises(ConfigError, match="mask_block hides larger cubes"):
        create_objective("mae", vit, mask_unit=4)


def test_a_crop_that_cannot_be_masked_is_refused(encoder: Encoder, make_views: MakeViews) -> None:
    objective = create_objective("mae", encoder)
    with pytest.raises(ConfigError, match=r"hides [01] of the 1 units"):
        objective(make_views(size=(8, 8, 8)), 0)


@pytest.mark.parametrize("block", [0, 3, 4])
def test_cubes_that_would_hide_the_same_of_every_sample_are_refused(
    vit: Encoder, make_views: MakeViews, block: int
) -> None:
    with pytest.raises(ConfigError, match=rf"cubes of {block} units along an edge are not random"):
        create_objective("mae", vit, mask_block=block)(make_views(), 0)
    (mask,) = create_objective("mae", vit, mask_block=2).masks(make_views(), 0)
    assert not torch.equal(mask[0], mask[1])
