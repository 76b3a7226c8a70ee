"""The small networks that contrastive objectives and distillation put on an embedding."""

from jaxtyping import Float
from torch import Tensor, nn

from fomo_ssl.layers.transformer import init_transformer


class Projector(nn.Module):
    """Linear, norm, GELU, linear, as SimCLR's head (Chen et al. 2020, arXiv 2002.05709).

    LayerNorm in place of its batch norm: 3D batches are small, and a sample's loss should not depend on statistics of
    its neighbours.
    """

    def __init__(self, in_dim: int, hidden: int, out_dim: int) -> None:
        super().__init__()
        self.layers = nn.Sequential(
            nn.Linear(in_dim, hidden), nn.LayerNorm(hidden), nn.GELU(), nn.Linear(hidden, out_dim)
        )
        self.apply(init_transformer)

    def forward(self, x: Float[Tensor, "*b d"]) -> Float[Tensor, "*b p"]:
        """Project embeddings, or features at places; not normalised."""
        out: Tensor = self.layers(x)
        return out
