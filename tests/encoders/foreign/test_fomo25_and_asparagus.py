"""Checkpoints of FOMO25's baselines and of asparagus, beside what their own networks answered.

`fixtures/asparagus_*` are made by `make_asparagus_fixture.py`, `fixtures/fomo25_unet` by `make_fomo25_fixture.py`.
"""

import json
from itertools import pairwise
from pathlib import Path
from types import ModuleType

import pytest
import torch
from omegaconf import OmegaConf
from safetensors import safe_open
from torch import Tensor

from fomo_ssl.core.errors import ForeignWeightsError
from fomo_ssl.encoders import Encoder, create_encoder
from fomo_ssl.encoders.foreign import Imported, asparagus, fomo25, import_weights, plain
from fomo_ssl.encoders.foreign.keys import bare

FIXTURES = Path(__file__).parent / "fixtures"
CASES = [("fomo25_unet", fomo25), ("asparagus_unet", asparagus), ("asparagus_resenc", asparagus)]


def kept(name: str) -> tuple[dict[str, Tensor], Tensor, list[Tensor]]:
    """A network's state with its aliases, an input and the encoder's maps."""
    with safe_open(FIXTURES / f"{name}.safetensors", "pt") as file:
        values = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118, no mapping
        aliases = json.loads(file.metadata()["aliases"])
    state = {key.removeprefix("state."): value for key, value in values.items() if key.startswith("state.")}
    state |= {alias: state[first] for alias, first in aliases.items()}
    maps = [values[f"map.{level}"] for level in range(sum(key.startswith("map.") for key in values))]
    return state, values["image"], maps


def lightning(state: dict[str, Tensor], prefix: str = "model.", **hyper_parameters: object) -> dict[str, object]:
    """The parts of a Lightning checkpoint that every one has."""
    return {
        "epoch": 99,
        "global_step": 1234,
        "pytorch-lightning_version": "2.5.0",
        "state_dict": {f"{prefix}{name}": value for name, value in state.items()},
        "loops": {},
        "optimizer_states": [{"state": {0: {"exp_avg": torch.zeros(3)}}}],
        "hyper_parameters": hyper_parameters,
    }


def save(content: dict[str, object], path: Path) -> Path:
    torch.save(content, path)
    return path


def read(module: ModuleType, path: Path) -> Imported:
    return import_weights(path, module.NAME)


def test_a_file_is_read_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    path = save(lightning(kept("asparagus_unet")[0]), tmp_path / "last.ckpt")
    load, opened = torch.load, []
    monkeypatch.setattr(torch, "load", lambda file, **kwargs: (opened.append(file), load(file, **kwargs))[1])
    assert import_weights(path).report.format == "asparagus"
    assert opened == [path]


@pytest.mark.parametrize("prefix", ["model.", "model._orig_mod.", ""])
@pytest.mark.parametrize(("name", "module"), CASES)
@torch.no_grad()
def test_the_original_and_ours_give_the_same_maps(name: str, module: ModuleType, prefix: str, tmp_path: Path):
    state, image, maps = kept(name)
    content = lightning(state, prefix, patch_size=(96, 96, 64))
    assert [m.NAME for m in (fomo25, asparagus) if m.recognises(content)] == [module.NAME]
    imported = read(module, save(content, tmp_path / "last.ckpt"))
    for own, theirs in zip(imported.encoder.forward_features(image), maps, strict=True):
        torch.testing.assert_close(own, theirs, atol=1e-5, rtol=1e-5)
    unused = {bare(entry) for entry in imported.report.unused}
    assert unused == {key for key in state if key.startswith("decoder.")}
    assert imported.crop == (96, 96, 64)
    again = create_encoder(imported.encoder.name, 1, **imported.encoder.arguments)
    again.load_state_dict(imported.encoder.state_dict())


@pytest.mark.parametrize(
    ("said", "crop"),
    [
        ({"patch_size": (32, 32, 32)}, (32, 32, 32)),  # pretraining keeps its arguments, finetuning one `config`
        ({"config": {"patch_size": (96, 96, 96), "num_classes": 2}, "learning_rate": 1e-3}, (96, 96, 96)),
        ({"config": {}}, (64, 64, 64)),
        ({}, (64, 64, 64)),
    ],
)
def test_the_crop_is_that_of_the_hyper_parameters(said: dict[str, object], crop: tuple[int, ...], tmp_path: Path):
    state, *_ = kept("fomo25_unet")
    assert read(fomo25, save(lightning(state, **said), tmp_path / "last.ckpt")).crop == crop


def as_unet(encoder: Encoder) -> dict[str, Tensor]:
    """A UNet's state under the names of FOMO25."""
    names = {}
    for name, value in encoder.state_dict().items():
        _, stage, layer, rest = name.split(".", 3)
        block = f"encoder_conv{stage}" if int(stage) else "in_conv"
        names[f"encoder.{block}.conv{int(layer) + 1}.{rest}"] = value
    return names


@pytest.mark.parametrize("name", ["unet_b", pytest.param("unet_xl", marks=pytest.mark.slow)])
def test_full_sizes_have_their_presets_names(name: str, tmp_path: Path):
    donor = create_encoder(name)
    imported = read(fomo25, save(lightning(as_unet(donor)), tmp_path / "last.ckpt"))
    assert (imported.encoder.name, imported.encoder.arguments) == (name, {})
    assert imported.crop == (64, 64, 64)
    assert imported.report.parameters == sum(p.numel() for p in donor.parameters())


@pytest.mark.slow
def test_resenc_b_of_asparagus_is_resenc_l(tmp_path: Path):
    donor = create_encoder("resenc_l")
    state = {
        f"encoder.{name.replace('stem_convs.0', 'stem.conv1').replace('.norm.', '.norm_op.')}": value
        for name, value in donor.state_dict().items()
    }
    imported = read(asparagus, save(lightning(state), tmp_path / "last.ckpt"))
    assert (imported.encoder.name, imported.encoder.arguments) == ("resenc_l", {})
    assert imported.crop == (160, 160, 160)


@pytest.mark.parametrize(
    ("name", "layers", "total"),
    [("unet_b", 2, 22.58), ("unet_b", 1, 20.23), ("unet_xl", 2, 90.30), ("unet_xl", 1, 80.90)],
)
def test_published_totals_are_encoder_and_decoder(name: str, layers: int, total: float):
    """FOMO25's decoder, each level: transposed convolution, skip beside it, two convolutions or, in `*_lw_dec`, one."""
    with torch.device("meta"):
        encoder = create_encoder(name)
        channels = [level.channels for level in encoder.feature_info]
        decoder = torch.nn.ModuleList([torch.nn.Conv3d(channels[0], 1, 1)])
        for fine, coarse in pairwise(channels):
            inputs = [2 * fine, fine][:layers]
            decoder.append(torch.nn.ConvTranspose3d(coarse, fine, 2, 2))
            decoder.extend(torch.nn.Conv3d(before, fine, 3) for before in inputs)
            decoder.extend(torch.nn.InstanceNorm3d(fine, affine=True) for _ in inputs)
    parts = (sum(p.numel() for p in part.parameters()) for part in (encoder, decoder))
    assert sum(parts) / 1e6 == pytest.approx(total, abs=0.006)


def test_a_stage_too_many_or_too_few_is_refused(tmp_path: Path):
    state, *_ = kept("fomo25_unet")
    more = state | {"encoder.encoder_conv5.conv1.conv.weight": torch.zeros(1)}
    with pytest.raises(ForeignWeightsError, match="layers that ours has not"):
        read(fomo25, save(lightning(more), tmp_path / "more.ckpt"))
    fewer = {name: value for name, value in state.items() if ".conv2." not in name}
    with pytest.raises(ForeignWeightsError, match="are not in the file"):
        read(fomo25, save(lightning(fewer), tmp_path / "fewer.ckpt"))


@pytest.mark.parametrize(("name", "module"), CASES)
def test_flat_networks_are_refused(name: str, module: ModuleType, tmp_path: Path):
    state, *_ = kept(name)
    flat = {key: value[..., 0] if value.ndim == 5 else value for key, value in state.items()}
    with pytest.raises(ForeignWeightsError, match="2D network"):
        read(module, save(lightning(flat), tmp_path / "last.ckpt"))


def test_a_classifiers_resenc_pools_otherwise(tmp_path: Path):
    state, *_ = kept("asparagus_resenc")
    head = {"decoder.fc.weight": torch.zeros(1, 4), "decoder.fc.bias": torch.zeros(1)}
    encoder = {name: value for name, value in state.items() if name.startswith("encoder.")}
    with pytest.raises(ForeignWeightsError, match="maximum where ours average"):
        read(asparagus, save(lightning(encoder | head), tmp_path / "last.ckpt"))


def test_hyper_parameters_that_need_code_come_with_the_way_out(tmp_path: Path):
    state, *_ = kept("asparagus_unet")
    content = lightning(state, patch_size=OmegaConf.create([160, 160, 160]))
    path = save(content, tmp_path / "last.ckpt")
    with pytest.raises(ForeignWeightsError, match="weights_only=False") as caught:
        read(asparagus, path)
    assert "carries code" in str(caught.value)
    torch.save(torch.load(path, weights_only=False)["state_dict"], tmp_path / "plain.pt")
    assert read(asparagus, tmp_path / "plain.pt").crop == (160, 160, 160)


def test_each_refuses_the_other(tmp_path: Path):
    for (name, _), module in zip(CASES, (asparagus, fomo25, fomo25), strict=True):
        state, *_ = kept(name)
        with pytest.raises(ForeignWeightsError, match=r"no UNet (or ResEnc )?of"):
            read(module, save(lightning(state), tmp_path / "last.ckpt"))


def test_a_plain_state_dict_builds_the_encoder_again(tmp_path: Path):
    encoder = create_encoder("resenc_t", channels=(4, 8), blocks=(1, 1))
    plain.write(encoder, tmp_path / "out")
    body = json.loads((tmp_path / "out" / "config.json").read_text())
    again = create_encoder(body["encoder"], body["in_channels"], **body["arguments"])
    state = torch.load(tmp_path / "out" / "encoder.pth", weights_only=True)
    again.load_state_dict(state)
    x = torch.randn(1, 1, 8, 8, 8)
    assert torch.equal(again(x), encoder(x))
    assert (body["stem"], body["layers"]) == ("stem_convs.0.conv", [["stem_convs"], ["stages.0"], ["stages.1"]])
    assert state[f"{body['stem']}.weight"].shape == (4, 1, 3, 3, 3)
    assert body["maps"] == [{"channels": 4, "stride": [1, 1, 1]}, {"channels": 8, "stride": [2, 2, 2]}]
