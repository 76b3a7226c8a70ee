import pytest
import torch

from fomo_ssl.encoders import LateFusion, PerSequence, create_encoder

SMALL = {"channels": (4, 8, 12)}


def of_three() -> PerSequence:
    return PerSequence([create_encoder("unet_t", **SMALL) for _ in range(3)])


@torch.no_grad()
def test_each_sequence_goes_through_its_own_encoder():
    joined = of_three()
    x = torch.randn(2, 3, 12, 11, 9)
    apart = [one.forward_features(x[:, i : i + 1]) for i, one in enumerate(joined.encoders)]
    for level, together in enumerate(joined.forward_features(x)):
        assert joined.feature_info[level].channels == together.shape[1]
        torch.testing.assert_close(together, torch.cat([maps[level] for maps in apart], dim=1))
    alone = torch.cat([one(x[:, i : i + 1]) for i, one in enumerate(joined.encoders)], dim=1)
    torch.testing.assert_close(joined(x), alone)


@torch.no_grad()
def test_copies_of_one_encoder_are_late_fusion_side_by_side():
    encoder = create_encoder("unet_t", **SMALL)
    copies = PerSequence([create_encoder("unet_t", **SMALL) for _ in range(3)])
    for one in copies.encoders:
        one.load_state_dict(encoder.state_dict())
    x = torch.randn(2, 3, 12, 11, 9)
    x[1, 2] = 0.0  # a missing sequence
    shared = LateFusion(encoder, 3, concat=True)
    for own, together in zip(copies.forward_features(x), shared.forward_features(x), strict=True):
        torch.testing.assert_close(own, together, atol=1e-5, rtol=1e-4)
        assert not own[1, -own.shape[1] // 3 :].any()


def test_a_step_moves_them_apart():
    joined = PerSequence([create_encoder("unet_t", **SMALL) for _ in range(2)])
    joined.encoders[1].load_state_dict(joined.encoders[0].state_dict())
    joined(torch.randn(1, 2, 8, 8, 8)).square().sum().backward()
    grads = [next(one.parameters()).grad for one in joined.encoders]
    assert not torch.equal(*grads)


def test_layer_groups_hold_those_of_all_encoders_depth_by_depth():
    joined = of_three()
    one = joined.encoders[0].layer_groups()
    groups = joined.layer_groups()
    assert len(groups) == len(one)
    assert groups[0] == [f"encoders.{i}.{name}" for i in range(3) for name in one[0]]
    prefixes = tuple(name for group in groups for name in group)
    assert all(name.startswith(prefixes) for name, _ in joined.named_parameters())


def test_its_name_and_arguments_build_it_again():
    joined = of_three()
    again = create_encoder(joined.name, in_channels=3, **joined.arguments)
    again.load_state_dict(joined.state_dict())
    x = torch.randn(1, 3, 8, 8, 8)
    assert torch.equal(again(x), joined(x))


def test_encoders_of_several_sequences_or_of_other_architectures_are_refused():
    with pytest.raises(ValueError, match="one architecture"):
        PerSequence([create_encoder("unet_t", in_channels=2, **SMALL)])
    with pytest.raises(ValueError, match="one architecture"):
        PerSequence([create_encoder("unet_t", **SMALL), create_encoder("unet_t", channels=(4, 8))])
