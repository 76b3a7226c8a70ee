"""Whose samples are whose: between ranks and between micro-batches, by place in the order alone."""

from pathlib import Path

import pytest
import torch

from fomo_ssl.core.types import CropBatch, ViewSpec
from fomo_ssl.training.ranks import Ranks
from fomo_ssl.training.source import CropSource, DataConfig


@pytest.fixture
def source(store: Path) -> CropSource:
    views = ViewSpec(n=2, pairing="overlap")
    return CropSource.open(store, DataConfig(held_out=1, workers=0), views, (16, 16, 16), seed=3)


def batches(source: CropSource, start: int, ranks: Ranks) -> list[CropBatch]:
    return list(source.stream(4, 3, start, pytest.fail, ranks))


@pytest.mark.parametrize("world", [2, 4])
@pytest.mark.parametrize("start", [0, 4])
def test_ranks_share_each_step_and_read_what_one_process_reads(source: CropSource, start: int, world: int) -> None:
    alone = batches(source, start, Ranks())
    shared = [batches(source, start, Ranks(rank, world)) for rank in range(world)]
    assert {len(alone), *map(len, shared)} == {(12 - start) // 4}
    for step, whole in enumerate(alone):
        assert whole.indices.tolist() == list(range(start + 4 * step, start + 4 * step + 4))
        for rank in range(world):
            part = shared[rank][step]
            expected = whole.parts(world)[rank]
            for name in ("indices", "keys", "rows", "origins", "scale"):
                assert torch.equal(getattr(part, name), getattr(expected, name)), name
            assert all(torch.equal(a, b) for a, b in zip(part.images, expected.images, strict=True))


def test_parts_keep_the_order_and_every_field(source: CropSource) -> None:
    whole = batches(source, 0, Ranks())[0]
    assert whole.parts(1) == [whole]
    parts = whole.parts(4)
    assert [len(part) for part in parts] == [1, 1, 1, 1]
    for name in ("indices", "keys", "spacing", "paired"):
        assert torch.equal(torch.cat([getattr(part, name) for part in parts]), getattr(whole, name)), name
    for name in ("scale", "offset", "origins", "rows", "sequences"):
        assert torch.equal(torch.cat([getattr(part, name) for part in parts], 1), getattr(whole, name)), name
    assert torch.equal(torch.cat([part.images[1] for part in parts]), whole.images[1])
    with pytest.raises(ValueError, match="4 samples do not make 3 equal parts"):
        whole.parts(3)
