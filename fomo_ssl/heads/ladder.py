"""The way from an encoder's maps up to voxels: which levels there are and what each is made of."""

from collections.abc import Sequence
from dataclasses import dataclass

from fomo_ssl.core.types import FeatureInfo, Triple


@dataclass(frozen=True)
class Rung:
    """One level on the way up.

    Attributes:
        channels: width of the decoder at this level.
        stride: voxels of input per voxel.
        maps: positions in the pyramid of the encoder's maps at this stride; empty where it has none.
    """

    channels: int
    stride: Triple
    maps: tuple[int, ...]


def ladder(info: Sequence[FeatureInfo]) -> list[Rung]:
    """The rungs from stride 1 to the coarsest map, finest first.

    A convolutional pyramid gives one rung a map. Maps of one stride (a ViT's) share a rung, and the levels that are
    missing below the finest stride are filled in: strides divided by their smallest prime factors (8, 4, 2, 1), with a
    twelfth of the map's channels at full resolution, but 16 to 32 (each costs as much as hundreds at stride 8), and
    twice as many a level.
    """
    by_stride: dict[Triple, list[int]] = {}
    for position, level in enumerate(info):
        by_stride.setdefault(level.stride, []).append(position)
    rungs = [Rung(info[maps[-1]].channels, stride, tuple(maps)) for stride, maps in by_stride.items()]
    missing: list[Triple] = []
    stride = rungs[0].stride
    while stride != (1, 1, 1):
        x, y, z = (size // _smallest_factor(size) for size in stride)
        stride = (x, y, z)
        missing.append(stride)
    finest = rungs[0].channels
    width = min(max(finest // 12, 16), 32)
    filled = [Rung(min(width * 2**level, finest), stride, ()) for level, stride in enumerate(reversed(missing))]
    return filled + rungs


def step(coarse: Triple, fine: Triple) -> Triple:
    """How many fine voxels lie along each edge of a coarse one."""
    x, y, z = (a // b for a, b in zip(coarse, fine, strict=True))
    return x, y, z


def _smallest_factor(number: int) -> int:
    return next((factor for factor in range(2, number + 1) if number % factor == 0), 1)
