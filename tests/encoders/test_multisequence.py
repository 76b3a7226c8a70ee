import pytest
import torch

from fomo_ssl.encoders import LateFusion, create_encoder

SMALL = {"channels": (4, 8, 12)}


@torch.no_grad()
def test_the_mean_of_what_each_sequence_says():
    encoder = create_encoder("unet_t", **SMALL)
    fused = LateFusion(encoder, 3)
    x = torch.randn(2, 3, 12, 11, 9)
    single = [encoder.forward_features(x[:, i : i + 1]) for i in range(3)]
    for level, together in enumerate(fused.forward_features(x)):
        torch.testing.assert_close(
            together, torch.stack([maps[level] for maps in single]).mean(0), atol=1e-5, rtol=1e-4
        )
    alone = torch.stack([encoder(x[:, i : i + 1]) for i in range(3)]).mean(0)
    torch.testing.assert_close(fused(x), alone, atol=1e-5, rtol=1e-4)


def test_learned_weights_start_as_the_mean_and_learn():
    encoder = create_encoder("unet_t", **SMALL)
    mean, learned = LateFusion(encoder, 2), LateFusion(encoder, 2, learned=True)
    x = torch.randn(1, 2, 8, 8, 8)
    torch.testing.assert_close(learned(x), mean(x), atol=1e-5, rtol=1e-4)
    learned(x).square().sum().backward()
    assert learned.logits.grad.any()
    assert learned.layer_groups()[-1][-1] == "logits"


def test_its_name_and_arguments_build_it_again():
    fused = LateFusion(create_encoder("unet_t", **SMALL), 3, learned=True)
    again = create_encoder(fused.name, in_channels=3, **fused.arguments)
    again.load_state_dict(fused.state_dict())
    assert (again.name, again.arguments) == (fused.name, fused.arguments)
    x = torch.randn(1, 3, 8, 8, 8)
    assert torch.equal(again(x), fused(x))


def test_checkpointing_reaches_the_wrapped_encoder():
    fused = LateFusion(create_encoder("unet_t", **SMALL), 2)
    fused.set_grad_checkpointing()
    assert fused.encoder.grad_checkpointing


def test_only_one_sequence_encoders_are_wrapped():
    with pytest.raises(ValueError, match="has 2"):
        LateFusion(create_encoder("unet_t", in_channels=2, **SMALL), 2)


@torch.no_grad()
def test_joined_sequences_stand_side_by_side():
    encoder = create_encoder("resenc_t", channels=(4, 8, 12), blocks=(1, 1, 1))
    fused = LateFusion(encoder, 3, concat=True)
    x = torch.randn(2, 3, 12, 11, 9)
    apart = [encoder.forward_features(x[:, i : i + 1]) for i in range(3)]
    for level, together in enumerate(fused.forward_features(x)):
        assert fused.feature_info[level].channels == together.shape[1]
        torch.testing.assert_close(together, torch.cat([maps[level] for maps in apart], 1), atol=1e-5, rtol=1e-4)
    alone = torch.cat([encoder(x[:, i : i + 1]) for i in range(3)], dim=1)
    torch.testing.assert_close(fused(x), alone, atol=1e-5, rtol=1e-4)
    assert alone.shape[1] == fused.embed_dim
    again = create_encoder(fused.name, in_channels=3, **fused.arguments)
    again.load_state_dict(fused.state_dict())
    assert torch.equal(again(x), fused(x))


@torch.no_grad()
@pytest.mark.parametrize("how", [{}, {"learned": True}, {"concat": True}])
def test_a_missing_sequence_does_not_count(how):
    encoder = create_encoder("unet_t", **SMALL)
    x = torch.randn(1, 3, 8, 8, 8)
    x[:, 1] = 0
    maps = LateFusion(encoder, 3, **how).forward_features(x)
    if how.get("concat"):
        assert all(not level.unflatten(1, (3, -1))[:, 1].any() for level in maps)
        return
    present = LateFusion(encoder, 2, **how).forward_features(x[:, ::2])
    for got, expected in zip(maps, present, strict=True):
        torch.testing.assert_close(got, expected, atol=1e-5, rtol=1e-4)
    assert all(level.isfinite().all() for level in LateFusion(encoder, 3, **how).forward_features(0 * x))


def test_joined_maps_have_no_weights():
    with pytest.raises(ValueError, match="learned or concat"):
        LateFusion(create_encoder("unet_t", **SMALL), 2, learned=True, concat=True)
