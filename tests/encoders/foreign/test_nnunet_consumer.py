"""What nnU-Net does with an nnssl checkpoint (planning and `PretrainedTrainer`), step by step, on our exports.

It builds the network from the plan with dynamic-network-architectures and loads by prefix, strictly. Written from
nnU-Net 0e49508 (2026-07-13): `preprocess_like_nnssl` and `PretrainedTrainer.load_pretrained_weights`.
"""

import json
import pydoc
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from originals import original
from torch import Tensor, nn

from fomo_ssl.encoders import Encoder, create_encoder
from fomo_ssl.encoders.foreign import Facts, export_weights
from fomo_ssl.encoders.presets import PRIMUS

FACTS = Facts(1.0, (32, 32, 32), "zscore_foreground", ("t1",), {"datasets": ["ds1"]}, 2.0, False)


def planned(file: Path) -> tuple[dict[str, Any], dict[str, Any], dict[str, Tensor]]:
    """Planning: the architecture and the `pretrain_info` of an nnU-Net plan, which has to be JSON; and the weights."""
    loaded = torch.load(file, weights_only=True, map_location="cpu")
    plan = loaded["nnssl_adaptation_plan"]
    citations = loaded.get("citations", [])
    configuration = next(iter(plan["pretrain_plan"]["configurations"]))
    pretrained = next(iter(plan["pretrain_plan"]["configurations"].values()))
    architecture = dict(plan["architecture_plans"])
    architecture["network_class_name"] = architecture.pop("arch_class_name")
    architecture["_kw_requires_import"] = architecture.pop("arch_kwargs_requiring_import")
    info = {
        "key_to_encoder": plan["key_to_encoder"],
        "key_to_stem": plan["key_to_stem"],
        "keys_to_in_proj": plan["keys_to_in_proj"],
        "key_to_lpe": plan["key_to_lpe"],
        "pt_num_in_channels": plan["pretrain_num_input_channels"],
        "pt_used_patchsize": plan["pretrain_plan"]["configurations"][configuration]["patch_size"],
        "patch_size": plan["recommended_downstream_patchsize"],
        "spacing": pretrained["spacing"],
        "citations": citations,
    }
    through = json.loads(json.dumps([architecture, info]))
    assert through == [architecture, info]
    return architecture, info, loaded["network_weights"]


def load_pretrained(network: nn.Module, info: dict[str, Any], state: dict[str, Tensor], channels: int) -> None:
    """Training: load stem and encoder by prefix, the stem repeated over channels, the position table resized."""
    encoder = {k: v for k, v in state.items() if k.startswith(info["key_to_encoder"])}
    stem = {k: v for k, v in state.items() if k.startswith(info["key_to_stem"])}
    assert info["key_to_stem"] not in state  # else nnU-Net takes the stem for a part of the encoder
    if channels > info["pt_num_in_channels"]:
        first = stem[info["keys_to_in_proj"][0] + ".weight"]
        for key in info["keys_to_in_proj"]:
            stem[key + ".weight"] = first.repeat(1, channels, 1, 1, 1) / channels
    encoder = {k.replace(info["key_to_encoder"], "").removeprefix("."): v for k, v in encoder.items()}
    stem = {k.replace(info["key_to_stem"], "").removeprefix("."): v for k, v in stem.items()}
    if network.key_to_lpe is not None and info["pt_used_patchsize"] != info["patch_size"]:
        patch = stem["proj.weight"].shape[2:]
        before, after = (
            [n // p for n, p in zip(info[key], patch, strict=True)] for key in ("pt_used_patchsize", "patch_size")
        )
        table = encoder["pos_embed"].permute(0, 2, 1).unflatten(2, before)
        table = F.interpolate(table, size=after, mode="trilinear", align_corners=False)
        encoder["pos_embed"] = table.flatten(2).permute(0, 2, 1)
    network.get_submodule(network.key_to_encoder).load_state_dict(encoder)
    network.get_submodule(network.key_to_stem).load_state_dict(stem)
    if network.key_to_lpe is not None and info["pt_used_patchsize"] == info["patch_size"]:
        assert len([k for k in state if k.startswith(info["key_to_lpe"])]) == 1


def build_unet(architecture: dict[str, Any], channels: int) -> nn.Module:
    """As nnU-Net from a plan; `ResEncL` is spelt out in its code."""
    unet = pytest.importorskip("dynamic_network_architectures.architectures.unet")
    name, arguments = architecture["network_class_name"], architecture["arch_kwargs"]
    if name == "ResEncL":
        assert arguments is None
        arguments = {
            "n_stages": 6,
            "features_per_stage": [32, 64, 128, 256, 320, 320],
            "conv_op": nn.Conv3d,
            "kernel_sizes": [[3, 3, 3]] * 6,
            "strides": [[1, 1, 1]] + [[2, 2, 2]] * 5,
            "n_blocks_per_stage": [1, 3, 4, 6, 6, 6],
            "n_conv_per_stage_decoder": [1] * 5,
            "conv_bias": True,
            "norm_op": nn.InstanceNorm3d,
            "norm_op_kwargs": {"eps": 1e-5, "affine": True},
            "nonlin": nn.LeakyReLU,
            "nonlin_kwargs": {"inplace": True},
        }
    else:
        assert name == "ResidualEncoderUNet"
        arguments = dict(arguments)
        for key in architecture["_kw_requires_import"]:
            arguments[key] = pydoc.locate(arguments[key])
            assert arguments[key] is not None
    return unet.ResidualEncoderUNet(input_channels=channels, num_classes=2, **arguments, deep_supervision=False)


def exported(encoder: Encoder, folder: Path) -> tuple[dict[str, Any], dict[str, Any], dict[str, Tensor]]:
    export_weights(encoder, folder, FACTS, "nnssl")
    plan = json.loads((folder / "adaptation_plan.json").read_text())
    assert plan.pop("trainer_name")
    assert plan == torch.load(folder / "checkpoint_final.pth", weights_only=True)["nnssl_adaptation_plan"]
    assert isinstance(json.loads((folder / "config.json").read_text()), dict)
    return planned(folder / "checkpoint_final.pth")


@torch.no_grad()
@pytest.mark.parametrize("channels", [1, 3])
def test_a_residual_net_gives_the_encoders_maps(tmp_path: Path, channels: int) -> None:
    torch.manual_seed(0)
    encoder = create_encoder("resenc_b", channels=(4, 8, 8), blocks=(1, 2, 2)).eval()
    architecture, info, state = exported(encoder, tmp_path / "out")
    network = build_unet(architecture, channels).eval()
    load_pretrained(network, info, state, channels)
    x = torch.randn(2, 1, 16, 12, 20)
    theirs = network.encoder(x.permute(0, 1, 4, 3, 2).expand(-1, channels, -1, -1, -1))
    for there, here in zip(theirs, encoder.forward_features(x), strict=True):
        torch.testing.assert_close(there.permute(0, 1, 4, 3, 2), here, atol=1e-5, rtol=1e-5)


@torch.no_grad()
def test_the_large_preset_loads_strictly_and_has_the_published_size(tmp_path: Path) -> None:
    encoder = create_encoder("resenc_l")
    architecture, info, state = exported(encoder, tmp_path / "out")
    assert architecture == {"network_class_name": "ResEncL", "arch_kwargs": None, "_kw_requires_import": None}
    network = build_unet(architecture, 1)
    load_pretrained(network, info, state, 1)
    count = {m: sum(p.numel() for p in m.parameters()) for m in (encoder, network)}
    heads = sum(p.numel() for p in network.decoder.seg_layers.parameters())
    assert count[encoder] / 1e6 == pytest.approx(90.30, abs=0.005)
    assert (count[network] - heads // 2) / 1e6 == pytest.approx(102.35, abs=0.005)  # the total has one output channel


@torch.no_grad()
def test_primus_has_the_names_and_shapes_that_are_loaded_strictly(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Without the original, which needs an older timm: its state dict is in the fixture."""
    weights, _, patch, _ = original("hwd")
    monkeypatch.setitem(PRIMUS, "primus_s", {"dim": 36, "depth": 4, "heads": 2})
    encoder = create_encoder("primus_t", dim=36, depth=4, heads=2, learned_grid=(4, 3, 2))
    architecture, info, state = exported(encoder, tmp_path / "out")
    assert architecture == {"network_class_name": "PrimusS", "arch_kwargs": None, "_kw_requires_import": None}
    assert info["pt_used_patchsize"] == [16, 24, 32]
    assert list(state[info["key_to_lpe"]].shape) == [1, 24, 36]
    weights["eva.pos_embed"] = torch.zeros(1, 24, 36)
    weights["down_projection.proj.weight"] = torch.zeros(36, 1, 8, 8, 8)
    assert {k: v.shape for k, v in state.items()} == {k: v.shape for k, v in weights.items()}
    assert patch != encoder.patch_size


@torch.no_grad()
@pytest.mark.parametrize("patch", [[32, 24, 16], [48, 48, 48]])
def test_the_original_primus_gives_the_encoders_maps(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, patch: list[int]
) -> None:
    """Where the original can be built: dynamic-network-architectures of 0.4.3 or later with timm below 1.0.23."""
    primus = pytest.importorskip("dynamic_network_architectures.architectures.primus")
    monkeypatch.setitem(PRIMUS, "primus_s", {"dim": 36, "depth": 4, "heads": 2})
    sizes = {"embed_dim": 36, "eva_depth": 4, "eva_numheads": 2, "init_values": 0.1, "scale_attn_inner": True}
    try:
        network = primus.Primus(1, patch_embed_size=(8, 8, 8), num_classes=2, input_shape=patch, **sizes).eval()
    except RuntimeError as error:
        pytest.skip(f"this timm cannot build it: {error}")
    torch.manual_seed(0)
    encoder = create_encoder("primus_t", dim=36, depth=4, heads=2, learned_grid=(2, 3, 4)).eval()
    _, info, state = exported(encoder, tmp_path / "out")
    load_pretrained(network, info | {"patch_size": patch}, state, 1)
    x = torch.randn(1, 1, *patch[::-1])
    tokens, _ = network.eva(network.down_projection(x.permute(0, 1, 4, 3, 2)).flatten(2).transpose(1, 2))
    maps = tokens.transpose(1, 2).unflatten(2, [n // 8 for n in patch]).permute(0, 1, 4, 3, 2)
    torch.testing.assert_close(maps, encoder.forward_features(x)[-1], atol=1e-5, rtol=1e-5)
