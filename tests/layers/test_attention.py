import pytest
import torch
import torch.nn.functional as F

from fomo_ssl.layers.attention import SHORT, attend


@pytest.mark.parametrize("tokens", [5, 132])
def test_short_attention_in_bf16_is_right_to_its_rounding(tokens: int):
    torch.manual_seed(0)
    assert tokens <= SHORT
    qkv = [torch.randn(2, 3, tokens, 20).bfloat16() for _ in range(3)]
    leaves, exact = [x.requires_grad_() for x in qkv], [x.detach().double().requires_grad_() for x in qkv]
    out, truth = attend(*leaves), F.scaled_dot_product_attention(*exact)
    direction = torch.randn_like(out)
    out.backward(direction)
    truth.backward(direction.double())
    pairs = [(out, truth), *((fast.grad, slow.grad) for fast, slow in zip(leaves, exact, strict=True))]
    for got, expected in pairs:
        assert got.dtype == torch.bfloat16
        assert (got.double() - expected).norm() < 0.01 * expected.norm()


def test_attention_otherwise_is_torchs():
    torch.manual_seed(0)
    qkv = [torch.randn(1, 2, 7, 20) for _ in range(3)]
    assert torch.equal(attend(*qkv), F.scaled_dot_product_attention(*qkv))
    long = [torch.randn(1, 1, SHORT + 1, 8).bfloat16() for _ in range(3)]
    assert torch.equal(attend(*long), F.scaled_dot_product_attention(*long))
