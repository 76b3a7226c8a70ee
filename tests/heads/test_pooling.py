import pytest
import torch

from fomo_ssl.encoders import create_encoder
from fomo_ssl.heads.pooling import POOL_MAPS, POOLS, GatedAttention, log_sum_exp, top_share
from fomo_ssl.heads.tasks import GlobalHead, LesionHead, PooledHead, build_head

SMALL = {"channels": (4, 8, 12)}


@pytest.mark.parametrize("maps", POOL_MAPS)
@pytest.mark.parametrize("pool", POOLS)
def test_every_pooling_gives_a_row_per_scan_and_reaches_the_encoder(pool, maps):
    torch.manual_seed(0)
    encoder = create_encoder("unet_t", in_channels=2, **SMALL)
    head, x = build_head("classification", encoder, 3, pool, maps), torch.randn(2, 2, 9, 12, 10)
    features = encoder.forward_features(x)
    out = head(encoder.pool(features)) if isinstance(head, GlobalHead) else head(x, features)
    assert out.shape == (2, 3)
    out.square().sum().backward()
    assert [name for name, p in head.named_parameters() if p.grad is None] == []
    assert next(encoder.parameters()).grad.any()


def test_which_head_a_pooling_needs():
    encoder = create_encoder("unet_t", **SMALL)
    kinds = {pool: type(build_head("regression", encoder, 1, pool)) for pool in POOLS}
    pooled = {"max": PooledHead, "attention": PooledHead}
    assert kinds == {"mean": GlobalHead, **pooled, "lse": LesionHead, "topk": LesionHead}
    assert isinstance(build_head("regression", encoder, 1, "mean", "all"), PooledHead)


@torch.no_grad()
def test_maps_are_pooled_one_by_one():
    encoder, x = create_encoder("unet_t", **SMALL), torch.randn(2, 1, 16, 16, 16)
    features = encoder.forward_features(x)
    seen: list[torch.Tensor] = []
    for pool, over in (("mean", torch.Tensor.mean), ("max", torch.Tensor.amax)):
        head = build_head("regression", encoder, 1, pool, "all")
        head.output.register_forward_pre_hook(lambda _, rows: seen.append(rows[0]))
        head(x, features)
        expected = torch.cat([over(level, dim=(2, 3, 4)) for level in features], dim=1)
        torch.testing.assert_close(seen[-1], expected)


def test_attention_is_the_formula_of_the_paper():
    torch.manual_seed(0)
    pool, x = GatedAttention(6, hidden=5), torch.randn(2, 6, 2, 3, 1)
    with torch.no_grad():
        pool.score.weight.mul_(50)  # away from equal weights
    for sample, pooled in zip(x, pool(x), strict=True):
        h = [pool.norm(sample[:, i, j, 0]) for i in range(2) for j in range(3)]
        v, u, w = pool.value, pool.gate, pool.score
        scores = [
            w.weight[0] @ (torch.tanh(v.weight @ k + v.bias) * torch.sigmoid(u.weight @ k + u.bias)) + w.bias for k in h
        ]
        total = sum(torch.exp(s) for s in scores)
        expected = sum(torch.exp(s) / total * k for s, k in zip(scores, h, strict=True))
        torch.testing.assert_close(pooled, expected, atol=1e-5, rtol=1e-4)


def test_log_sum_exp_lies_between_mean_and_maximum():
    x = torch.randn(2, 3, 4, 5, 6)
    mean, largest = x.mean(dim=(2, 3, 4)), x.amax(dim=(2, 3, 4))
    torch.testing.assert_close(log_sum_exp(x, 1e-3), mean, atol=2e-3, rtol=0)
    torch.testing.assert_close(log_sum_exp(x, 1e3), largest, atol=1e-2, rtol=0)
    middle = log_sum_exp(x)
    assert ((mean < middle) & (middle < largest)).all()
    assert log_sum_exp(1e4 * x).isfinite().all()


def test_top_share_is_the_mean_of_the_largest():
    x = torch.randn(2, 3, 4, 5, 6)
    expected = x.flatten(2).sort(dim=2, descending=True).values[..., :12].mean(dim=2)
    torch.testing.assert_close(top_share(x, 0.1), expected)
    torch.testing.assert_close(top_share(x, 1e-9), x.amax(dim=(2, 3, 4)))
    torch.testing.assert_close(top_share(x, 1.0), x.mean(dim=(2, 3, 4)))


def test_a_bright_voxel_decides_by_topk_and_not_by_the_mean():
    x = torch.zeros(1, 1, 16, 16, 16)
    x[..., 3, 4, 5] = 100.0
    assert top_share(x, 1 / 4096) == 100.0
    assert top_share(x, 1.0) < 0.03


@torch.no_grad()
@pytest.mark.parametrize("pool", ["lse", "topk"])
def test_a_new_lesion_head_is_undecided(pool):
    torch.manual_seed(0)
    encoder = create_encoder("unet_t", in_channels=4, **SMALL)
    x = torch.randn(2, 4, 24, 24, 24)
    logits = build_head("classification", encoder, 2, pool)(x, encoder.forward_features(x))
    assert (logits.softmax(dim=1) - 0.5).abs().max() < 0.2
