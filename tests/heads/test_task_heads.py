import pytest
import torch

from fomo_ssl.core.errors import ConfigError
from fomo_ssl.encoders import LateFusion, create_encoder
from fomo_ssl.heads.projectors import Projector
from fomo_ssl.heads.tasks import GlobalHead, SegmentationHead, build_head

SMALL = {"channels": (4, 8, 12)}


def test_segmentation_gives_logits_of_every_voxel():
    encoder = create_encoder("unet_t", in_channels=2, **SMALL)
    head = build_head("segmentation", encoder, 4)
    assert isinstance(head, SegmentationHead)
    x = torch.randn(1, 2, 13, 12, 11)
    assert head(x, encoder.forward_features(x)).shape == (1, 4, 13, 12, 11)


@pytest.mark.parametrize("batch", [1, 2])
def test_a_decoder_refuses_maps_of_one_voxel(batch: int):
    encoder = create_encoder("vit_t_p8", dim=48, depth=4, heads=2)
    head, x = build_head("segmentation", encoder, 2), torch.randn(batch, 1, 8, 8, 9)
    assert head(x, encoder.forward_features(x)).shape == (batch, 2, 8, 8, 9)
    with pytest.raises(ConfigError, match="larger crops"):
        head(x[..., :8], encoder.forward_features(x[..., :8]))


@pytest.mark.parametrize(("kind", "outputs"), [("classification", 3), ("regression", 1)])
def test_other_kinds_give_a_row_per_scan(kind, outputs: int):
    encoder = create_encoder("unet_t", **SMALL)
    head = build_head(kind, encoder, outputs)
    assert isinstance(head, GlobalHead)
    out = head(encoder(torch.randn(2, 1, 8, 8, 8)))
    assert out.shape == (2, outputs)
    out.square().sum().backward()
    assert next(encoder.parameters()).grad.any()


def test_heads_sit_on_late_fusion():
    encoder = LateFusion(create_encoder("vit_t_p8", dim=48, depth=4, heads=2), 3)
    x = torch.randn(1, 3, 16, 9, 8)
    assert build_head("segmentation", encoder, 2)(x, encoder.forward_features(x)).shape == (1, 2, 16, 9, 8)


def test_the_scale_of_an_embedding_does_not_matter():
    head, embedding = GlobalHead(12, 2), torch.randn(3, 12)
    torch.testing.assert_close(head(embedding * 50), head(embedding), atol=1e-4, rtol=1e-3)


@torch.no_grad()
def test_projected_samples_do_not_see_each_other():
    projector, x = Projector(12, 24, 8), torch.randn(5, 12)
    assert projector(x).shape == (5, 8)
    torch.testing.assert_close(projector(x)[:1], projector(x[:1]), atol=1e-5, rtol=1e-4)
