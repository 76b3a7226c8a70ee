"""Low-rank updates of attention's linear maps (LoRA, Hu et al. 2021, arXiv 2106.09685), merged away after training."""

import math

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn.utils import parametrize

from fomo_ssl.core.errors import ConfigError
from fomo_ssl.layers.eva import EvaAttention
from fomo_ssl.layers.transformer import Attention


class LowRank(nn.Module):
    """weight + alpha / rank * up down; `up` starts at zero, so the map is the old one at first."""

    def __init__(self, weight: Float[Tensor, "o i"], rank: int, alpha: float, generator: torch.Generator) -> None:
        super().__init__()
        rows, columns = weight.shape
        down = torch.randn(rank, columns, generator=generator) / math.sqrt(columns)
        self.scale = alpha / rank
        self.down = nn.Parameter(down.to(weight))
        self.up = nn.Parameter(weight.new_zeros(rows, rank))

    def forward(self, weight: Float[Tensor, "o i"]) -> Float[Tensor, "o i"]:
        """The weight in use."""
        return weight + self.scale * (self.up @ self.down)


def add_lora(module: nn.Module, rank: int, alpha: float, generator: torch.Generator) -> None:
    """Freeze a module and give every linear map of its attention a trainable low-rank update.

    Args:
        module: a `ViT`, a `Primus` or what holds one.
        rank: of the updates.
        alpha: their scale times `rank`.
        generator: on the CPU, for their start.

    Raises:
        ConfigError: there is no such attention.
    """
    found = [layer for layer in module.modules() if isinstance(layer, Attention | EvaAttention)]
    if not found:
        raise ConfigError(
            "LoRA needs attention of a ViT or Primus, which this encoder lacks", way_out="Set lora_rank=0"
        )
    module.requires_grad_(False)
    for attention in found:
        for linear in attention.children():
            if isinstance(linear, nn.Linear):
                update = LowRank(linear.weight, rank, alpha, generator)
                parametrize.register_parametrization(linear, "weight", update)


def merge_lora(module: nn.Module) -> None:
    """Write the updates into the weights: names and numbers of parameters are those from before `add_lora`."""
    for layer in list(module.modules()):
        if parametrize.is_parametrized(layer, "weight"):
            parametrize.remove_parametrizations(layer, "weight", leave_parametrized=True)
            if "bias" in layer._parameters:  # the weight came back behind it; optimisers and files go by the order
                layer._parameters["bias"] = layer._parameters.pop("bias")
    module.requires_grad_(True)
