"""The Swin encoder beside MONAI's own, and its tables for another window."""

import subprocess
import sys

import pytest
import torch
from monai.networks.nets.swin_unetr import PatchMerging, SwinTransformer, SwinUNETR

from fomo_ssl.core.errors import ConfigError
from fomo_ssl.encoders import Swin, create_encoder, load_encoder_state
from fomo_ssl.encoders.swin import TABLE, resize_tables, with_window
from fomo_ssl.heads.decoders import LightDecoder, UNetDecoder

SMALL = {"dim": 12, "depths": (2, 1, 1, 1), "heads": (2, 2, 4, 4), "window": 3}


def small(seed: int = 0, **arguments: object) -> Swin:
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return create_encoder("swin_t", **{**SMALL, **arguments})


@pytest.mark.parametrize("window", [2, 3])
@torch.no_grad()
def test_equals_monai(window: int):
    encoder = small(window=window)
    peer = SwinTransformer(1, 12, (window,) * 3, (2,) * 3, SMALL["depths"], SMALL["heads"], downsample=PatchMerging)
    left_out = peer.load_state_dict(encoder.state_dict(), strict=False)
    assert all(name.endswith("relative_position_index") for name in left_out.missing_keys)
    assert not left_out.unexpected_keys
    # The axes differ, so that one in the place of another would show; the last two maps are smaller than a window.
    x = torch.randn(2, 1, 32, 64, 96)
    for own, theirs in zip(encoder.forward_features(x), peer(x, normalize=True), strict=True):
        torch.testing.assert_close(own, theirs, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize(("name", "dim", "total"), [("swin_t", 12, 4.08), ("swin_s", 24, 15.70), ("swin_b", 48, 62.19)])
def test_parameters_are_those_of_swin_unetr(name: str, dim: int, total: float):
    """MONAI's totals are of encoder and decoder."""
    net = SwinUNETR(in_channels=1, out_channels=1, feature_size=dim)
    with torch.device("meta"):
        encoder = create_encoder(name)
    own, theirs = dict(encoder.named_parameters()), dict(net.swinViT.named_parameters())
    assert {n: p.shape for n, p in own.items()} == {n: p.shape for n, p in theirs.items()}
    decoder = sum(p.numel() for n, p in net.named_parameters() if not n.startswith("swinViT."))
    assert (sum(p.numel() for p in own.values()) + decoder) / 1e6 == pytest.approx(total, abs=0.006)


def test_positions_are_in_no_state_and_not_decayed():
    encoder = small()
    assert not [name for name in encoder.state_dict() if "index" in name]
    assert encoder.no_weight_decay() == {name for name in encoder.state_dict() if name.endswith(TABLE)}
    assert len(encoder.no_weight_decay()) == sum(SMALL["depths"])


@torch.no_grad()
def test_tables_move_to_another_window():
    narrow, wide = small(window=3), small(seed=1, window=(5, 3, 4))
    state = narrow.state_dict()
    with pytest.raises(ValueError, match="of another shape"):
        load_encoder_state(wide, state)
    # A table that is linear in the offset stays so, whatever the window; its middle row is offset zero.
    ramp = torch.linspace(-1, 1, 5)
    linear = ramp[:, None, None] + 2 * ramp[:, None] + 3 * ramp
    tables = [name for name in state if name.endswith(TABLE)]
    state |= {name: linear.flatten()[:, None].expand_as(state[name]).clone() for name in tables}
    resized = resize_tables(state, (3, 3, 3), (5, 3, 4))
    x, y, z = (torch.linspace(-1, 1, 2 * w - 1) for w in (5, 3, 4))
    expected = (x[:, None, None] + 2 * y[:, None] + 3 * z).flatten()
    for name in tables:
        torch.testing.assert_close(resized[name], expected[:, None].expand_as(resized[name]))
    load_encoder_state(wide, resized)
    same = resize_tables(narrow.state_dict(), (3, 3, 3), (3, 3, 3))
    assert all(torch.equal(same[name], value) for name, value in narrow.state_dict().items())
    with pytest.raises(ValueError, match="no table of a window"):
        resize_tables(state, (4, 4, 4), (5, 3, 4))


@torch.no_grad()
def test_the_same_weights_go_on_with_another_window():
    narrow = small(window=4).eval()
    x = torch.randn(1, 1, 40, 33, 50)
    same = with_window(narrow, 4)
    assert same is not narrow
    assert all(torch.equal(a, b) for a, b in zip(same(x), narrow(x), strict=True))

    wide = with_window(narrow, 6)
    assert wide.arguments == narrow.arguments | {"window": 6}
    assert not wide.training
    maps = wide.forward_features(x)
    assert all(level.isfinite().all() for level in maps)
    assert not torch.equal(maps[1], narrow.forward_features(x)[1])
    own = wide.state_dict()
    for name, value in narrow.state_dict().items():
        if name.endswith(TABLE):
            assert own[name].shape == (11**3, value.shape[1])
            torch.testing.assert_close(own[name][11**3 // 2], value[7**3 // 2])  # offset zero
            torch.testing.assert_close(own[name][[0, -1]], value[[0, -1]])  # the farthest
        else:
            assert torch.equal(own[name], value)


def test_only_a_swin_has_windows():
    with pytest.raises(ConfigError, match="unet_t attends in no windows"):
        with_window(create_encoder("unet_t"), 6)
    with pytest.raises(ConfigError, match="2 or more"):
        with_window(small(), (3, 1, 3))


def test_decoders_reach_full_resolution():
    encoder, x = small(), torch.randn(1, 1, 40, 33, 50)
    maps = encoder.forward_features(x)
    for out in (
        UNetDecoder(encoder.feature_info, 3)(x, maps),
        LightDecoder(encoder.feature_info, 3)(maps, x.shape[2:]),
    ):
        assert out.shape == (1, 3, 40, 33, 50)


def test_monai_is_imported_when_a_swin_is_built_and_not_before():
    script = (
        "import sys; from fomo_ssl.encoders import create_encoder, list_encoders\n"
        "create_encoder('mednext_s'); list_encoders()\n"
        "assert 'monai' not in sys.modules\n"
    )
    subprocess.run([sys.executable, "-c", script], check=True, timeout=300)


def test_stages_need_depths_and_heads():
    with pytest.raises(ValueError, match="1 stages by their depths but 2"):
        create_encoder("swin_t", depths=(2,), heads=(1, 2))
