import pytest
import torch

from fomo_ssl.core.errors import ConfigError, UnknownNameError
from fomo_ssl.encoders import create_encoder, list_encoders, load_encoder_state
from fomo_ssl.encoders.base import inflate_stem, pad_to_multiple


def test_padding_repeats_the_far_edge_only():
    x = torch.arange(5.0 * 4 * 3).reshape(1, 1, 5, 4, 3)
    padded = pad_to_multiple(x, (4, 4, 2))
    assert padded.shape == (1, 1, 8, 4, 4)
    assert torch.equal(padded[:, :, :5, :, :3], x)
    assert torch.equal(padded[:, :, 7, :, :3], x[:, :, 4])
    assert torch.equal(padded[:, :, :5, :, 3], x[..., 2])
    assert pad_to_multiple(x, (5, 2, 3)) is x


def test_inflation_keeps_the_sum_and_refuses_several_inputs():
    weight = torch.randn(4, 1, 3, 3, 3)
    torch.testing.assert_close(inflate_stem(weight, 3).sum(1), weight[:, 0])
    with pytest.raises(ValueError, match="has 3 inputs"):
        inflate_stem(inflate_stem(weight, 3), 2)


def test_loading_names_what_does_not_fit():
    encoder = create_encoder("unet_t", channels=(4, 8))
    state = encoder.state_dict()
    state["stages.1.0.conv.weight"] = state["stages.1.0.conv.weight"][:3]
    state["extra"] = state.pop("stages.0.1.norm.bias")
    before = encoder.state_dict()["stages.0.0.conv.weight"].clone()
    state["stages.0.0.conv.weight"] = before + 1
    message = "missing: stages.0.1.norm.bias; unexpected: extra; of another shape: stages.1.0.conv.weight"
    with pytest.raises(ValueError, match=message):
        load_encoder_state(encoder, state)
    assert torch.equal(encoder.state_dict()["stages.0.0.conv.weight"], before), "half a state was loaded"


def test_an_unknown_name_lists_near_ones():
    with pytest.raises(UnknownNameError, match="vit_s_p8"):
        create_encoder("vit_s_p9")
    assert list_encoders("resenc_*") == ["resenc_b", "resenc_l", "resenc_s", "resenc_t", "resenc_xl"]


@pytest.mark.parametrize("name", ["resenc_t", "unet_t"])
def test_a_map_of_one_voxel_is_refused(name: str):
    encoder = create_encoder(name)
    with pytest.raises(ConfigError, match="longer than 8"):
        encoder(torch.zeros(2, 1, 8, 8, 5))
    assert encoder(torch.rand(1, 1, 9, 8, 8)).shape == (1, 128)


def test_random_inflation_keeps_the_kernels_and_tells_sequences_apart():
    weight = torch.randn(16, 1, 3, 3, 3)
    mixed = inflate_stem(weight, 4, torch.Generator().manual_seed(0))
    share = (mixed * weight).sum(dim=(2, 3, 4)) / weight.square().sum(dim=(2, 3, 4))
    torch.testing.assert_close(share[:, :, None, None, None] * weight, mixed)
    assert torch.linalg.matrix_rank(share) == 4
    torch.testing.assert_close(share.square().sum(dim=1), torch.ones(16))
    # Bright on one sequence, dark on another: equal weights lose it, random ones do not.
    lesion = torch.tensor([0.0, 1.0, -1.0, 0.0])
    assert (inflate_stem(weight, 4) * lesion[:, None, None, None]).sum(dim=1).abs().max() < 1e-6
    assert torch.equal(mixed, inflate_stem(weight, 4, torch.Generator().manual_seed(0)))
