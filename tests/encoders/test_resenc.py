import re

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from fomo_ssl.encoders import create_encoder
from fomo_ssl.encoders.resenc import ResidualBlock


def test_resenc_l_has_the_parameters_of_the_nnunet_preset():
    with torch.device("meta"):
        encoder = create_encoder("resenc_l")
    assert sum(p.numel() for p in encoder.parameters()) == 90_296_576
    assert [level.channels for level in encoder.feature_info] == [32, 64, 128, 256, 320, 320]
    assert [len(stage.blocks) for stage in encoder.stages] == [1, 3, 4, 6, 6, 6]


def test_names_are_those_of_the_original():
    """As listed for `ResidualEncoder` of dynamic-network-architectures 0.4, without its aliases under all_modules."""
    unit = r"(conv|norm)\.(weight|bias)"
    pattern = rf"(stem_convs\.0\.{unit}|stages\.\d\.blocks\.\d\.(conv1\.{unit}|conv2\.{unit}|skip\.[01]\.{unit}))"
    with torch.device("meta"):
        names = list(create_encoder("resenc_l").state_dict())
    assert [name for name in names if not re.fullmatch(pattern, name)] == []
    skips = {name.split(".skip.")[0]: name.split(".")[5] for name in names if ".skip." in name}
    # Channels grow in stages 1 to 4 only; there pooling is skip.0 and the projection, without bias, skip.1.
    assert skips == {f"stages.{stage}.blocks.0": "1" for stage in (1, 2, 3, 4)}
    assert not any(name.endswith("skip.1.conv.bias") for name in names)


@pytest.mark.parametrize(("inputs", "outputs", "stride"), [(4, 4, 1), (4, 6, 2), (4, 4, 2), (4, 6, 1)])
@torch.no_grad()
def test_block_equals_its_definition_with_instance_norm(inputs: int, outputs: int, stride: int):
    torch.manual_seed(0)
    block = ResidualBlock(inputs, outputs, stride)
    for p in block.parameters():
        nn.init.normal_(p, std=0.3)
    x = torch.randn(2, inputs, 8, 6, 4)

    def norm(y, layer):
        return F.instance_norm(y, weight=layer.weight, bias=layer.bias, eps=1e-5)

    def conv(y, unit, **kwargs):
        return norm(F.conv3d(y, unit.conv.weight, unit.conv.bias, **kwargs), unit.norm)

    skip = F.avg_pool3d(x, stride) if stride > 1 else x
    skip = conv(skip, block.skip[-1]) if inputs != outputs else skip
    inner = F.leaky_relu(conv(x, block.conv1, stride=stride, padding=1), 0.01)
    expected = F.leaky_relu(conv(inner, block.conv2, padding=1) + skip, 0.01)
    torch.testing.assert_close(block(x), expected, atol=1e-5, rtol=1e-4)


def test_stages_need_channels_and_blocks():
    with pytest.raises(ValueError, match="2 stages by their channels but 3"):
        create_encoder("resenc_t", channels=(8, 16), blocks=(1, 1, 1))
