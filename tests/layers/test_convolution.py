import pytest
import torch
import torch.nn.functional as F
from torch import nn

from fomo_ssl.layers.convolution import ConvNorm, convolve


@pytest.mark.parametrize(("kernel", "stride", "act"), [(3, 1, True), (3, 2, True), (1, 1, False)])
@torch.no_grad()
def test_equals_convolution_instance_norm_leaky_relu(kernel: int, stride: int, act: bool):
    torch.manual_seed(0)
    unit = ConvNorm(3, 5, kernel, stride, act=act)
    nn.init.normal_(unit.norm.weight)
    nn.init.normal_(unit.norm.bias)
    plain = nn.Sequential(
        nn.Conv3d(3, 5, kernel, stride, padding=kernel // 2), nn.InstanceNorm3d(5, eps=1e-5, affine=True)
    )
    names = {"conv": "0", "norm": "1"}
    plain.load_state_dict({f"{names[k.split('.')[0]]}.{k.split('.')[1]}": v for k, v in unit.state_dict().items()})
    x = torch.randn(2, 3, 7, 8, 9) * 4 + 2
    expected = plain(x)
    expected = F.leaky_relu(expected, 0.01) if act else expected
    torch.testing.assert_close(unit(x), expected, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("size", [(2, 2, 2), (2, 5, 4), (4, 4, 2), (1, 2, 3), (4, 4, 4)])
def test_bfloat16_gradients_of_thin_maps(size):
    """oneDNN's own are garbage where the first axis has two voxels; what they hold depends on freed memory."""
    torch.manual_seed(0)
    unit, x = ConvNorm(16, 16), torch.randn(2, 16, *size)
    target = torch.randn(2, 16, *size)
    gradients = []
    for autocast in (False, True):
        unit.zero_grad()
        freed = [torch.full((1 << power,), torch.nan, dtype=torch.bfloat16) for power in (12, 13, 14, 16)]
        with torch.autocast("cpu", torch.bfloat16, enabled=autocast):
            out = unit(x)
        del freed
        (out.float() * target).sum().backward()
        gradients.append(unit.conv.weight.grad.clone())
    full, half = gradients
    assert (half - full).norm() < 0.1 * full.norm()


@pytest.mark.parametrize("stride", [1, 2, (1, 2, 2)])
@pytest.mark.parametrize("groups", [1, 4])
@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("channels", [4, 64])  # 64 channels of 9 x 40 voxels are above the limit, 4 below
def test_single_samples_are_convolved_as_torch_does(stride, groups: int, bias: bool, channels: int):
    """By another kernel where they are small: the same numbers and gradients."""
    torch.manual_seed(0)
    conv = nn.Conv3d(channels, 8, 3, stride, padding=1, groups=groups, bias=bias)
    x = torch.randn(1, channels, 9, 40, 6, requires_grad=True)
    results = []
    for run in (conv, lambda x: convolve(conv, x)):
        conv.zero_grad()
        x.grad = None
        out = run(x)
        out.square().sum().backward()
        results.append([out.detach(), x.grad.clone(), *(p.grad.clone() for p in conv.parameters())])
    for own, theirs in zip(*results, strict=True):
        torch.testing.assert_close(own, theirs, atol=2e-3, rtol=1e-4)


def test_a_single_sample_is_a_batch_of_one():
    torch.manual_seed(0)
    unit, x = ConvNorm(8, 8), torch.randn(2, 8, 12, 12, 12)
    together = unit(x)
    torch.testing.assert_close(torch.cat([unit(x[:1]), unit(x[1:])]), together, atol=1e-5, rtol=1e-5)
