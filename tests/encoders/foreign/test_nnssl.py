"""Weights of nnssl: in, out, and round.

That maps are the original's is in test_resenc_original.py and test_primus_original.py, what nnU-Net does with an export
in test_nnunet_consumer.py.
"""

import functools
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from dynamic_network_architectures.architectures.unet import ResidualEncoderUNet
from originals import original, residual_unet
from torch import Tensor

from fomo_ssl.core.errors import ForeignWeightsError
from fomo_ssl.encoders import Encoder, create_encoder
from fomo_ssl.encoders.foreign import Facts, export_weights, import_weights, nnssl
from fomo_ssl.encoders.foreign.nnssl_plan import primus_architecture, resenc_architecture, write_plan
from fomo_ssl.encoders.presets import PRIMUS, RESENC

FACTS = Facts(1.0, (32, 24, 16), "zscore_foreground", ("t1",), {"datasets": ["ds1"]}, 2.0, False)
SMALL = {"channels": (4, 8, 8), "blocks": (1, 2, 1)}


def resenc(seed: int = 0, **arguments: Any) -> Encoder:
    torch.manual_seed(seed)
    return create_encoder("resenc_l", **{**SMALL, **arguments}).eval()


@pytest.fixture
def small_primus(monkeypatch: pytest.MonkeyPatch) -> None:
    """Sizes of the originals under the name of a published preset, which is all that a plan can name."""
    monkeypatch.setitem(PRIMUS, "primus_s", {"dim": 36, "depth": 4, "heads": 2})
    monkeypatch.setattr(nnssl, "create_encoder", small_builder)


def small_builder(name: str, in_channels: int = 1, **arguments: Any) -> Encoder:
    return create_encoder(name, in_channels, **{**PRIMUS["primus_s"], "patch_size": PATCH, **arguments})


PATCH = 4


def checkpoint(path: Path, weights: dict[str, Tensor], architecture: dict[str, Any], **changes: Any) -> Path:
    patch = changes.pop("patch", (32, 32, 32))
    plan = write_plan(architecture, in_channels=1, patch=patch, spacing=1.0, dataset="Dataset745_OpenMind")
    plan["pretrain_plan"] |= changes.pop("pretrain_plan", {})
    for configuration in plan["pretrain_plan"]["configurations"].values():
        configuration |= changes.pop("configuration", {})
    content = {"network_weights": weights, "nnssl_adaptation_plan": plan | changes, "trainer_name": "BaseMAETrainer"}
    torch.save(content, path)
    return path


@functools.cache
def theirs() -> ResidualEncoderUNet:
    """The original of `SMALL`, decoder and head included; shared, so not to be changed."""
    return residual_unet(**SMALL)


def transposed(x: Tensor) -> Tensor:
    """x y z as z y x, or back."""
    return x.permute(0, 1, 4, 3, 2)


def test_citations_travel_both_ways(tmp_path: Path) -> None:
    cited = replace(FACTS, training={"citations": ("Wald et al. 2024",)})
    export_weights(resenc(), tmp_path / "out", cited, "nnssl")
    imported = import_weights(tmp_path / "out" / "checkpoint_final.pth")
    assert imported.source["citations"] == ["Wald et al. 2024"]


@torch.no_grad()
def test_a_plan_that_turns_the_axes_further_is_followed(tmp_path: Path) -> None:
    order = [1, 2, 0]  # the network's axes are y, x, z
    file = checkpoint(
        tmp_path / "a.pth",
        theirs().state_dict(),
        resenc_architecture(**SMALL),
        patch=(8, 16, 24),
        pretrain_plan={"transpose_forward": order},
    )
    imported = import_weights(file)
    x = torch.randn(1, 1, 16, 12, 20)
    turned = theirs().encoder(x.permute(0, 1, 3, 2, 4))[-1].permute(0, 1, 3, 2, 4)
    torch.testing.assert_close(imported.encoder.forward_features(x)[-1], turned, atol=1e-5, rtol=1e-5)
    assert imported.crop == (16, 8, 24)


@torch.no_grad()
@pytest.mark.parametrize("order", ["hwd", "whd"])
@pytest.mark.usefixtures("small_primus")
def test_primus_gives_the_originals_features(tmp_path: Path, order: str, monkeypatch: pytest.MonkeyPatch) -> None:
    weights, answers, patch, size = original(order)
    # The file's table has a row a patch; the reader counts patches of 8^3 voxels.
    eights = tuple(8 * n // p for n, p in zip(size, patch, strict=True))
    monkeypatch.setattr(f"{__name__}.PATCH", patch[::-1])
    weights |= {"mask_token": torch.zeros(1, 1, 36), "decoder.norm.weight": torch.zeros(36)}
    file = checkpoint(tmp_path / "a.pth", weights, primus_architecture("s"), patch=eights)
    if order == "whd":
        torch.save(torch.load(file) | {"fomo_ssl": {"token_order": [0, 1, 2]}}, file)
    imported = import_weights(file)
    assert imported.encoder.arguments["learned_grid"] == tuple(n // 8 for n in eights[::-1])
    maps = imported.encoder.eval().forward_features(transposed(answers["image"]))[-1]
    torch.testing.assert_close(transposed(maps), answers["maps"], atol=1e-5, rtol=1e-5)
    assert set(imported.report.unused) == {"mask_token", "decoder.norm.weight"}


@pytest.mark.usefixtures("small_primus")
def test_a_swapped_order_on_unequal_edges_is_refused(tmp_path: Path) -> None:
    weights, _, patch, size = original("whd")
    eights = tuple(8 * n // p for n, p in zip(size, patch, strict=True))
    file = checkpoint(tmp_path / "a.pth", weights, primus_architecture("s"), patch=eights)
    with pytest.raises(ForeignWeightsError, match="equal first two edges"):
        import_weights(file)


@torch.no_grad()
@pytest.mark.parametrize("arguments", [{}, RESENC["resenc_t"], {"in_channels": 3}])
def test_resenc_makes_the_round_trip(tmp_path: Path, arguments: dict[str, Any]) -> None:
    encoder = resenc(**arguments)
    export_weights(encoder, tmp_path / "out", FACTS, "nnssl")
    imported = import_weights(tmp_path / "out" / "checkpoint_final.pth")
    assert imported.encoder.in_channels == encoder.in_channels
    if arguments is RESENC["resenc_t"]:
        assert (imported.encoder.name, imported.encoder.arguments) == ("resenc_t", {})
    for name, value in imported.encoder.state_dict().items():
        assert torch.equal(value, encoder.state_dict()[name]), name
    assert (imported.spacing, imported.crop) == (FACTS.spacing, FACTS.crop)
    assert (imported.normalisation, imported.sequences) == (FACTS.normalisation, FACTS.sequences)
    assert (imported.max_upsample, imported.crop_foreground) == (FACTS.max_upsample, FACTS.crop_foreground)


@torch.no_grad()
@pytest.mark.usefixtures("small_primus")
def test_primus_makes_the_round_trip(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(f"{__name__}.PATCH", 8)
    encoder = small_builder("primus_s", learned_grid=(2, 3, 4))
    export_weights(encoder, tmp_path / "out", FACTS, "nnssl")
    imported = import_weights(tmp_path / "out" / "checkpoint_final.pth")
    assert imported.encoder.arguments["learned_grid"] == (2, 3, 4)
    assert imported.crop == FACTS.crop
    for name, value in imported.encoder.state_dict().items():
        assert torch.equal(value, encoder.state_dict()[name]), name


def test_a_layer_that_has_no_place_is_refused(tmp_path: Path) -> None:
    weights = theirs().state_dict() | {"encoder.stages.0.blocks.0.squeeze.weight": torch.zeros(1)}
    file = checkpoint(tmp_path / "a.pth", weights, resenc_architecture(**SMALL))
    with pytest.raises(ForeignWeightsError, match=r"layers that ours has not: encoder\.stages\.0\.blocks\.0\.squeeze"):
        import_weights(file)


def test_an_encoder_without_counterpart_is_not_written(tmp_path: Path) -> None:
    for name, arguments in (("unet_t", {}), ("primus_t", {}), ("primus_s", {"patch_size": 16})):
        with torch.device("meta"):
            encoder = create_encoder(name, **arguments)
        with pytest.raises(ForeignWeightsError, match="nnU-Net"):
            export_weights(encoder, tmp_path / "out", FACTS, "nnssl")
    with pytest.raises(ForeignWeightsError, match="known: "):
        export_weights(encoder, tmp_path / "out", FACTS, "onnx")
    assert not (tmp_path / "out").exists()


REFUSED: dict[str, tuple[dict[str, Any], str]] = {
    "another network": ({"architecture_plans": {"arch_class_name": "PlainConvUNet"}}, "PlainConvUNet"),
    "no position table named": ({"key_to_encoder": "nowhere"}, "tensors of the encoder are not in the file"),
    "another normalisation": ({"configuration": {"normalization_schemes": ["RescaleTo01"]}}, "RescaleTo01"),
    "unequal spacing": ({"configuration": {"spacing": [1.0, 1.0, 3.0]}}, "differs between axes"),
    "a missing field": ({"pretrain_num_input_channels": None}, "no complete nnssl adaptation plan"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_what_has_no_counterpart_is_refused(tmp_path: Path, case: str) -> None:
    changes, message = REFUSED[case]
    file = checkpoint(tmp_path / "a.pth", theirs().state_dict(), resenc_architecture(**SMALL), **changes)
    with pytest.raises(ForeignWeightsError, match=message):
        import_weights(file)


@pytest.mark.parametrize(
    ("key", "value"), [("strides", [[1, 1, 1], [1, 2, 2], [2, 2, 2]]), ("nonlin_kwargs", {"negative_slope": 0.1})]
)
def test_other_arguments_of_a_residual_net_are_refused(tmp_path: Path, key: str, value: Any) -> None:
    architecture = resenc_architecture(**SMALL)
    architecture["architecture_plans"]["arch_kwargs"][key] = value
    file = checkpoint(tmp_path / "a.pth", theirs().state_dict(), architecture)
    with pytest.raises(ForeignWeightsError, match="counterpart"):
        import_weights(file)


def test_a_list_where_a_plan_has_a_table_is_an_incomplete_plan(tmp_path: Path) -> None:
    file = checkpoint(tmp_path / "a.pth", theirs().state_dict(), resenc_architecture(**SMALL))
    content = torch.load(file, weights_only=True)
    content["nnssl_adaptation_plan"]["pretrain_plan"]["configurations"] = []
    torch.save(content, file)
    with pytest.raises(ForeignWeightsError, match="no complete nnssl adaptation plan"):
        import_weights(file)


def test_a_plan_without_weights_is_refused(tmp_path: Path) -> None:
    file = checkpoint(tmp_path / "a.pth", theirs().state_dict(), resenc_architecture(**SMALL))
    content = torch.load(file, weights_only=True)
    del content["network_weights"]
    torch.save(content, file)
    with pytest.raises(ForeignWeightsError, match="no network_weights"):
        import_weights(file, "nnssl")


def test_a_file_of_no_known_format_names_its_keys(tmp_path: Path) -> None:
    torch.save({"weights": torch.zeros(1)}, tmp_path / "a.pth")
    with pytest.raises(ForeignWeightsError, match="its keys begin with weights"):
        import_weights(tmp_path / "a.pth")
    with pytest.raises(ForeignWeightsError, match="unknown format 'voco'"):
        import_weights(tmp_path / "a.pth", "voco")
