"""Primus beside its published sizes; beside the original's numbers in tests/encoders/foreign."""

import itertools

import pytest
import torch
from torch import nn

from fomo_ssl.encoders import create_encoder

EDGE = 160
"""Crop of the published counts."""


def decoder_parameters(dim: int, outputs: int = 1) -> int:
    """Of the original's `PatchDecode` for patches of 8^3: three transposed convolutions 2^3, widths falling evenly on a
    log scale from `dim` to twice the outputs and rounded to multiples of 8, norms after the first two."""
    ratio = (dim / (2 * outputs)) ** (1 / 3)
    widths = [dim, *(int(max(8, round((dim / ratio**step + 1e-6) / 8) * 8)) for step in (1, 2)), outputs]
    count = 0
    for step, (before, after) in enumerate(itertools.pairwise(widths)):
        count += before * after * 8 + after + (2 * after if step < 2 else 0)
    return count


@pytest.mark.parametrize(
    ("name", "transformer", "total"),
    [
        ("primus_s", 25.86, 26.27),
        ("primus_b", 96.88, 97.96),
        ("primus_m", 150.55, 151.79),
        ("primus_l", 330.18, 331.82),
    ],
)
def test_sizes_are_the_published_ones(name: str, transformer: float, total: float) -> None:
    with torch.device("meta"):
        encoder = create_encoder(name)
    assert encoder.positions.shape[2:] == (EDGE // 8,) * 3
    count = {
        part: sum(p.numel() for n, p in encoder.named_parameters() if n.startswith(part)) for part in ("", "patch")
    }
    assert (count[""] - count["patch"]) / 1e6 == pytest.approx(transformer, abs=0.005)
    assert (count[""] + decoder_parameters(encoder.embed_dim)) / 1e6 == pytest.approx(total, abs=0.005)


def tiny(**arguments: object) -> nn.Module:
    torch.manual_seed(0)
    return create_encoder("primus_t", dim=24, depth=4, heads=2, patch_size=4, **arguments).eval()


@torch.no_grad()
def test_a_smaller_grid_reads_the_interpolated_table() -> None:
    large, small = tiny(learned_grid=(6, 6, 4)), tiny(learned_grid=(3, 3, 2))
    state = large.state_dict()
    # Half the grid in every direction: trilinear interpolation is the mean of the eight nearest entries.
    state["positions"] = nn.functional.avg_pool3d(state["positions"], 2)
    small.load_state_dict(state)
    x = torch.randn(1, 1, 12, 12, 8)
    torch.testing.assert_close(large(x), small(x))


def test_sizes_that_cannot_be_are_refused() -> None:
    with pytest.raises(ValueError, match="depth at least 4"):
        create_encoder("primus_t", depth=3)
    with pytest.raises(ValueError, match="multiple of 6"):
        create_encoder("primus_t", heads=6 * 4)
