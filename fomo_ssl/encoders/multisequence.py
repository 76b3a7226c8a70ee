"""Late fusion: a one-sequence encoder reads each sequence on its own, and what it says is averaged."""

from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn

from fomo_ssl.encoders.base import Encoder, create_encoder, register_encoder


class LateFusion(Encoder):
    """Wraps a one-sequence encoder for `n_sequences` inputs with shared weights.

    Sequences are folded into the batch; maps and embeddings are combined by their mean or, with `learned`, by a softmax
    of one weight per sequence that starts as the mean. Unlike an inflated stem it sees each sequence as in pretraining,
    at `n_sequences` times the compute. `name` and `arguments` are those of the registered "late_fusion", so that a
    bundle builds it again.
    """

    def __init__(self, encoder: Encoder, n_sequences: int, learned: bool = False) -> None:
        super().__init__()
        if encoder.in_channels != 1:
            raise ValueError(f"late fusion wraps a one-sequence encoder, this one has {encoder.in_channels}")
        self.encoder = encoder
        self.in_channels, self.embed_dim = n_sequences, encoder.embed_dim
        self.feature_info, self.patch_size = encoder.feature_info, encoder.patch_size
        self.stem = f"encoder.{encoder.stem}"
        self.logits = nn.Parameter(torch.zeros(n_sequences)) if learned else None
        self.name = "late_fusion"
        self.arguments = {"encoder": encoder.name, "encoder_args": encoder.arguments, "learned": learned}

    def forward_features(self, x: Float[Tensor, "b c x y z"]) -> list[Float[Tensor, "b _ _ _ _"]]:
        """The wrapped encoder's maps, combined over the sequences."""
        maps = self.encoder.forward_features(x.flatten(0, 1)[:, None])
        return [self._combine(level.reshape(*x.shape[:2], *level.shape[1:])) for level in maps]

    def pool(self, features: list[Float[Tensor, "b _ _ _ _"]]) -> Float[Tensor, "b e"]:
        """The wrapped encoder's embedding of the combined maps."""
        return self.encoder.pool(features)

    def no_weight_decay(self) -> set[str]:
        """Those of the wrapped encoder."""
        return {f"encoder.{name}" for name in self.encoder.no_weight_decay()}

    def layer_groups(self) -> list[list[str]]:
        """Those of the wrapped encoder; the sequence weights go with the last."""
        groups = [[f"encoder.{name}" for name in group] for group in self.encoder.layer_groups()]
        if self.logits is not None:
            groups[-1].append("logits")
        return groups

    def _combine(self, maps: Float[Tensor, "b s c x y z"]) -> Float[Tensor, "b c x y z"]:
        if self.logits is None:
            return maps.mean(dim=1)
        weights = self.logits.softmax(dim=0).to(maps.dtype)
        return (maps * weights[:, None, None, None, None]).sum(dim=1)


@register_encoder("late_fusion")
def late_fusion(
    in_channels: int = 1,
    encoder: str = "vit_t_p8",
    encoder_args: dict[str, Any] | None = None,
    learned: bool = False,
) -> LateFusion:
    """A registered one-sequence `encoder` for each of `in_channels` sequences."""
    return LateFusion(create_encoder(encoder, in_channels=1, **(encoder_args or {})), in_channels, learned)
