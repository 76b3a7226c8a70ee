import pytest
import torch

from fomo_ssl.core.errors import ConfigError
from fomo_ssl.encoders import Encoder, LateFusion, create_encoder
from fomo_ssl.layers.lora import add_lora, merge_lora

ENCODERS = {
    "vit": lambda: create_encoder("vit_t_p8", dim=48, depth=4, heads=2),
    "primus": lambda: create_encoder("primus_s", dim=48, depth=4, heads=2),
    "fused": lambda: LateFusion(create_encoder("vit_t_p8", dim=48, depth=4, heads=2), 1),
}


@pytest.fixture(params=ENCODERS)
def encoder(request: pytest.FixtureRequest) -> Encoder:
    torch.manual_seed(0)
    return ENCODERS[request.param]()


def trained(encoder: Encoder, x: torch.Tensor) -> None:
    add_lora(encoder, 2, 4.0, torch.Generator().manual_seed(1))
    moving = [p for p in encoder.parameters() if p.requires_grad]
    optimizer = torch.optim.SGD(moving, lr=0.1)
    for _ in range(3):
        optimizer.zero_grad()
        encoder(x).square().sum().backward()
        optimizer.step()


def test_it_starts_as_the_encoder_it_was_and_merges_to_plain_weights(encoder: Encoder):
    x = torch.randn(2, 1, 16, 16, 16)
    before, plain = encoder(x).detach(), {k: v.clone() for k, v in encoder.state_dict().items()}
    add_lora(encoder, 2, 4.0, torch.Generator().manual_seed(1))
    torch.testing.assert_close(encoder(x), before, atol=1e-5, rtol=1e-5)
    merge_lora(encoder)
    assert list(encoder.state_dict()) == list(plain)
    assert all(torch.equal(value, plain[name]) for name, value in encoder.state_dict().items())
    trained(encoder, x)
    after = encoder(x).detach()
    assert not torch.allclose(after, before, atol=1e-3)
    merge_lora(encoder)
    torch.testing.assert_close(encoder(x), after, atol=1e-5, rtol=1e-5)
    moved = {name for name, value in encoder.state_dict().items() if not torch.equal(value, plain[name])}
    assert moved
    assert all(".attn." in name and name.endswith("weight") for name in moved)
    # Rank 2 and no more.
    name = sorted(moved)[0]
    assert torch.linalg.matrix_rank(encoder.state_dict()[name] - plain[name], atol=1e-5) == 2
    assert all(parameter.requires_grad for parameter in encoder.parameters())


def test_the_update_is_scaled_by_alpha_over_rank():
    encoder = ENCODERS["vit"]()
    linear = encoder.blocks[0].attn.qkv
    old = linear.weight.detach().clone()
    add_lora(encoder, 4, 12.0, torch.Generator())
    update = linear.parametrizations.weight[0]
    with torch.no_grad():
        update.up.normal_()
    torch.testing.assert_close(linear.weight, old + 3.0 * update.up @ update.down)


def test_convolutions_have_no_attention():
    with pytest.raises(ConfigError, match="lora_rank=0"):
        add_lora(create_encoder("unet_t", channels=(4, 8)), 2, 4.0, torch.Generator())
