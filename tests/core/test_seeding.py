import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from fomo_ssl.core import seeding


def test_python_and_torch_mix_give_the_same_bits():
    values = [0, 1, -1, 2**63 - 1, -(2**63), 123456789]
    expected = [seeding.mix(v & (2**64 - 1)) for v in values]
    found = [int(v) & (2**64 - 1) for v in seeding._mix(torch.tensor(values))]
    assert found == expected


def test_splitmix_known_answer():
    # First output of SplitMix64 seeded with 0, from the reference implementation.
    assert seeding.mix(0) == 0xE220A8397B1DCDAF


@given(st.integers(0, 2**32), st.integers(0, 2**40))
def test_keys_are_int64_and_depend_on_seed_index_and_stream(seed: int, index: int):
    key = seeding.sample_key(seed, index)
    assert -(2**63) <= key < 2**63
    others = [
        seeding.sample_key(seed + 1, index),
        seeding.sample_key(seed, index + 1),
        seeding.sample_key(seed, index, "x"),
    ]
    assert key not in others


def test_draws_do_not_depend_on_the_batch():
    keys = torch.tensor([seeding.sample_key(0, i) for i in range(8)])
    whole = seeding.normal(keys, 3, 5)
    for i in range(8):
        torch.testing.assert_close(seeding.normal(keys[i : i + 1], 3, 5)[0], whole[i], rtol=0, atol=0)


def test_streams_are_unrelated():
    keys = torch.arange(2000)
    a = seeding.uniform(seeding.fold(keys, "mask"), 1).flatten()
    b = seeding.uniform(seeding.fold(keys, "crop"), 1).flatten()
    assert abs(np.corrcoef(a, b)[0, 1]) < 0.08


@pytest.mark.parametrize("shape", [(100_000,), (10, 10_001)])
def test_moments(shape: tuple[int, ...]):
    keys = torch.tensor([seeding.sample_key(7, 1), seeding.sample_key(7, 2)])
    u, n = seeding.uniform(keys, *shape, low=-1.0, high=3.0), seeding.normal(keys, *shape)
    assert u.min() >= -1.0
    assert u.max() < 3.0
    assert u.mean().item() == pytest.approx(1.0, abs=0.02)
    assert n.mean().item() == pytest.approx(0.0, abs=0.015)
    assert n.std().item() == pytest.approx(1.0, abs=0.015)
    assert (n.abs() > 3).float().mean().item() == pytest.approx(0.0027, abs=0.0008)


def test_numpy_generator_repeats():
    a = seeding.numpy_generator(3, 4, "x").random(5)
    assert (a == seeding.numpy_generator(3, 4, "x").random(5)).all()
    assert (a != seeding.numpy_generator(3, 5, "x").random(5)).any()
