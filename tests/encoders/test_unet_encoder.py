import pytest
import torch
import torch.nn.functional as F

from fomo_ssl.encoders import create_encoder


@pytest.mark.parametrize(("name", "parameters"), [("unet_b", 14_134_944), ("unet_xl", 56_526_144)])
def test_baselines_have_the_parameters_of_fomo25(name: str, parameters: int):
    with torch.device("meta"):
        encoder = create_encoder(name)
    assert sum(p.numel() for p in encoder.parameters()) == parameters


@torch.no_grad()
def test_equals_its_definition():
    torch.manual_seed(0)
    encoder = create_encoder("unet_t", channels=(4, 6, 8))
    x = torch.randn(2, 1, 16, 12, 8)
    y, expected = x, []
    for level, stage in enumerate(encoder.stages):
        y = F.max_pool3d(y, 2) if level else y
        for unit in stage:
            y = F.conv3d(y, unit.conv.weight, unit.conv.bias, padding=1)
            y = F.leaky_relu(F.instance_norm(y, weight=unit.norm.weight, bias=unit.norm.bias), 0.01)
        expected.append(y)
    for fast, slow in zip(encoder.forward_features(x), expected, strict=True):
        torch.testing.assert_close(fast, slow, atol=1e-5, rtol=1e-4)
