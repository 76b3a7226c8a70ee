"""Beside torch's own: same numbers, same gradients, whatever the shape and the type."""

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

import fomo_ssl.layers.linear
from fomo_ssl.layers.linear import FOLD, Linear, linear


@pytest.fixture(autouse=True, params=[True, False], ids=["convolved", "multiplied"])
def convolve(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> bool:
    """Both ways are right on every processor, whichever is the faster there."""
    monkeypatch.setattr(fomo_ssl.layers.linear, "CONVOLVE", request.param)
    return request.param


def with_gradients(call, *inputs: Tensor) -> list[Tensor]:
    leaves = [x.detach().clone().requires_grad_() for x in inputs]
    out = call(*leaves)
    out.backward(torch.linspace(-1, 1, out.numel()).view(out.shape).to(out.dtype))
    return [out.detach(), *(leaf.grad for leaf in leaves)]


# Rows that fold into 16, into fewer and into none, one row, and a tensor that is not contiguous.
@pytest.mark.parametrize("shape", [(2, FOLD, 12), (3, 4, 12), (7, 12), (12,), (2, 3, 4, 12)])
@pytest.mark.parametrize("bias", [True, False])
def test_linear_is_torchs(shape, bias: bool):
    torch.manual_seed(0)
    inputs = [torch.randn(shape), torch.randn(20, 12), *([torch.randn(20)] if bias else [])]

    def ours(x, w, b=None):
        return linear(x, w, b)

    for got, expected in zip(with_gradients(ours, *inputs), with_gradients(F.linear, *inputs), strict=True):
        assert got.shape == expected.shape
        torch.testing.assert_close(got, expected, atol=1e-5, rtol=1e-5)


def test_linear_takes_strided_and_empty_input():
    torch.manual_seed(0)
    weight = torch.randn(20, 12)
    strided = torch.randn(4, 12, 8).transpose(1, 2)
    torch.testing.assert_close(linear(strided, weight, None), F.linear(strided, weight), atol=1e-5, rtol=1e-5)
    assert linear(torch.zeros(0, 3, 12), weight, None).shape == (0, 3, 20)


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16])
def test_other_types_keep_theirs(dtype: torch.dtype):
    torch.manual_seed(0)
    x, weight = torch.randn(2, 16, 12, dtype=dtype), torch.randn(20, 12, dtype=dtype)
    assert torch.equal(linear(x, weight, None), F.linear(x, weight))


def test_the_layer_is_torchs_by_name_and_under_autocast():
    torch.manual_seed(0)
    layer, plain = Linear(12, 20), torch.nn.Linear(12, 20)
    plain.load_state_dict(layer.state_dict())
    x = torch.randn(2, 16, 12)
    torch.testing.assert_close(layer(x), plain(x), atol=1e-5, rtol=1e-5)
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(layer(x), plain(x))


@pytest.mark.parametrize(
    ("name", "mkl", "capability", "wanted"),
    [
        ("AuthenticAMD, AMD EPYC", True, "AVX512", True),
        ("GenuineIntel, Intel(R) Xeon(R)", True, "AVX512", False),
        ("AuthenticAMD, AMD EPYC", True, "AVX2", False),
        ("aarch64", False, "DEFAULT", False),
    ],
)
def test_it_convolves_where_mkl_is_slow(name, mkl, capability, wanted, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(fomo_ssl.layers.linear, "processor_name", lambda: name)
    monkeypatch.setattr(torch.backends.mkl, "is_available", lambda: mkl)
    monkeypatch.setattr(torch.backends.cpu, "get_cpu_capability", lambda: capability)
    assert fomo_ssl.layers.linear._mkl_leaves_avx512_unused() is wanted
