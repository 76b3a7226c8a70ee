import torch

from fomo_ssl.objectives.crops import cut


def test_crops_are_slices() -> None:
    image = torch.randn(2, 3, 9, 8, 7)
    corners = torch.tensor([[[0, 0, 0], [5, 3, 1]], [[2, 2, 2], [1, 0, 3]]])
    found = cut(image, corners, (4, 3, 2)).unflatten(0, (2, 2))
    for b in range(2):
        for i, (x, y, z) in enumerate(corners[b].tolist()):
            assert torch.equal(found[b, i], image[b, :, x : x + 4, y : y + 3, z : z + 2])
