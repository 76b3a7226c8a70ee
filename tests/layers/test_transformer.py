import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from fomo_ssl.layers.transformer import Attention, Block, Rotary, rotary_angles, rotate

HEAD = 20  # 3 pairs an axis, 2 channels without position


def rotated_slowly(x: Tensor, coordinates: Tensor) -> Tensor:
    """One complex rotation per pair, written out."""
    head_dim = x.shape[-1]
    pairs = head_dim // 6
    out = x.clone()
    for token in range(x.shape[-2]):
        for axis in range(3):
            for i in range(pairs):
                angle = float(coordinates[token, axis]) * 100.0 ** (-i / pairs)
                real, imaginary = axis * pairs + i, 3 * pairs + axis * pairs + i
                a, b = x[..., token, real], x[..., token, imaginary]
                out[..., token, real] = a * math.cos(angle) - b * math.sin(angle)
                out[..., token, imaginary] = a * math.sin(angle) + b * math.cos(angle)
    return out


def attended_slowly(attention: Attention, x: Tensor, coordinates: Tensor) -> Tensor:
    """Explicit softmax, head by head."""
    batch, n, dim = x.shape
    q, k, v = attention.qkv(x).reshape(batch, n, 3, attention.heads, -1).unbind(2)
    heads = []
    for h in range(attention.heads):
        a, b = rotated_slowly(q[:, :, h], coordinates), rotated_slowly(k[:, :, h], coordinates)
        weights = (a @ b.transpose(1, 2) / math.sqrt(dim // attention.heads)).softmax(dim=-1)
        heads.append(weights @ v[:, :, h])
    return attention.proj(torch.cat(heads, dim=-1))


@torch.no_grad()
def test_attention_equals_an_explicit_softmax():
    torch.manual_seed(0)
    attention, x = Attention(2 * HEAD, 2), torch.randn(2, 7, 2 * HEAD)
    coordinates = torch.randint(0, 9, (7, 3)).float()
    fast = attention(x, rotary_angles(coordinates[None], HEAD))
    torch.testing.assert_close(fast, attended_slowly(attention, x, coordinates), atol=1e-5, rtol=1e-4)


@given(shift=st.tuples(*[st.integers(-20, 20)] * 3))
@settings(max_examples=25)
@torch.no_grad()
def test_only_relative_positions_matter(shift):
    generator = torch.Generator().manual_seed(0)
    q, k = torch.randn(2, 1, 1, 5, HEAD, generator=generator)
    places = torch.randint(0, 12, (1, 5, 3), generator=generator).float()

    def scores(rotary: Rotary) -> Tensor:
        return rotate(q, rotary) @ rotate(k, rotary).transpose(-1, -2)

    moved = places + torch.tensor(shift)
    torch.testing.assert_close(
        scores(rotary_angles(places, HEAD)), scores(rotary_angles(moved, HEAD)), atol=1e-4, rtol=1e-4
    )


@torch.no_grad()
def test_positions_along_every_axis_matter():
    torch.manual_seed(0)
    block, x = Block(HEAD, 1), torch.randn(1, 2, HEAD)
    at_rest = block(x, rotary_angles(torch.zeros(1, 2, 3), HEAD))
    for axis in range(3):
        places = torch.zeros(1, 2, 3)
        places[0, 1, axis] = 2.0
        assert not torch.allclose(block(x, rotary_angles(places, HEAD)), at_rest, atol=1e-4)


def test_rotation_keeps_lengths_and_does_nothing_at_the_origin():
    x, places = torch.randn(1, 1, 5, HEAD), torch.full((1, 5, 3), 4.0)
    places[:, :2] = 0.0
    turned = rotate(x, rotary_angles(places, HEAD))
    assert torch.equal(turned[:, :, :2], x[:, :, :2])
    assert not torch.allclose(turned[:, :, 2:], x[:, :, 2:])
    torch.testing.assert_close(turned.norm(dim=-1), x.norm(dim=-1))


def test_rotation_keeps_the_type_of_its_input():
    rotary = rotary_angles(torch.ones(1, 2, 3), HEAD)
    assert rotary[0].dtype == torch.float32
    assert rotate(torch.ones(1, 1, 2, HEAD, dtype=torch.bfloat16), rotary).dtype == torch.bfloat16


def test_width_must_divide_by_heads():
    with pytest.raises(ValueError, match="64 is no multiple of 3 heads"):
        Attention(64, 3)
