"""Weights of nnssl: in, out, and round; what nnU-Net does with an export is in test_nnunet_consumer.py."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from originals import original
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


def foreign_resenc(donor: Encoder) -> dict[str, Tensor]:
    """As nnssl saves it: aliases of every layer, the encoder once more below the decoder, a decoder and a head."""
    names = {name.replace("stem_convs", "stem.convs"): value for name, value in donor.state_dict().items()}
    for name, value in list(names.items()):
        unit, layer, kind = name.rsplit(".", 2)
        names[f"{unit}.all_modules.{0 if layer == 'conv' else 1}.{kind}"] = value
    everywhere = {f"{where}.{name}": value for where in ("encoder", "decoder.encoder") for name, value in names.items()}
    return everywhere | {"decoder.seg_layers.0.weight": torch.zeros(1)}


def transposed(x: Tensor) -> Tensor:
    """x y z as z y x, or back."""
    return x.permute(0, 1, 4, 3, 2)


@torch.no_grad()
def test_resenc_gives_on_xyz_what_it_gave_on_zyx(tmp_path: Path) -> None:
    donor = resenc()
    file = checkpoint(tmp_path / "a.pth", foreign_resenc(donor), resenc_architecture(**SMALL), patch=(16, 24, 32))
    imported = import_weights(file)
    assert imported.encoder.arguments == SMALL
    x = torch.randn(2, 1, 16, 12, 20)
    for ours, theirs in zip(imported.encoder.forward_features(x), donor.forward_features(transposed(x)), strict=True):
        torch.testing.assert_close(transposed(theirs), ours, atol=1e-5, rtol=1e-5)
    assert len(imported.report.moved) == len(donor.state_dict())
    assert imported.report.unused == ("decoder.seg_layers.0.weight",)
    assert {m.how for m in imported.report.moved if m.target.endswith("conv.weight")} == {"turned"}
    assert (imported.spacing, imported.crop, imported.normalisation) == (1.0, (32, 24, 16), "zscore_volume")
    assert imported.source["dataset"] == "Dataset745_OpenMind"


def test_citations_travel_both_ways(tmp_path: Path) -> None:
    cited = replace(FACTS, training={"citations": ("Wald et al. 2024",)})
    export_weights(resenc(), tmp_path / "out", cited, "nnssl")
    imported = import_weights(tmp_path / "out" / "checkpoint_final.pth")
    assert imported.source["citations"] == ["Wald et al. 2024"]


@torch.no_grad()
def test_a_plan_that_turns_the_axes_further_is_followed(tmp_path: Path) -> None:
    donor, order = resenc(), [1, 2, 0]  # the network's axes are y, x, z
    file = checkpoint(
        tmp_path / "a.pth",
        foreign_resenc(donor),
        resenc_architecture(**SMALL),
        patch=(8, 16, 24),
        pretrain_plan={"transpose_forward": order},
    )
    imported = import_weights(file)
    x = torch.randn(1, 1, 16, 12, 20)
    turned = donor.forward_features(x.permute(0, 1, 3, 2, 4))[-1].permute(0, 1, 3, 2, 4)
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
    weights = foreign_resenc(resenc()) | {"encoder.stages.0.blocks.0.squeeze.weight": torch.zeros(1)}
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
    file = checkpoint(tmp_path / "a.pth", foreign_resenc(resenc()), resenc_architecture(**SMALL), **changes)
    with pytest.raises(ForeignWeightsError, match=message):
        import_weights(file)


@pytest.mark.parametrize(
    ("key", "value"), [("strides", [[1, 1, 1], [1, 2, 2], [2, 2, 2]]), ("nonlin_kwargs", {"negative_slope": 0.1})]
)
def test_other_arguments_of_a_residual_net_are_refused(tmp_path: Path, key: str, value: Any) -> None:
    architecture = resenc_architecture(**SMALL)
    architecture["architecture_plans"]["arch_kwargs"][key] = value
    file = checkpoint(tmp_path / "a.pth", foreign_resenc(resenc()), architecture)
    with pytest.raises(ForeignWeightsError, match="counterpart"):
        import_weights(file)


def test_a_list_where_a_plan_has_a_table_is_an_incomplete_plan(tmp_path: Path) -> None:
    file = checkpoint(tmp_path / "a.pth", foreign_resenc(resenc()), resenc_architecture(**SMALL))
    content = torch.load(file, weights_only=True)
    content["nnssl_adaptation_plan"]["pretrain_plan"]["configurations"] = []
    torch.save(content, file)
    with pytest.raises(ForeignWeightsError, match="no complete nnssl adaptation plan"):
        import_weights(file)


def test_a_plan_without_weights_is_refused(tmp_path: Path) -> None:
    file = checkpoint(tmp_path / "a.pth", foreign_resenc(resenc()), resenc_architecture(**SMALL))
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
