"""The MedNeXt encoder beside MONAI's own."""

import pytest
import torch
from monai.networks.nets.mednext import MedNeXt as Peer
from monai.networks.nets.mednext import create_mednext
from torch import Tensor

from fomo_ssl.encoders import create_encoder

BLOCKS, RATIOS = (1, 2, 1), (2, 3, 4)


def own_name(name: str) -> str:
    return name.replace("stem.", "stem_conv.")


def encoder_of(peer: Peer) -> dict[str, Tensor]:
    parts = ("stem.", "enc_stages.", "down_blocks.", "bottleneck.")
    return {own_name(name): value for name, value in peer.state_dict().items() if name.startswith(parts)}


@torch.no_grad()
def test_equals_monai():
    torch.manual_seed(0)
    peer = Peer(
        init_filters=4,
        encoder_expansion_ratio=RATIOS[:-1],
        decoder_expansion_ratio=(3, 2),
        bottleneck_expansion_ratio=RATIOS[-1],
        kernel_size=3,
        use_residual_connection=True,
        blocks_down=BLOCKS[:-1],
        blocks_bottleneck=BLOCKS[-1],
        blocks_up=(2, 1),
    )
    encoder = create_encoder("mednext_s", blocks=BLOCKS, ratios=RATIOS, width=4)
    encoder.load_state_dict(encoder_of(peer))
    x = torch.randn(2, 1, 16, 12, 8)
    expected, y = [], peer.stem(x)
    for stage, down in zip(peer.enc_stages, peer.down_blocks, strict=True):
        expected.append(stage(y))
        y = down(expected[-1])
    expected.append(peer.bottleneck(y))
    for own, theirs in zip(encoder.forward_features(x), expected, strict=True):
        torch.testing.assert_close(own, theirs, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize(("size", "total"), [("s", 5.55), ("b", 10.51), ("m", 17.53), ("l", 61.73)])
def test_sizes_are_those_of_monai(size: str, total: float):
    """MONAI's totals are of encoder and decoder, with two classes."""
    with torch.device("meta"):
        peer, encoder = create_mednext(size), create_encoder(f"mednext_{size}")
    theirs = encoder_of(peer)
    assert {name: p.shape for name, p in encoder.state_dict().items()} == {n: p.shape for n, p in theirs.items()}
    decoder = sum(p.numel() for name, p in peer.named_parameters() if own_name(name) not in theirs)
    assert (sum(p.numel() for p in encoder.parameters()) + decoder) / 1e6 == pytest.approx(total, abs=0.006)


def test_stages_need_blocks_and_ratios():
    with pytest.raises(ValueError, match="2 stages by their blocks but 3"):
        create_encoder("mednext_s", blocks=(1, 1), ratios=(2, 2, 2))
