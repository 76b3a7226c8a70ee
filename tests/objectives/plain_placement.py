import torch

from fomo_ssl.core.types import Placement


def as_cut(origins: torch.Tensor, size: tuple[int, int, int]) -> Placement:
    """The placement of crops at corners (v, b, 3) that nothing moved."""
    lattice = torch.stack(torch.meshgrid(*(torch.linspace(0, n - 1, 9) for n in size), indexing="ij"))
    return Placement(origins, lattice.expand(*origins.shape[:2], -1, -1, -1, -1).contiguous())
