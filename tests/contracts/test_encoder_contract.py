"""What every registered encoder promises. Shapes run on the meta device for all; numbers for the small ones, and for
the rest under `slow`."""

import copy
import functools
import subprocess
import sys

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from fomo_ssl.encoders import Encoder, create_encoder, list_encoders, load_encoder_state

SLOW_ABOVE = 6_000_000  # parameters
SLOW = {"swin_s"}  # small, but at a stride of 32 its volumes are large, and `swin_t` has the same layers
# Windows of 7 hold 343 voxels, and attention in them takes ten times as long.
ARGUMENTS: dict[str, dict[str, object]] = {name: {"window": 4} for name in list_encoders("swin_*")}


@functools.cache
def meta(name: str, in_channels: int = 1) -> Encoder:
    """Shapes without numbers; shared, so not to be changed."""
    with torch.device("meta"):
        return create_encoder(name, in_channels=in_channels)


def count(encoder: Encoder) -> int:
    return sum(p.numel() for p in encoder.parameters())


NUMERIC = [
    pytest.param(name, marks=pytest.mark.slow if count(meta(name)) > SLOW_ABOVE or name in SLOW else ())
    for name in list_encoders()
]


def seeded(name: str, in_channels: int, seed: int) -> Encoder:
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return create_encoder(name, in_channels=in_channels, **ARGUMENTS.get(name, {}))


_built = functools.lru_cache(maxsize=4)(seeded)


def build(name: str, in_channels: int = 1, seed: int = 0) -> Encoder:
    """A copy of a seeded encoder: drawing weights takes longer than most tests."""
    return copy.deepcopy(_built(name, in_channels, seed))


def volumes(encoder: Encoder, batch: int = 2, seed: int = 0) -> Tensor:
    """Smooth random volumes of two coarsest strides along x, a little less along y and z."""
    x, y, z = (2 * s for s in encoder.feature_info[-1].stride)
    generator = torch.Generator().manual_seed(seed)
    coarse = torch.randn(batch, encoder.in_channels, 4, 4, 4, generator=generator)
    return F.interpolate(coarse, size=(x, y - 3, z - 1), mode="trilinear")


def probe(encoder: Encoder, x: Tensor) -> Tensor:
    """A scalar that depends on all maps and the embedding. Random weights: a norm makes plain sums constant."""
    generator = torch.Generator().manual_seed(1)
    maps = encoder.forward_features(x)
    parts = [*maps, encoder.pool(maps)]
    return sum(((p * torch.randn(p.shape, generator=generator)).mean() for p in parts), torch.zeros(()))


@pytest.mark.parametrize(("in_channels", "size"), [(1, (64, 96, 128)), (3, (70, 65, 90))])
@pytest.mark.parametrize("name", list_encoders())
def test_shapes_follow_feature_info(name: str, in_channels: int, size: tuple[int, int, int]):
    encoder = meta(name, in_channels)
    assert encoder.in_channels == in_channels
    strides = [level.stride for level in encoder.feature_info]
    assert strides == sorted(strides)
    maps = encoder.forward_features(torch.empty(2, in_channels, *size, device="meta"))
    assert len(maps) == len(encoder.feature_info)
    for level, info in zip(maps, encoder.feature_info, strict=True):
        assert level.shape == (2, info.channels, *(-(-n // s) for n, s in zip(size, info.stride, strict=True)))
    assert encoder.pool(maps).shape == (2, encoder.embed_dim)


@pytest.mark.parametrize("name", list_encoders())
def test_optimiser_facts_name_every_parameter_once(name: str):
    encoder = meta(name)
    names = [parameter for parameter, _ in encoder.named_parameters()]
    prefixes = [prefix for group in encoder.layer_groups() for prefix in group]
    owners = {n: [p for p in prefixes if n == p or n.startswith(f"{p}.")] for n in names}
    assert {n: o for n, o in owners.items() if len(o) != 1} == {}
    assert encoder.no_weight_decay() <= set(names)
    assert f"{encoder.stem}.weight" in names
    assert f"{encoder.stem}.weight".startswith(tuple(encoder.layer_groups()[0]))


@pytest.mark.parametrize("name", list_encoders())
def test_name_and_arguments_build_it_again(name: str):
    encoder = meta(name)
    with torch.device("meta"):
        again = create_encoder(encoder.name, in_channels=encoder.in_channels, **encoder.arguments)
    assert {k: v.shape for k, v in encoder.state_dict().items()} == {k: v.shape for k, v in again.state_dict().items()}


@pytest.mark.parametrize("name", NUMERIC)
def test_gradients_reach_every_parameter(name: str):
    encoder = build(name)
    x = volumes(encoder).requires_grad_()
    probe(encoder, x).backward()
    assert x.grad is not None
    assert (x.grad != 0).any()
    without = [n for n, p in encoder.named_parameters() if p.grad is None]
    # Instance norm takes a convolution's bias out again: its gradient is zero but for rounding.
    zero = [n for n, p in encoder.named_parameters() if not n.endswith("conv.bias") and not p.grad.any()]
    assert (without, zero) == ([], [])


@pytest.mark.parametrize("name", NUMERIC)
@torch.no_grad()
def test_a_seed_gives_the_same_encoder(name: str):
    first, second, other = (seeded(name, 1, seed) for seed in (0, 0, 2))
    x = volumes(first)
    assert torch.equal(first(x), second(x))
    assert not torch.allclose(first(x), other(x))


@pytest.mark.parametrize("name", NUMERIC)
@torch.no_grad()
def test_samples_do_not_see_each_other(name: str):
    encoder = build(name)
    x = volumes(encoder, batch=3)
    together = encoder.forward_features(x)
    for i in range(3):
        for whole, alone in zip(together, encoder.forward_features(x[i : i + 1]), strict=True):
            torch.testing.assert_close(whole[i : i + 1], alone, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("name", NUMERIC)
@torch.no_grad()
def test_embeddings_of_different_volumes_differ_from_the_start(name: str):
    encoder = build(name)
    embeddings = encoder(volumes(encoder, batch=6))
    spread = embeddings.std(dim=0).mean() / embeddings.abs().mean()
    similar = F.cosine_similarity(embeddings[:, None], embeddings[None], dim=-1)[~torch.eye(6, dtype=torch.bool)]
    assert spread > 0.05
    assert similar.max() < 0.999


# An encoder for each sequence is filled from bundles one by one, and has no stem to inflate.
@pytest.mark.parametrize("name", [one for one in NUMERIC if one.values != ("per_sequence",)])
@torch.no_grad()
def test_one_sequence_weights_inflate_to_several(name: str):
    one, three = build(name), build(name, in_channels=3, seed=2)
    load_encoder_state(three, one.state_dict())
    x = volumes(one)
    torch.testing.assert_close(three(x.expand(-1, 3, -1, -1, -1)), one(x), atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("name", NUMERIC)
@torch.no_grad()
def test_state_makes_the_round_trip(name: str):
    encoder, other = build(name), build(name, seed=2)
    load_encoder_state(other, encoder.state_dict())
    x = volumes(encoder)
    assert torch.equal(encoder(x), other(x))


@pytest.mark.parametrize("name", NUMERIC)
def test_bfloat16_autocast(name: str):
    encoder = build(name)
    x = volumes(encoder)
    with torch.autocast("cpu", torch.bfloat16):
        half = encoder(x)
        probe(encoder, x).backward()
    full = encoder(x)
    assert F.cosine_similarity(half.float(), full).min() > 0.99
    assert all(p.grad.isfinite().all() for p in encoder.parameters())


@pytest.mark.parametrize("name", NUMERIC)
def test_checkpointing_changes_no_gradient(name: str):
    encoder = build(name)
    x = volumes(encoder)
    gradients = []
    for enable in (False, True):
        encoder.set_grad_checkpointing(enable)
        encoder.zero_grad()
        probe(encoder, x).backward()
        gradients.append([p.grad.clone() for p in encoder.parameters()])
    for plain, recomputed in zip(*gradients, strict=True):
        torch.testing.assert_close(plain, recomputed)


@pytest.mark.parametrize("name", NUMERIC)
@torch.no_grad()
def test_dropping_tokens(name: str):
    encoder = build(name)
    x = volumes(encoder)
    tokens = 8
    if not encoder.supports_token_dropping:
        with pytest.raises(TypeError, match="mask voxels"):
            encoder.forward_tokens(x, torch.arange(tokens).expand(2, -1))
        return
    last = encoder.forward_features(x)[-1].flatten(2).transpose(1, 2)
    everything, embedding = encoder.forward_tokens(x, torch.arange(last.shape[1]).expand(2, -1))
    torch.testing.assert_close(everything, last, atol=1e-5, rtol=1e-4)
    torch.testing.assert_close(embedding, encoder(x), atol=1e-5, rtol=1e-4)

    keep = torch.tensor([[1, 4, 6], [0, 5, 7]])
    some, mean = encoder.forward_tokens(x, keep)
    assert some.shape == (2, 3, encoder.embed_dim)
    torch.testing.assert_close(mean, some.mean(dim=1))
    # Each sample keeps its own tokens, and what was dropped cannot matter.
    px, py, _ = encoder.patch_size
    x[0, :, :px, :py, :3] = 99.0  # token 0, hidden in the first sample
    torch.testing.assert_close(encoder.forward_tokens(x, keep)[0], some)


QUICK = [one.values[0] for one in NUMERIC if not one.marks]
LARGE = [name for name in list_encoders() if name not in QUICK]
COMPILE = """
import sys
import torch
from fomo_ssl.encoders import create_encoder

for name in sys.argv[1:]:
    print(name, flush=True)
    torch.compiler.reset()
    encoder = create_encoder(name)
    stride = encoder.feature_info[-1].stride[0]
    x = torch.randn(1, 1, 2 * stride, 2 * stride - 3, 2 * stride - 1)
    compiled = torch.compile(encoder, backend="eager", fullgraph=True)
    torch.testing.assert_close(compiled(x), encoder(x), atol=1e-4, rtol=1e-4)
"""


@pytest.mark.parametrize("names", [QUICK, pytest.param(LARGE, marks=pytest.mark.slow)], ids=["quick", "large"])
def test_each_is_one_graph_for_the_compiler(names: list[str]):
    """In a process of its own: the run-time shape checks of the test session would break the graph.

    No encoder is excepted. That `compile=true` refuses Swin is no matter of the graph: it compiles blocks one by one,
    and MONAI's are not among those that it knows.
    """
    command = [sys.executable, "-c", COMPILE, *names]
    result = subprocess.run(command, capture_output=True, text=True, timeout=900)
    assert result.returncode == 0, result.stdout + result.stderr[-2000:]
    assert result.stdout.split() == names
