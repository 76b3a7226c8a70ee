"""What is written for MONAI's MedNeXt loads into it, and gives the same maps."""

import json
from pathlib import Path

import pytest
import torch
from monai.networks.nets.mednext import MedNeXt, create_mednext

from fomo_ssl.core.errors import ForeignWeightsError
from fomo_ssl.encoders import create_encoder
from fomo_ssl.encoders.foreign import Facts, export_weights, mednext

ENCODER = ("stem", "enc_stages", "down_blocks", "bottleneck")
FACTS = Facts(1.0, (16, 16, 16), "zscore_foreground", ("t1",), {}, 2.0, False)


@torch.no_grad()
def test_monai_takes_every_tensor_and_gives_the_same_maps(tmp_path: Path):
    torch.manual_seed(0)
    encoder = create_encoder("mednext_b", in_channels=2, blocks=(1, 2, 3), ratios=(2, 3, 4), width=4).eval()
    for parameter in encoder.parameters():  # fresh norms are all alike and would hide mistakes
        parameter += 0.1 * torch.randn_like(parameter)
    export_weights(encoder, tmp_path / "out", FACTS, "mednext")
    state = torch.load(tmp_path / "out" / "mednext.pth", weights_only=True)
    arguments = json.loads((tmp_path / "out" / "config.json").read_text())["arguments"]
    net = MedNeXt(out_channels=3, **arguments).eval()
    for part in ENCODER:  # each strictly
        own = {name.removeprefix(f"{part}."): value for name, value in state.items() if name.startswith(f"{part}.")}
        net.get_submodule(part).load_state_dict(own)
    result = net.load_state_dict(state, strict=False)
    assert result.unexpected_keys == []
    assert {name.partition(".")[0] for name in result.missing_keys} == {"up_blocks", "dec_stages", "out_0"}

    x = torch.randn(1, 2, 16, 12, 8)
    assert net(x).shape == (1, 3, 16, 12, 8)  # the mirrored decoder fits
    theirs, y = [], net.stem(x)
    for stage, down in zip(net.enc_stages, net.down_blocks, strict=True):
        theirs.append(stage(y))
        y = down(theirs[-1])
    theirs.append(net.bottleneck(y))
    for own_map, there in zip(encoder.forward_features(x), theirs, strict=True):
        torch.testing.assert_close(own_map, there, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("size", "sbml")
def test_the_arguments_of_every_size_are_monais(size: str, tmp_path: Path):
    """Built from `config.json`, the whole network has the tensors of MONAI's own size of that name."""
    encoder = create_encoder(f"mednext_{size}")
    mednext.write(encoder, tmp_path / "out")
    arguments = json.loads((tmp_path / "out" / "config.json").read_text())["arguments"]
    with torch.device("meta"):
        net, monais = MedNeXt(out_channels=2, **arguments), create_mednext(size)
    assert {n: p.shape for n, p in net.state_dict().items()} == {n: p.shape for n, p in monais.state_dict().items()}


def test_another_encoder_is_refused(tmp_path: Path):
    with pytest.raises(ForeignWeightsError, match="no counterpart of unet_t"):
        mednext.write(create_encoder("unet_t"), tmp_path / "out")
    assert not (tmp_path / "out").exists()
