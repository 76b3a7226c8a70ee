"""SwinUNETR's weights under all names they are published with, beside MONAI's own network."""

import json
import re
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from monai.networks.nets.swin_unetr import SwinUNETR, filter_swinunetr
from torch import Tensor

from fomo_ssl.core.errors import ForeignWeightsError
from fomo_ssl.encoders import create_encoder
from fomo_ssl.encoders.foreign import import_weights, swinunetr

SMALL = {"feature_size": 12, "depths": (2, 1, 1, 1), "num_heads": (2, 2, 4, 4), "window_size": 3}


@pytest.fixture(scope="module")
def net() -> SwinUNETR:
    torch.manual_seed(0)
    net = SwinUNETR(in_channels=2, out_channels=1, **SMALL).eval()
    with torch.no_grad():
        for parameter in net.parameters():  # fresh norms are all alike and would hide mistakes
            parameter += 0.1 * torch.randn_like(parameter)
    return net


def pretraining(name: str) -> str:
    return name.replace("swinViT.", "module.swin_vit.")


def first_release(name: str) -> str:
    return re.sub(r"mlp\.linear(\d)", r"mlp.fc\1", name.replace("swinViT.", "module."))


def autoencoder(name: str) -> str:
    return re.sub(r"^swinViT\.(layers\d\.0)\.", r"encoder.\1.0.", name).replace("swinViT.", "encoder.")


def encoder_part(net: SwinUNETR, rename: Callable[[str], str]) -> dict[str, Tensor]:
    return {rename(name): value for name, value in net.state_dict().items() if name.startswith("swinViT.")}


SPELLINGS: dict[str, Callable[[SwinUNETR], dict[str, object]]] = {
    "whole network": lambda net: net.state_dict(),
    "whole network, nested": lambda net: {"epoch": 3, "state_dict": net.state_dict()},
    "encoder": lambda net: {"state_dict": encoder_part(net, str)},
    "no prefix": lambda net: {"state_dict": encoder_part(net, lambda name: name.removeprefix("swinViT."))},
    "pretraining": lambda net: {
        "state_dict": {**encoder_part(net, pretraining), "module.rotation_head.bias": torch.ones(4)}
    },
    "first release": lambda net: {
        "state_dict": {**encoder_part(net, first_release), "module.norm.weight": torch.ones(9)}
    },
    "autoencoder": lambda net: {"model": {**encoder_part(net, autoencoder), "encoder.mask_token": torch.zeros(1)}},
    "lightning": lambda net: {"state_dict": {f"model.{name}": value for name, value in net.state_dict().items()}},
}


@pytest.mark.parametrize("spelling", SPELLINGS)
@torch.no_grad()
def test_every_spelling_gives_monais_numbers(net: SwinUNETR, spelling: str, tmp_path: Path):
    content = SPELLINGS[spelling](net)
    torch.save(content, tmp_path / "weights.pt")
    assert swinunetr.recognises(content)
    imported = import_weights(tmp_path / "weights.pt", "swinunetr")
    x = torch.randn(1, 2, 32, 64, 32)
    for own, theirs in zip(imported.encoder.forward_features(x), net.swinViT(x, normalize=True), strict=True):
        torch.testing.assert_close(own, theirs, atol=1e-5, rtol=1e-5)
    assert imported.encoder.name == "swin_t"
    again = create_encoder(imported.encoder.name, 2, **imported.encoder.arguments)
    again.load_state_dict(imported.encoder.state_dict())
    moved = {entry.source for entry in imported.report.moved}
    parts = ("swinViT.patch_embed", "swinViT.layers")
    assert len(moved) == sum(n.startswith(parts) and not n.endswith("index") for n in net.state_dict())


def test_the_autoencoders_names_are_those_of_monais_filter(net: SwinUNETR):
    for name in encoder_part(net, str):
        if ".layers" in name:
            assert filter_swinunetr(autoencoder(name), None) == (name, None)


def test_full_size_has_its_presets_name(tmp_path: Path):
    donor = create_encoder("swin_b")
    torch.save(donor.state_dict(), tmp_path / "weights.pt")
    imported = import_weights(tmp_path / "weights.pt", "swinunetr")
    assert (imported.encoder.name, imported.encoder.arguments) == ("swin_b", {})


@torch.no_grad()
def test_what_is_written_loads_into_monai(net: SwinUNETR, tmp_path: Path):
    torch.save(net.state_dict(), tmp_path / "weights.pt")
    encoder = import_weights(tmp_path / "weights.pt", "swinunetr").encoder
    swinunetr.write(encoder, tmp_path / "out")
    state = torch.load(tmp_path / "out" / "swin_unetr.pth", weights_only=True)
    arguments = json.loads((tmp_path / "out" / "config.json").read_text())["arguments"]
    assert arguments == {"in_channels": 2, **{k: list(v) if isinstance(v, tuple) else v for k, v in SMALL.items()}} | {
        "window_size": [3, 3, 3]
    }
    fresh = SwinUNETR(out_channels=1, **arguments)
    result = fresh.load_state_dict(state, strict=False)
    assert result.unexpected_keys == []
    assert not [name for name in result.missing_keys if name.startswith("swinViT.")]
    assert all(torch.equal(value, net.state_dict()[name]) for name, value in state.items())


def test_other_designs_are_refused(net: SwinUNETR, tmp_path: Path):
    def refused(message: str, changed: dict[str, Tensor]) -> None:
        torch.save(net.state_dict() | changed, tmp_path / "weights.pt")
        with pytest.raises(ForeignWeightsError, match=message):
            import_weights(tmp_path / "weights.pt", "swinunetr")

    second = SwinUNETR(in_channels=2, out_channels=1, use_v2=True, **SMALL)
    refused("layers that ours has not: swinViT.layers1c", second.state_dict())
    refused("layers that ours has not: swinViT.patch_embed.norm", {"swinViT.patch_embed.norm.weight": torch.ones(12)})
    refused(r"patches of \(4, 4, 4\)", {"swinViT.patch_embed.proj.weight": torch.zeros(12, 2, 4, 4, 4)})
    table = "swinViT.layers1.0.blocks.0.attn.relative_position_bias_table"
    refused("no cubic window", {table: torch.zeros(45, 2)})
    torch.save({"weight": torch.ones(2)}, tmp_path / "other.pt")
    with pytest.raises(ForeignWeightsError, match="no Swin transformer"):
        import_weights(tmp_path / "other.pt", "swinunetr")
    with pytest.raises(ForeignWeightsError, match="no counterpart of unet_t"):
        swinunetr.write(create_encoder("unet_t"), tmp_path / "out")
