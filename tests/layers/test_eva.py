import pytest
import torch

from fomo_ssl.layers.eva import EVA_ROTARY_BASE, EvaBlock, rotate_neighbours
from fomo_ssl.layers.transformer import rotary_angles


def test_rotation_is_multiplication_by_unit_complex_numbers() -> None:
    x, coordinates = torch.randn(2, 3, 5, 12), torch.randint(9, (2, 5, 3)).float()
    angles = torch.empty(2, 5, 6)
    for axis in range(3):
        for pair in range(2):
            angles[..., 2 * axis + pair] = coordinates[..., axis] * EVA_ROTARY_BASE ** (-pair / 2)
    pairs = torch.view_as_complex(x.unflatten(-1, (6, 2)).contiguous())
    turned = torch.view_as_real(pairs * torch.polar(torch.ones_like(angles), angles)[:, None]).flatten(-2)
    torch.testing.assert_close(rotate_neighbours(x, rotary_angles(coordinates, 12, EVA_ROTARY_BASE)), turned)


def test_attention_sees_differences_of_positions_only() -> None:
    torch.manual_seed(0)
    block, x = EvaBlock(24, 2, 64, 1.0).eval(), torch.randn(1, 7, 24)
    places = torch.randint(9, (1, 7, 3)).float()
    with torch.no_grad():
        here, there = (block(x, rotary_angles(p, 12, EVA_ROTARY_BASE)) for p in (places, places + 3.0))
        elsewhere = block(x, rotary_angles(2 * places, 12, EVA_ROTARY_BASE))
    torch.testing.assert_close(here, there)
    assert not torch.allclose(here, elsewhere)


def test_a_head_needs_room_for_three_axes() -> None:
    with pytest.raises(ValueError, match="multiple of 6"):
        EvaBlock(64, 4, 128, 0.1)
