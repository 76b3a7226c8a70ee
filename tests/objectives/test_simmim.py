from collections.abc import Callable
from dataclasses import replace

import pytest
import torch

from fomo_ssl.core.errors import ConfigError
from fomo_ssl.core.types import Views
from fomo_ssl.encoders import Encoder, create_encoder
from fomo_ssl.encoders.patches import to_patches
from fomo_ssl.objectives import create_objective
from fomo_ssl.objectives.base import mask_to_voxels

MakeViews = Callable[..., Views]


def test_the_encoder_does_not_see_what_is_hidden(encoder: Encoder, make_views: MakeViews) -> None:
    objective, views = create_objective("simmim", encoder).eval(), make_views(size=(24, 19, 16))
    hidden = mask_to_voxels(objective._mask(views, 0), objective.mask_unit, views.images[0].shape[2:])
    assert hidden.float().mean() == pytest.approx(0.6, abs=0.05)
    noisy = replace(views, images=[torch.where(hidden, torch.randn_like(views.images[0]), views.images[0])])
    assert torch.equal(objective(views, 0).loss, objective(noisy, 0).loss)
    visible = replace(views, images=[torch.where(hidden, views.images[0], torch.randn_like(views.images[0]))])
    assert not torch.equal(objective(views, 0).loss, objective(visible, 0).loss)


def test_loss_is_the_mean_absolute_error_of_hidden_voxels(encoder: Encoder, make_views: MakeViews) -> None:
    objective, views = create_objective("simmim", encoder).eval(), make_views(size=(24, 16, 16))
    shown = objective.preview(views)
    hidden = mask_to_voxels(objective._mask(views, 0), objective.mask_unit, (24, 16, 16))
    expected = (shown.reconstruction - shown.target).abs()[hidden].mean()
    torch.testing.assert_close(objective(views, 0).loss, expected, rtol=1e-4, atol=1e-5)
    assert torch.equal(shown.visible[~hidden], views.images[0][~hidden])
    assert not shown.visible[hidden].any()


def test_the_mask_token_is_a_learned_patch(resenc: Encoder, make_views: MakeViews) -> None:
    objective, views = create_objective("simmim", resenc, mask_unit=4), make_views()
    with torch.no_grad():
        objective.mask_token.copy_(torch.arange(64.0).view(1, 4, 4, 4))
    (shown,) = objective.inputs(views, 0)
    hidden = mask_to_voxels(objective._mask(views, 0), (4, 4, 4), (24, 24, 24))
    tiled = objective.mask_token.detach().repeat(1, 6, 6, 6).expand_as(shown)
    assert torch.equal(shown[hidden], tiled[hidden])
    assert torch.equal(shown[~hidden], views.images[0][~hidden])


def test_a_crop_of_one_unit_is_refused(vit: Encoder, make_views: MakeViews) -> None:
    with pytest.raises(ConfigError, match="of the 1 units"):
        create_objective("simmim", vit, mask_unit=32)(make_views(), 0)


@pytest.mark.parametrize("patch", [8, 16, (8, 8, 2), (12, 4, 16)])
def test_a_token_is_hidden_as_a_whole_or_not_at_all(patch: int | tuple[int, int, int], make_views: MakeViews) -> None:
    vit = create_encoder("vit_t_p8", dim=48, depth=4, heads=2, patch_size=patch)
    objective, views = create_objective("simmim", vit), make_views(size=(48, 48, 48))
    hidden = mask_to_voxels(objective._mask(views, 0), objective.mask_unit, (48, 48, 48)).float()
    share = to_patches(hidden, vit.patch_size)[0].mean(dim=-1)
    assert set(share.unique().tolist()) == {0.0, 1.0}
    assert objective(views, 0).loss.isfinite()


@pytest.mark.parametrize("unit", [0, 4, 12])
def test_a_cube_that_cuts_through_tokens_is_refused(vit: Encoder, unit: int) -> None:
    with pytest.raises(ConfigError, match=rf"mask_unit is {unit}, but this encoder's tokens have \(8, 8, 8\) voxels"):
        create_objective("simmim", vit, mask_unit=unit)
