import itertools
import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from fomo_ssl.core.errors import ConfigError
from fomo_ssl.core.seeding import bits, fold
from fomo_ssl.objectives.base import mask_to_voxels
from fomo_ssl.objectives.masking import hidden_count, mask_grid, random_mask

grids = st.tuples(*[st.integers(1, 6)] * 3)
ratios = st.floats(0.0, 1.0)
key_lists = st.lists(st.integers(-(2**63), 2**63 - 1), min_size=1, max_size=4)


def plain_mask(key: int, grid: tuple[int, int, int], ratio: float, block: int) -> torch.Tensor:
    """One sample, unit by unit: order the units by the draw of their block, hide the first."""
    blocks = [math.ceil(n / block) for n in grid]
    draws = bits(torch.tensor([key]), *blocks)[0]
    units = list(itertools.product(*map(range, grid)))
    order = sorted(range(len(units)), key=lambda i: (int(draws[tuple(u // block for u in units[i])]), i))
    mask = torch.zeros(grid, dtype=torch.bool)
    for i in order[: round(ratio * len(units))]:
        mask[units[i]] = True
    return mask


@settings(max_examples=40, deadline=None)
@given(keys=key_lists, grid=grids, ratio=ratios, block=st.integers(1, 3))
def test_equals_the_plain_loop(keys: list[int], grid: tuple[int, int, int], ratio: float, block: int) -> None:
    fast = random_mask(torch.tensor(keys), grid, ratio, block)
    assert torch.equal(fast, torch.stack([plain_mask(key, grid, ratio, block) for key in keys]))


@settings(max_examples=40, deadline=None)
@given(keys=key_lists, grid=grids, ratio=ratios, block=st.integers(1, 3))
def test_every_sample_hides_the_exact_count(
    keys: list[int], grid: tuple[int, int, int], ratio: float, block: int
) -> None:
    mask = random_mask(torch.tensor(keys), grid, ratio, block)
    assert mask.flatten(1).sum(dim=1).tolist() == [hidden_count(grid, ratio)] * len(keys)


@settings(max_examples=20, deadline=None)
@given(keys=st.lists(st.integers(-(2**63), 2**63 - 1), min_size=2, max_size=5), grid=grids, cut=st.integers(1, 4))
def test_a_sample_does_not_depend_on_its_batch(keys: list[int], grid: tuple[int, int, int], cut: int) -> None:
    together = random_mask(torch.tensor(keys), grid, 0.6)
    cut = min(cut, len(keys) - 1)
    parts = [random_mask(torch.tensor(part), grid, 0.6) for part in (keys[:cut], keys[cut:])]
    assert torch.equal(together, torch.cat(parts))


def test_every_unit_is_hidden_equally_often() -> None:
    samples, ratio = 4000, 0.6
    often = random_mask(torch.arange(samples), (3, 4, 5), ratio).float().mean(dim=0)
    spread = math.sqrt(ratio * (1 - ratio) / samples)
    assert (often - ratio).abs().max() < 5 * spread


def test_streams_give_different_masks() -> None:
    keys = torch.arange(8)
    first, second = (random_mask(fold(keys, f"mask/{view}"), (4, 4, 4), 0.5) for view in range(2))
    agreement = (first == second).float().mean()
    assert 0.35 < agreement < 0.65


def test_blocks_are_hidden_whole_but_for_one() -> None:
    mask = random_mask(torch.arange(16), (6, 6, 6), 0.5, block=2)
    counts = mask.float().unfold(1, 2, 2).unfold(2, 2, 2).unfold(3, 2, 2).sum(dim=(4, 5, 6)).flatten(1)
    assert (((counts != 0) & (counts != 8)).sum(dim=1) <= 1).all()


@pytest.mark.parametrize("ratio", [-0.1, 1.1])
def test_an_impossible_ratio_is_refused(ratio: float) -> None:
    with pytest.raises(ConfigError, match="between 0 and 1"):
        random_mask(torch.arange(2), (2, 2, 2), ratio)


@settings(max_examples=30, deadline=None)
@given(size=st.tuples(*[st.integers(1, 12)] * 3), unit=st.tuples(*[st.integers(1, 4)] * 3), key=st.integers(0, 999))
def test_voxels_take_the_value_of_their_unit(size: tuple[int, int, int], unit: tuple[int, int, int], key: int) -> None:
    mask = random_mask(torch.tensor([key]), mask_grid(size, unit), 0.5)
    voxels = mask_to_voxels(mask, unit, size)
    assert voxels.shape == (1, 1, *size)
    for voxel in itertools.product(*map(range, size)):
        assert voxels[0, 0][voxel] == mask[0][tuple(v // u for v, u in zip(voxel, unit, strict=True))]
