import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from fomo_ssl.encoders import ViT, create_encoder
from fomo_ssl.layers.tokens import all_tokens, token_coordinates
from fomo_ssl.layers.transformer import rotary_angles

TINY = {"dim": 48, "depth": 4, "heads": 2}


def tiny(**arguments: object) -> ViT:
    torch.manual_seed(0)
    return create_encoder("vit_t_p8", **{**TINY, **arguments})


@torch.no_grad()
def encoded_slowly(vit: ViT, x: Tensor) -> list[Tensor]:
    """Strided convolution, no registers, every block run on the whole grid."""
    tokens = F.conv3d(x, vit.patch_embed.weight, vit.patch_embed.bias, stride=vit.patch_size)
    grid = tuple(tokens.shape[2:])
    tokens = tokens.flatten(2).transpose(1, 2)
    rotary = rotary_angles(token_coordinates(all_tokens(grid, x.device), grid), vit.head_dim)
    maps = []
    for block in vit.blocks:
        tokens = tokens + block.attn(block.norm1(tokens), rotary)
        tokens = tokens + block.mlp(block.norm2(tokens))
        maps.append(vit.norm(tokens).transpose(1, 2).unflatten(2, grid))
    return maps


@pytest.mark.parametrize("patch", [8, (8, 4, 2)])
@torch.no_grad()
def test_equals_the_plain_definition(patch):
    vit = tiny(registers=0, patch_size=patch, in_channels=2)
    x = torch.randn(2, 2, 16, 24, 16)
    for fast, slow in zip(vit.forward_features(x), encoded_slowly(vit, x), strict=True):
        torch.testing.assert_close(fast, slow, atol=1e-5, rtol=1e-4)


def test_a_list_from_json_is_a_patch():
    assert tiny(patch_size=[8, 8, 2]).patch_size == (8, 8, 2)
    with pytest.raises(ValueError, match="one or three"):
        tiny(patch_size=(8, 8))


@torch.no_grad()
def test_padding_is_the_only_effect_of_an_odd_size():
    vit, x = tiny(), torch.randn(1, 1, 13, 16, 9)
    padded = F.pad(x, (0, 7, 0, 0, 0, 3), mode="replicate")
    assert torch.equal(vit(x), vit(padded))


@torch.no_grad()
def test_learned_positions_fit_any_grid_and_any_subset():
    vit = tiny(learned_grid=(2, 2, 2))
    assert vit.no_weight_decay() == {"registers", "positions"}
    x = torch.randn(1, 1, 24, 16, 16)
    tokens = vit.forward_features(x)[-1].flatten(2).transpose(1, 2)
    torch.testing.assert_close(vit.forward_tokens(x, all_tokens((3, 2, 2), x.device))[0], tokens, atol=1e-5, rtol=1e-4)
    before = vit(x)
    vit.positions += torch.randn_like(vit.positions)
    assert not torch.allclose(vit(x), before, atol=1e-3)


@torch.no_grad()
def test_patch_embedding_keeps_unit_variance():
    vit = tiny(dim=384)
    tokens = vit.patch_embed(torch.randn(1, 64, 512))
    assert 0.5 < tokens.std() < 1.2
