import torch
from hypothesis import given
from hypothesis import strategies as st

from fomo_ssl.layers.tokens import all_tokens, gather_tokens, patchify, token_coordinates, unpatchify

triples = st.tuples(*[st.integers(1, 4)] * 3)


@given(patch=triples, grid=triples, channels=st.integers(1, 3))
def test_patches_go_back_where_they_came_from(patch, grid, channels):
    size = [g * p for g, p in zip(grid, patch, strict=True)]
    x = torch.arange(2 * channels * size[0] * size[1] * size[2]).float().reshape(2, channels, *size)
    patches = patchify(x, patch)
    assert torch.equal(unpatchify(patches, patch, grid), x)
    # The plain definition: token n is the block at its coordinates.
    index = all_tokens(grid, x.device)
    for n, place in zip(index[0].tolist(), token_coordinates(index, grid)[0].long().tolist(), strict=True):
        block = [slice(i * p, (i + 1) * p) for i, p in zip(place, patch, strict=True)]
        assert torch.equal(patches[:, n], x[:, :, block[0], block[1], block[2]].flatten(1))


def test_each_sample_gathers_its_own_tokens():
    tokens = torch.arange(12.0).reshape(2, 3, 2)
    keep = torch.tensor([[2, 0], [1, 1]])
    assert gather_tokens(tokens, keep).tolist() == [[[4, 5], [0, 1]], [[8, 9], [8, 9]]]
