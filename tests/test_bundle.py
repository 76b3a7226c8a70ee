import json
import os
import stat
from dataclasses import replace
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from fomo_ssl import create_encoder, load_encoder
from fomo_ssl.bundle import (
    BundleConfig,
    InputContract,
    load_config,
    load_head_state,
    load_state,
    load_weights,
    save_bundle,
)
from fomo_ssl.bundle.card import model_card
from fomo_ssl.bundle.config import SCHEMA
from fomo_ssl.core.errors import BundleError, RejectedScan
from fomo_ssl.encoders import LateFusion
from fomo_ssl.imaging import nifti
from fomo_ssl.imaging.canonical import canonicalise
from fomo_ssl.imaging.intensity import normalise
from fomo_ssl.synthetic.phantoms import phantom

CONTRACT = InputContract(sequences=("flair", "t1"), spacing=None, max_upsample=2.0, crop=(32, 32, 32))
CONFIG = BundleConfig("resenc_t", {}, 1, CONTRACT, {"samples": 8, "datasets": ["A", "B"]})


def small_encoder(in_channels: int = 1):
    torch.manual_seed(0)
    return create_encoder("resenc_t", in_channels=in_channels)


def files(folder: Path) -> dict[str, bytes]:
    return {str(f.relative_to(folder)): f.read_bytes() for f in sorted(folder.rglob("*")) if f.is_file()}


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("bundles") / "bundle"
    save_bundle(path, small_encoder(), CONFIG, pretraining={"projector.weight": torch.ones(2, 3)})
    return path


@pytest.fixture
def copy(bundle: Path, tmp_path: Path) -> Path:
    for name, content in files(bundle).items():
        (tmp_path / "copy" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "copy" / name).write_bytes(content)
    return tmp_path / "copy"


def test_round_trip(bundle: Path) -> None:
    assert load_config(bundle) == CONFIG
    saved, loaded = small_encoder().state_dict(), load_weights(bundle).state_dict()
    assert saved.keys() == loaded.keys()
    assert all(torch.equal(saved[name], loaded[name]) for name in saved)
    assert set(files(bundle)) == {
        "config.json",
        "encoder.safetensors",
        "README.md",
        "pretraining/objective.safetensors",
    }
    assert list(bundle.parent.iterdir()) == [bundle]


def test_same_weights_same_bytes(bundle: Path, tmp_path: Path) -> None:
    again = tmp_path / "again"
    for _ in range(2):  # the second replaces the first as a whole
        save_bundle(again, small_encoder(), CONFIG, pretraining={"projector.weight": torch.ones(2, 3)})
    assert files(again) == files(bundle)
    assert list(tmp_path.iterdir()) == [again]


def test_failed_save_leaves_the_old_bundle(bundle: Path, copy: Path) -> None:
    with pytest.raises(TypeError):
        save_bundle(copy, small_encoder(), replace(CONFIG, training={"x": object()}))
    assert files(copy) == files(bundle)
    assert [p.name for p in copy.parent.iterdir()] == ["copy"]


def test_others_can_read_a_bundle_as_far_as_the_umask_lets_them(tmp_path: Path) -> None:
    for umask, mode in ((0o022, 0o644), (0o027, 0o640), (0o002, 0o664)):
        before = os.umask(umask)
        try:
            save_bundle(tmp_path / "b", small_encoder(), CONFIG, pretraining={"projector.weight": torch.ones(2, 3)})
        finally:
            os.umask(before)
        modes = {str(file): stat.S_IMODE(file.stat().st_mode) for file in (tmp_path / "b").rglob("*") if file.is_file()}
        assert set(modes.values()) == {mode}, modes


def test_head_and_task(tmp_path: Path) -> None:
    head = torch.nn.Linear(4, 2)
    save_bundle(tmp_path / "b", small_encoder(), replace(CONFIG, task={"kind": "classification"}), head=head)
    assert load_config(tmp_path / "b").task == {"kind": "classification"}
    assert torch.equal(load_head_state(tmp_path / "b")["weight"], head.weight)
    assert "finetuned" in (tmp_path / "b" / "README.md").read_text()


def test_the_card_tells_whether_air_is_cut_away() -> None:
    for cut, text in ((True, "RAS+ volume, foreground box"), (False, "RAS+ volume, uncropped")):
        assert text in model_card(replace(CONFIG, input=replace(CONTRACT, crop_foreground=cut)), 1)


def test_bare_encoder_has_no_head(bundle: Path) -> None:
    with pytest.raises(BundleError, match=r"head\.safetensors is missing"):
        load_head_state(bundle)


@pytest.mark.parametrize("arguments", [{"name": "per_sequence"}, {"name": "late_fusion", "learned": True}])
def test_an_encoder_of_two_sequences_says_so_where_three_are_asked_for(tmp_path: Path, arguments: dict) -> None:
    small = {"encoder": "unet_t", "encoder_args": {"channels": (4, 8)}}
    encoder = create_encoder(in_channels=2, **small, **arguments)
    contract = InputContract(("t1", "t2"), 1.0, 2.0, (32, 32, 32))
    config = BundleConfig(encoder.name, dict(encoder.arguments), 2, contract, {})
    save_bundle(tmp_path / "two", encoder, config)
    assert load_weights(tmp_path / "two", 2).in_channels == 2
    with pytest.raises(BundleError, match=r"for 2 sequences, not 3.*Use 2 sequences"):
        load_weights(tmp_path / "two", 3)


def test_stem_is_inflated(bundle: Path) -> None:
    one, three = load_weights(bundle), load_weights(bundle, in_channels=3)
    x = torch.randn(1, 1, 32, 32, 32)
    torch.testing.assert_close(three(x.repeat(1, 3, 1, 1, 1)), one(x), rtol=1e-3, atol=1e-4)


def test_a_shared_encoder_reads_any_number_of_sequences(tmp_path: Path) -> None:
    for concat in (False, True):
        two = LateFusion(small_encoder(), 2, concat=concat)
        save_bundle(tmp_path / "b", two, BundleConfig(two.name, two.arguments, 2, CONTRACT, {}))
        three, x = load_weights(tmp_path / "b", 3), torch.randn(1, 1, 32, 32, 32)
        assert three.in_channels == 3
        expected = two(x.expand(-1, 2, -1, -1, -1))[:, :128]
        torch.testing.assert_close(three(x.expand(-1, 3, -1, -1, -1))[:, :128], expected, rtol=1e-3, atol=1e-4)


def edit(copy: Path, **values: object) -> None:
    body = json.loads((copy / "config.json").read_text())
    (copy / "config.json").write_text(json.dumps(body | values))


def rewrite(copy: Path, change) -> None:
    state = load_file(copy / "encoder.safetensors")
    change(state)
    save_file(state, copy / "encoder.safetensors")


def test_newer_schema(copy: Path) -> None:
    edit(copy, schema=SCHEMA + 1)
    with pytest.raises(BundleError, match=rf"schema {SCHEMA + 1} is newer.*Upgrade"):
        load_encoder(copy)


def test_missing_bundle(tmp_path: Path) -> None:
    with pytest.raises(BundleError, match=r"config\.json is missing"):
        load_encoder(tmp_path / "nowhere")


@pytest.mark.parametrize("content", ["", "[1]", "{", "{}", '{"schema": "x"}', '{"schema": 1}'])
def test_damaged_config(copy: Path, content: str) -> None:
    (copy / "config.json").write_text(content)
    with pytest.raises(BundleError, match=r"config\.json"):
        load_config(copy)


def test_unexpected_config_key(copy: Path) -> None:
    edit(copy, colour="blue")
    with pytest.raises(BundleError, match="colour"):
        load_config(copy)


def test_unknown_encoder(copy: Path) -> None:
    edit(copy, encoder="resenc_x")
    with pytest.raises(BundleError, match="resenc_x"):
        load_encoder(copy)


def test_missing_tensor(copy: Path) -> None:
    name = next(iter(load_file(copy / "encoder.safetensors")))
    rewrite(copy, lambda state: state.pop(name))
    with pytest.raises(BundleError, match=f"missing tensor {name}"):
        load_encoder(copy)


def test_unexpected_tensor(copy: Path) -> None:
    rewrite(copy, lambda state: state.update({"spare.weight": torch.zeros(1)}))
    with pytest.raises(BundleError, match=r"unexpected tensor spare\.weight"):
        load_encoder(copy)


def test_tensor_of_another_shape() -> None:
    with pytest.raises(BundleError, match=r"tensor bias is \(3,\) and not \(2,\)"):
        load_state(torch.nn.Linear(1, 2), {"weight": torch.zeros(2, 1), "bias": torch.zeros(3)}, Path("f"))


@pytest.mark.parametrize("keep", [0, 4, 100, -1])
def test_truncated_weights(copy: Path, keep: int) -> None:
    file = copy / "encoder.safetensors"
    file.write_bytes(file.read_bytes()[:keep])
    with pytest.raises(BundleError, match=r"encoder\.safetensors"):
        load_encoder(copy)


def test_embed_takes_every_form_of_a_scan(bundle: Path, tmp_path: Path) -> None:
    encoder, volume = load_encoder(bundle), phantom(3)
    nifti.write(tmp_path / "scan.nii.gz", volume.data, volume.affine)
    expected = encoder.embed(volume)
    assert expected.shape == (encoder.encoder.embed_dim,)
    forms = (
        str(tmp_path / "scan.nii.gz"),
        tmp_path / "scan.nii.gz",
        (volume.data, volume.affine),
        nib.Nifti1Image(volume.data, volume.affine),
    )
    for form in forms:
        torch.testing.assert_close(encoder.embed(form), expected)


def test_embeddings_can_enter_training(bundle: Path) -> None:
    embedding, probe = load_encoder(bundle).embed(phantom(3)), torch.nn.Linear(128, 1)
    assert not embedding.requires_grad
    probe(embedding).backward()
    torch.testing.assert_close(probe.weight.grad[0], embedding)


def test_embed_ignores_how_the_array_lies(bundle: Path) -> None:
    encoder, volume = load_encoder(bundle), phantom(3)
    flip = np.diag([-1.0, 1.0, 1.0, 1.0])
    flip[0, 3] = volume.data.shape[0] - 1
    turned = (np.ascontiguousarray(volume.data[::-1]), volume.affine @ flip)
    torch.testing.assert_close(encoder.embed(turned), encoder.embed(volume))


def test_embed_treats_voxels_that_are_no_numbers_as_those_of_a_file(bundle: Path, tmp_path: Path) -> None:
    volume = phantom(2)
    volume.data[3:5, 4, 5] = np.nan
    nifti.write(tmp_path / "scan.nii.gz", volume.data, volume.affine)
    expected = load_encoder(bundle).embed(tmp_path / "scan.nii.gz")
    assert torch.equal(load_encoder(bundle).embed((volume.data, volume.affine)), expected)
    assert np.isnan(volume.data).sum() == 2
    volume.data[:17] = np.inf
    with pytest.raises(RejectedScan, match="non_finite"):
        load_encoder(bundle).embed((volume.data, volume.affine))


def test_embed_rejects_an_empty_scan(bundle: Path) -> None:
    with pytest.raises(RejectedScan, match="constant"):
        load_encoder(bundle).embed((np.zeros((32, 32, 32), np.float32), np.eye(4)))


def test_embed_takes_an_array_of_one_volume_as_a_file_of_one(bundle: Path, tmp_path: Path) -> None:
    encoder, volume = load_encoder(bundle), phantom(3)
    image = nib.Nifti1Image(volume.data[..., None], volume.affine)
    nib.save(image, tmp_path / "scan.nii.gz")
    expected = encoder.embed(tmp_path / "scan.nii.gz")
    for form in (image, (volume.data[..., None], volume.affine)):
        torch.testing.assert_close(encoder.embed(form), expected)
    with pytest.raises(RejectedScan, match="not_3d"):
        encoder.embed((np.stack([volume.data] * 2, axis=3), volume.affine))


@pytest.mark.parametrize("affine", [np.zeros((4, 4)), np.diag([1, 1, 0, 1]), np.eye(4) * np.nan, np.eye(3)])
def test_embed_rejects_an_affine_that_places_nothing(bundle: Path, affine: np.ndarray) -> None:
    with pytest.raises(RejectedScan, match="bad_affine"):
        load_encoder(bundle).embed((phantom(3).data, affine))
    plane = phantom(3).affine
    plane[:3, 1] = plane[:3, 0]
    with pytest.raises(RejectedScan, match="bad_affine"):
        load_encoder(bundle).embed((phantom(3).data, plane))


def test_embed_rejects_an_array_without_voxels(bundle: Path) -> None:
    with pytest.raises(RejectedScan, match="too_small"):
        load_encoder(bundle).embed((np.zeros((0, 32, 32)), np.eye(4)))


def test_embed_refuses_volumes_beyond_the_limit(bundle: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("fomo_ssl.bundle.released.MAX_EMBED_VOXELS", 1000)
    with pytest.raises(RejectedScan, match="too_large"):
        load_encoder(bundle).embed(phantom(3))


def test_the_contract_names_the_normalisation(tmp_path: Path) -> None:
    volume = phantom(0)
    embeddings = []
    for name in ("zscore_foreground", "zscore_volume"):
        contract = replace(CONTRACT, normalisation=name)
        save_bundle(tmp_path / name, small_encoder(), replace(CONFIG, input=contract))
        embeddings.append(load_encoder(tmp_path / name).embed(volume))
    assert not torch.allclose(*embeddings, atol=1e-3)
    canonical = canonicalise(volume, contract.spec)
    z = (canonical.data - canonical.data.mean()) / canonical.data.std()
    expected = load_encoder(tmp_path / "zscore_volume")(torch.from_numpy(z)[None, None])[0]
    torch.testing.assert_close(embeddings[1], expected, atol=1e-4, rtol=1e-3)


def test_an_unknown_normalisation_is_an_error(copy: Path) -> None:
    file = copy / "config.json"
    file.write_text(file.read_text().replace("zscore_foreground", "minmax"))
    with pytest.raises(BundleError, match="unknown normalisation 'minmax', known: zscore_foreground"):
        load_encoder(copy)


def test_feature_maps_of_a_raw_scan_lie_where_the_scan_does(bundle: Path) -> None:
    released = load_encoder(bundle)
    scan = phantom(1, (26, 30, 22))
    canonical = canonicalise(scan, released.config.input.spec)
    found = released.feature_maps(scan)
    image = torch.from_numpy(normalise(canonical.data, canonical.stats))[None, None]
    with torch.no_grad():
        expected = released.forward_features(image)
    assert len(found) == len(expected) == len(released.encoder.feature_info)
    for (values, affine), wanted, info in zip(found, expected, released.encoder.feature_info, strict=True):
        assert torch.equal(values, wanted[0])
        first = canonical.affine @ np.array([*((s - 1) / 2 for s in info.stride), 1.0])
        assert np.allclose(affine @ [0.0, 0.0, 0.0, 1.0], first)
        assert np.allclose(affine[:3, :3], canonical.affine[:3, :3] * np.array(info.stride))
