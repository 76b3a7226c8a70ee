import pytest
import torch
from torch import Tensor

from fomo_ssl.core.types import FeatureInfo
from fomo_ssl.encoders import Encoder, create_encoder
from fomo_ssl.heads.decoders import LightDecoder, TokenDecoder, UNetDecoder
from fomo_ssl.layers.tokens import all_tokens, token_coordinates
from fomo_ssl.layers.transformer import rotary_angles

ENCODERS = {
    "vit": lambda **kw: create_encoder("vit_t_p8", dim=48, depth=4, heads=2, **kw),
    "vit_thin": lambda **kw: create_encoder("vit_t_p8", dim=48, depth=4, heads=2, patch_size=(6, 4, 1), **kw),
    "resenc": lambda **kw: create_encoder("resenc_t", channels=(4, 8, 12), blocks=(1, 1, 1), **kw),
    "unet": lambda **kw: create_encoder("unet_t", channels=(4, 8), **kw),
}


@pytest.fixture(params=ENCODERS)
def encoder(request: pytest.FixtureRequest) -> Encoder:
    torch.manual_seed(0)
    return ENCODERS[request.param](in_channels=2)


def assert_gradients(module: torch.nn.Module) -> None:
    assert [n for n, p in module.named_parameters() if p.grad is None] == []


@pytest.mark.parametrize("size", [(16, 16, 16), (13, 11, 9), (24, 12, 7)])
@pytest.mark.parametrize("autocast", [False, True])
def test_unet_decoder_gives_the_image_size(encoder: Encoder, size, autocast: bool):
    decoder = UNetDecoder(encoder.feature_info, 3, in_channels=2)
    x = torch.randn(2, 2, *size)
    with torch.autocast("cpu", torch.bfloat16, enabled=autocast):
        out = decoder(x, encoder.forward_features(x))
    assert out.shape == (2, 3, *size)
    out.float().square().sum().backward()
    assert_gradients(decoder)
    assert_gradients(encoder)


def test_light_decoder_uses_the_coarsest_map_alone(encoder: Encoder):
    decoder = LightDecoder(encoder.feature_info, 1)
    x = torch.randn(1, 2, 24, 24, 11)
    features = encoder.forward_features(x)
    out = decoder(features, x.shape[2:])
    assert out.shape == (1, 1, 24, 24, 11)
    others = [torch.full_like(level, torch.nan) for level in features[:-1]]
    assert torch.equal(decoder([*others, features[-1]], x.shape[2:]), out)
    whole = decoder(features)
    coarse = zip(features[-1].shape[2:], encoder.feature_info[-1].stride, strict=True)
    assert whole.shape[2:] == tuple(n * s for n, s in coarse)
    out.sum().backward()
    assert_gradients(decoder)


@torch.no_grad()
def test_a_new_light_decoder_says_nearly_nothing():
    torch.manual_seed(0)
    encoder = ENCODERS["resenc"](in_channels=2)
    features = encoder.forward_features(torch.randn(2, 2, 32, 32, 32))
    assert LightDecoder(encoder.feature_info, 1)(features).square().mean() < 0.1


@torch.no_grad()
def test_borders_finer_than_a_patch_reach_the_output_of_a_vit():
    torch.manual_seed(0)
    encoder = ENCODERS["vit"]()
    decoder = UNetDecoder(encoder.feature_info, 1)
    x = torch.randn(1, 1, 16, 16, 16)
    features = encoder.forward_features(x)
    moved = x.clone()
    moved[0, 0, 9, 9, 9] += 5.0
    change = (decoder(moved, features) - decoder(x, features)).abs()[0, 0]
    assert change[9, 9, 9] > 10 * change[2, 2, 2]


def plain_token_decoder(decoder: TokenDecoder, tokens: Tensor, keep: Tensor, grid) -> Tensor:
    """Token by token in a loop."""
    batch, count = len(tokens), grid[0] * grid[1] * grid[2]
    x = decoder.mask_token.repeat(batch, count, 1)
    for b in range(batch):
        for position, token in zip(keep[b], tokens[b], strict=True):
            x[b, position] = decoder.embed(token)
    rotary = rotary_angles(token_coordinates(all_tokens(grid, x.device), grid), decoder.head_dim)
    for block in decoder.blocks:
        x = block(x, rotary)
    return decoder.predict(decoder.norm(x))


@torch.no_grad()
def test_token_decoder_puts_tokens_in_their_place():
    torch.manual_seed(0)
    decoder = TokenDecoder(48, 64, depth=2)
    tokens, keep, grid = torch.randn(2, 3, 48), torch.tensor([[7, 0, 3], [11, 2, 5]]), (2, 3, 2)
    fast = decoder(tokens, keep, grid)
    assert fast.shape == (2, 12, 64)
    torch.testing.assert_close(fast, plain_token_decoder(decoder, tokens, keep, grid), atol=1e-5, rtol=1e-4)
    # The order in which visible tokens come does not matter.
    order = torch.tensor([2, 0, 1])
    torch.testing.assert_close(decoder(tokens[:, order], keep[:, order], grid), fast, atol=1e-5, rtol=1e-4)


def test_token_decoder_learns_under_autocast():
    torch.manual_seed(0)
    decoder = TokenDecoder(48, 64)
    tokens, keep = torch.randn(2, 3, 48, requires_grad=True), torch.tensor([[7, 0, 3], [1, 2, 5]])
    with torch.autocast("cpu", torch.bfloat16):
        decoder(tokens, keep, (2, 2, 2)).float().square().sum().backward()
    assert_gradients(decoder)
    assert tokens.grad.any()


def test_hidden_positions_are_told_apart():
    torch.manual_seed(0)
    decoder = TokenDecoder(48, 64)
    out = decoder(torch.randn(1, 1, 48), torch.tensor([[0]]), (3, 1, 1))
    assert not torch.allclose(out[:, 1], out[:, 2])


def test_maps_in_between_may_be_missing():
    info = [FeatureInfo(8, (2, 2, 1)), FeatureInfo(12, (8, 8, 1))]
    decoder = UNetDecoder(info, 2)
    features = [torch.randn(1, 8, 8, 8, 5), torch.randn(1, 12, 2, 2, 5)]
    assert decoder(torch.randn(1, 1, 15, 16, 5), features).shape == (1, 2, 15, 16, 5)
